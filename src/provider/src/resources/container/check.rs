//! What a container's host, as far as it is known, says against its plan.

use protocol::{desired::ObjectKey, observed::Snapshot};
use tfplugin::{Context, Diagnostics, Parsed, path};

use super::Container;

/// Warns of an image that is no more the one which the container was made from.
pub(super) fn warn_of_newer_image(
    label: &str,
    prior: &Container,
    snapshot: &Snapshot,
    context: &Context,
) {
    let (Some(name), Some(digest)) = (prior.image.known(), prior.image_digest.as_deref()) else {
        return;
    };
    if let Some(image) = snapshot.images.get(name.value())
        && image.state.digest != *digest
    {
        context.warn(
            format!("The image of {label} has moved on"),
            format!(
                "{label} was made from {digest}; image {name} is {} by now. It goes on with the tree that it was made from; \
                 `terraform apply -replace=…` makes it anew from the new one.",
                image.state.digest
            ),
        );
    }
}

/// Refuses an image that is neither there nor `expected`. A mistyped name is met far more often than a second
/// configuration of the provider (an alias, a process of its own) that makes the image of this one's container.
pub(super) fn unknown_image(
    host: &str,
    planned: &Container,
    snapshot: &Snapshot,
    expected: impl Fn(&ObjectKey) -> bool,
) -> Result<(), Diagnostics> {
    let Some(image) = planned.image.known().map(Parsed::value) else {
        return Ok(());
    };
    if snapshot.images.contains_key(image) || expected(&ObjectKey::Image(image.clone())) {
        return Ok(());
    }
    let known: Vec<_> = snapshot.images.keys().map(ToString::to_string).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    Err(Diagnostics::error_at(
        path!("image"),
        format!("Unknown image {image}"),
        format!(
            "{host} has no image {image}, and none is planned before this container. Write image = nspawn_image.x.name, and \
             let one configuration of the provider make both. Images there: {known}."
        ),
    ))
}

/// What would fail on this host anyway.
pub(super) fn check_host(
    host: &str,
    planned: &Container,
    snapshot: &Snapshot,
) -> Result<(), Diagnostics> {
    let name = planned.name.known().map_or("", Parsed::text);
    if snapshot
        .foreign_machines
        .iter()
        .any(|machine| machine == name)
    {
        return Err(Diagnostics::error_at(
            path!("name"),
            format!("Name {name} is taken on {host}"),
            format!(
                "A machine {name} that this provider did not make is on {host} (see `machinectl list-images` and /etc/systemd/nspawn there). Choose another name, or remove that machine."
            ),
        ));
    }
    if planned.storage.as_deref() == Some("overlay") && !snapshot.facts.idmapped_overlay {
        return Err(Diagnostics::error_at(
            path!("storage"),
            "Overlays don't work on this host",
            format!(
                "{host} runs kernel {}; overlays on idmapped mounts need 5.19. Write storage = \"copy\".",
                snapshot.facts.kernel
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tfplugin::Attr;

    use super::*;
    use crate::fixture::{self, web};

    fn with_image(digest: &str) -> Snapshot {
        let mut snapshot = fixture::snapshot();
        let image = fixture::image("debian", digest);
        snapshot.images.insert("debian".parse().unwrap(), image);
        snapshot
    }

    #[test]
    fn what_would_fail_on_the_host_fails_in_the_plan() {
        let check = |planned: &Container, snapshot: &Snapshot| {
            check_host("root@a:22", planned, snapshot).map_err(|error| error.to_string())
        };
        let there = with_image("sha256:old");
        assert_eq!(check(&web(), &there), Ok(()));
        let pet = Container {
            name: Attr::Known("pet".parse().unwrap()),
            ..web()
        };
        assert!(check(&pet, &there).unwrap_err().contains("pet is taken"));
        let mut old = there;
        old.facts.idmapped_overlay = false;
        assert!(
            check(&web(), &old)
                .unwrap_err()
                .contains("storage = \"copy\"")
        );
        assert_eq!(
            check(
                &Container {
                    storage: "copy".into(),
                    ..web()
                },
                &old
            ),
            Ok(())
        );
    }

    #[test]
    fn an_image_that_nobody_plans_is_refused() {
        let check = |snapshot: &Snapshot, expected: bool| {
            unknown_image("root@a:22", &web(), snapshot, |_| expected)
                .map_err(|error| error.to_string())
        };
        let empty = fixture::snapshot();
        let refused = check(&empty, false).unwrap_err();
        assert!(refused.contains("Unknown image debian"), "{refused}");
        assert!(refused.contains("Images there: none"), "{refused}");
        assert_eq!(check(&empty, true), Ok(()));
        assert_eq!(check(&with_image("sha256:old"), false), Ok(()));
    }
}
