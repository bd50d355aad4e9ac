//! What the plan of an nspawn_image says beside what follows from its attributes.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use protocol::desired::ObjectKey;
use sha2::{Digest as _, Sha256};
use tfplugin::{Attr, Diagnostics, Plan, path};

use super::{Image, ImageResource, schema::Tarball};
use crate::{
    id::object_id,
    resources::{Managed as _, lifecycle},
};

/// Checks what single attributes can't, as far as it is known yet.
pub(super) fn validate(config: &Image, diagnostics: &mut Diagnostics) {
    if config.debootstrap.both_or_neither(&config.tarball) {
        diagnostics.add_error_at(
            path!("tarball"),
            "One source is needed",
            "Set exactly one of debootstrap and tarball: the first builds the image on the host, the second unpacks a file.",
        );
    }
    if let Some(tarball) = config.tarball.known()
        && tarball.url.both_or_neither(&tarball.path)
    {
        diagnostics.add_error_at(
            path!("tarball", "url"),
            "One place is needed",
            "Set exactly one of tarball.url and tarball.path: the host fetches the first, the second is a file beside this configuration.",
        );
    }
}

impl ImageResource {
    pub(super) async fn adjust(&self, plan: &mut Plan<Self>) -> Result<(), Diagnostics> {
        let mut problems = Diagnostics::new();
        // What was unknown in validation may be known by now.
        validate(&plan.config, &mut problems);
        problems.into_result()?;
        let fresh = plan
            .prior
            .as_ref()
            .is_none_or(|prior| is_remade(prior, &plan.planned));
        settle(&mut plan.planned, &plan.config, fresh);
        let moved = plan
            .prior
            .as_ref()
            .is_none_or(|prior| prior.tarball != plan.planned.tarball);
        if moved && let Some(tarball) = plan.planned.tarball.known() {
            check_file(tarball).await?;
        }
        lifecycle::register(self, plan).map(|_| ())
    }
}

fn settle(planned: &mut Image, config: &Image, fresh: bool) {
    if let Some(host) = planned.host.known_mut() {
        host.settle(&config.host);
    }
    planned.id = match (ImageResource::target(planned), planned.name.known()) {
        (Some(target), Some(name)) => object_id(&target, name).into(),
        _ => Attr::Unknown,
    };
    if fresh {
        planned.digest = Attr::Unknown;
        planned.os = Attr::Unknown;
        planned.size_bytes = Attr::Unknown;
    }
}

/// Whether the apply makes a tree. debootstrap, for one that went missing, makes another one than before.
fn is_remade(prior: &Image, planned: &Image) -> bool {
    let drifted = prior.drift.known().is_some_and(|drift| !drift.is_empty());
    drifted || !same_tree(prior, planned)
}

/// Whether the tree stays what it is: where a tarball comes from makes no difference.
fn same_tree(prior: &Image, planned: &Image) -> bool {
    let sum = |image: &Image| image.tarball.known().map(|tarball| tarball.sha256.clone());
    prior.debootstrap == planned.debootstrap
        && prior.customize == planned.customize
        && prior.tarball.is_known() == planned.tarball.is_known()
        && sum(prior) == sum(planned)
}

/// Finds a wrong file before anything is changed.
async fn check_file(tarball: &Tarball) -> Result<(), Diagnostics> {
    let (Some(file), Some(wanted)) = (tarball.path.cloned(), tarball.sha256.cloned()) else {
        return Ok(());
    };
    let named = file.clone();
    let hashed = tokio::task::spawn_blocking(move || hash(Path::new(&file)))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    match hashed {
        Ok(found) if found == wanted => Ok(()),
        Ok(found) => Err(Diagnostics::error_at(
            path!("tarball", "sha256"),
            "Wrong SHA-256",
            format!(
                "tarball.sha256 is {wanted}, but {named} hashes to {found}. If the file is the right one, write sha256 = filesha256({named:?})."
            ),
        )),
        Err(error) => Err(Diagnostics::error_at(
            path!("tarball", "path"),
            "Unreadable tarball",
            format!(
                "tarball.path: {named} can't be read: {error}. Relative paths begin where terraform runs; \"${{path.module}}/…\" begins beside the configuration."
            ),
        )),
    }
}

fn hash(file: &Path) -> io::Result<String> {
    let (mut hasher, mut file) = (Sha256::new(), File::open(file)?);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let mut digits = String::with_capacity(64);
    for byte in hasher.finalize() {
        // Writing to a String can't fail.
        let _ = write!(digits, "{byte:02x}");
    }
    Ok(digits)
}

/// The name of the image on its host.
pub(super) fn key(model: &Image) -> Option<ObjectKey> {
    Some(ObjectKey::Image(model.name.known()?.value().clone()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::resources::image::schema::Debootstrap;

    fn tarball(url: Attr<String>, path: Attr<String>) -> Attr<Tarball> {
        Attr::Known(Tarball {
            url,
            path,
            sha256: "0".repeat(64).into(),
        })
    }

    #[test]
    fn exactly_one_source_and_one_place() {
        let debootstrap = || Attr::Known(Debootstrap::default());
        for (debootstrap, tarball, errors) in [
            (debootstrap(), Attr::Null, 0),
            (Attr::Null, tarball("https://a".into(), Attr::Null), 0),
            (Attr::Null, tarball(Attr::Null, Attr::Unknown), 0),
            (Attr::Unknown, Attr::Null, 0),
            (Attr::Unknown, Attr::Unknown, 0),
            (debootstrap(), Attr::Unknown, 0),
            (Attr::Unknown, tarball("https://a".into(), Attr::Unknown), 0),
            (Attr::Null, tarball(Attr::Unknown, Attr::Unknown), 0),
            (Attr::Null, Attr::Null, 1),
            (debootstrap(), tarball("https://a".into(), Attr::Null), 1),
            (Attr::Null, tarball(Attr::Null, Attr::Null), 1),
            (debootstrap(), tarball("https://a".into(), "b".into()), 2),
        ] {
            let mut diagnostics = Diagnostics::new();
            validate(
                &Image {
                    debootstrap,
                    tarball,
                    ..Image::default()
                },
                &mut diagnostics,
            );
            assert_eq!(diagnostics.iter().count(), errors, "{diagnostics}");
        }
    }

    #[tokio::test]
    async fn a_local_file_is_hashed_in_the_plan() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"tar").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let right = hash(file.path()).unwrap();
        let tarball = |sha256: &str, path: &str| Tarball {
            url: Attr::Null,
            path: path.into(),
            sha256: sha256.into(),
        };
        assert!(check_file(&tarball(&right, &path)).await.is_ok());
        let wrong = "0".repeat(64);
        let error = check_file(&tarball(&wrong, &path))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&right) && error.contains(&wrong) && error.contains("tarball.sha256")
        );
        let error = check_file(&tarball(&right, "/nonexistent/x.tar"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("tarball.path"));
    }

    #[test]
    fn a_tree_that_went_missing_is_made_anew() {
        let whole = Image {
            debootstrap: Attr::Known(Debootstrap::default()),
            drift: vec![].into(),
            ..Image::default()
        };
        let missing = Image {
            drift: vec!["its tree is missing".to_owned()].into(),
            ..whole.clone()
        };
        assert!(!is_remade(&whole, &whole) && is_remade(&missing, &whole));
    }

    #[test]
    fn a_tree_is_the_same_wherever_its_tarball_comes_from() {
        let image = |tarball| Image {
            tarball,
            ..Image::default()
        };
        let (url, path) = (
            tarball("https://a".into(), Attr::Null),
            tarball(Attr::Null, "a".into()),
        );
        assert!(same_tree(&image(url.clone()), &image(path)));
        assert!(!same_tree(&image(url.clone()), &image(Attr::Null)));
        let customized = Image {
            customize: vec!["true".to_owned()].into(),
            ..image(url.clone())
        };
        assert!(!same_tree(&image(url), &customized));
    }
}
