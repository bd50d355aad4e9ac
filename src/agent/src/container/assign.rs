//! What the host chooses for a new container, once it is sure that the name is free.

use std::{fs, ops::Range, os::unix::fs::MetadataExt as _, path::Path};

use protocol::{
    Failure, FailureKind,
    desired::{Container, Storage},
    name::MachineName,
};

use super::{Assigned, observe, paths::Paths, user_ids};
use crate::{
    context::Context,
    filter::port,
    host::facts::at_least,
    reconcile::Scope,
    store::Inventory,
    system::files::{self, OwnFile},
};

/// Chooses what the host chooses for a new container.
pub async fn assign(
    context: &Context,
    inventory: &Inventory,
    container: &Container,
) -> Result<Assigned, Failure> {
    let image = inventory.images.get(&container.image).ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!("there is no image {} on this host", container.image),
        )
        .help("Create an nspawn_image of that name first: image = nspawn_image.example.name")
        .at("image")
    })?;
    refuse_foreign(context, inventory, container).await?;
    refuse_same_port(inventory, &container.name)?;
    let kernel = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    if container.storage == Storage::Overlay && !at_least(&kernel, (5, 19)) {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "the host's kernel {kernel} can't share images by overlays; that needs Linux 5.19"
            ),
        )
        .help("Set storage = \"copy\", or install a newer kernel on the host.")
        .at("storage"));
    }
    Ok(Assigned {
        uid_base: if container.private_users {
            uid_base(inventory)?
        } else {
            0
        },
        image_digest: image.assigned.digest.clone(),
    })
}

/// Refuses a name under which somebody else's machine, settings or drop-in is there.
async fn refuse_foreign(
    context: &Context,
    inventory: &Inventory,
    container: &Container,
) -> Result<(), Failure> {
    let name = &container.name;
    let observed = observe(context, inventory, &Scope::Container(name.clone())).await?;
    let drop_in = Paths::of(name).drop_in();
    let is_foreign = observed
        .foreign
        .iter()
        .any(|foreign| foreign == name.as_str());
    if !is_foreign && files::compare(&drop_in, "")? != OwnFile::Foreign {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Conflict,
        format!("there is a machine {name} on this host that nspawn-agent didn't make"),
    )
    .help(format!(
        "Choose another name, or remove that machine: /var/lib/machines/{name}, \
         /etc/systemd/nspawn/{name}.nspawn, {}",
        drop_in.display()
    ))
    .at("name"))
}

/// Refuses a name whose link would be called as another container's: the host would take the one for the other.
fn refuse_same_port(inventory: &Inventory, name: &MachineName) -> Result<(), Failure> {
    let port = port::name(name);
    let mut others = inventory.containers.keys().filter(|other| *other != name);
    match others.find(|other| port::name(other) == port) {
        None => Ok(()),
        Some(other) => Err(Failure::new(
            FailureKind::Conflict,
            format!(
                "{name} and the container {other} would both have the interface {port} on the host"
            ),
        )
        .help("Choose another name: systemd-nspawn shortens those of more than 12 characters.")
        .at("name")),
    }
}

fn uid_base(inventory: &Inventory) -> Result<u32, Failure> {
    let mut in_use: Vec<Range<u32>> = inventory
        .containers
        .values()
        .map(|stored| {
            stored.assigned.uid_base..stored.assigned.uid_base.saturating_add(user_ids::COUNT)
        })
        .filter(|range| range.start > 0)
        .collect();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = files::read(Path::new(file))?.unwrap_or_default();
        in_use.extend(user_ids::parse_subordinate_ids(&String::from_utf8_lossy(
            &text,
        )));
    }
    in_use.extend(ranges_of_others()?);
    user_ids::allocate(&in_use).ok_or_else(|| {
        Failure::new(
            FailureKind::Unsupported,
            "every range of user ids for containers is in use",
        )
        .help("Remove containers, or ranges in /etc/subuid that nobody needs.")
    })
}

/// Ranges that other machines have by their settings, or by what `-U` picked for their trees.
fn ranges_of_others() -> Result<Vec<Range<u32>>, Failure> {
    let mut ranges = Vec::new();
    for folder in ["/etc/systemd/nspawn", "/var/lib/machines"] {
        for name in files::names(Path::new(folder))? {
            let path = Path::new(folder).join(name);
            // Somebody may have removed it since.
            let Ok(found) = fs::symlink_metadata(&path) else {
                continue;
            };
            if found.is_dir() && found.uid() > 0 {
                let base = found.uid() & !(user_ids::COUNT - 1);
                ranges.push(base..base.saturating_add(user_ids::COUNT));
            } else if found.is_file() && path.extension().is_some_and(|end| end == "nspawn") {
                let text = files::read(&path)?.unwrap_or_default();
                ranges.extend(texts::nspawn::private_users(&String::from_utf8_lossy(
                    &text,
                )));
            }
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn no_two_containers_have_one_link() {
        let long: MachineName = "thirteen-byte1".parse().unwrap();
        // Its whole name is what the long one's is shortened to.
        let short = port::name(&long);
        let short: MachineName = short.strip_prefix("vb-").unwrap().parse().unwrap();
        let inventory = testing::inventory(&[long.as_str(), "web"], &[]);
        for name in [&long, &"thirteen-byte2".parse().unwrap()] {
            refuse_same_port(&inventory, name).unwrap();
        }
        let failure = refuse_same_port(&inventory, &short).unwrap_err();
        assert!(failure.message.contains(long.as_str()), "{failure}");
    }
}
