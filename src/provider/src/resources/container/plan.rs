//! What the plan of an nspawn_container says beside what follows from its attributes.

use protocol::{
    desired::ObjectKey,
    observed::{Snapshot, Status},
};
use tfplugin::{Attr, Context, Diagnostics, Parsed, Plan, path};

use texts::nspawn::Settings;

use super::{Container, ContainerResource};
use crate::{
    id::object_id,
    resources::{Managed as _, lifecycle},
};

/// Checks what single attributes can't.
pub(super) fn validate(config: &Container, diagnostics: &mut Diagnostics) {
    if config.root_password_wo.is_set() != config.root_password_wo_version.is_set() {
        diagnostics.add_error_at(
            path!("root_password_wo_version"),
            "Password and version go together",
            "Set both root_password_wo and root_password_wo_version, or neither: the password is never stored, so that a change of root_password_wo_version tells that it is to be set anew.",
        );
    }
    let own = |settings: &Settings| {
        settings
            .get("Exec")
            .is_some_and(|exec| exec.contains_key("ResolvConf"))
    };
    if config.dns_servers.is_set() && config.nspawn_config.known().is_some_and(own) {
        diagnostics.add_error_at(
            path!("nspawn_config"),
            "Two ways to set name servers",
            "nspawn_config sets Exec.ResolvConf, and dns_servers is set too. Keep one of them.",
        );
    }
}

impl ContainerResource {
    pub(super) fn adjust(
        &self,
        plan: &mut Plan<Self>,
        context: &Context,
    ) -> Result<(), Diagnostics> {
        settle(&mut plan.planned, &plan.config);
        if plan.is_replace()
            && let Some(prior) = &plan.prior
        {
            destroyable(prior)?;
        }
        let label = Self::label(&plan.planned);
        if let Some(prior) = plan.prior.as_ref().filter(|_| !plan.is_replace()) {
            let restart = restarts(prior, &plan.planned);
            settle_status(prior, &mut plan.planned, !restart.is_empty());
            if !restart.is_empty() {
                context.warn(
                    format!("The {label} will be restarted"),
                    format!(
                        "{label} is running, and a change of {} takes effect at a start.",
                        restart.join(", ")
                    ),
                );
            }
        }
        let Some((target, _)) = lifecycle::register(self, plan)? else {
            return Ok(());
        };
        let Some(snapshot) = self.hosts.peek(&target) else {
            return Ok(());
        };
        if plan.is_create() {
            let host = target.to_string();
            let expected = |image: &ObjectKey| self.hosts.planned.expects(&target, image);
            check_host(&host, &plan.planned, &snapshot)?;
            if let Some((summary, detail)) =
                unknown_image(&host, &plan.planned, &snapshot, expected)
            {
                context.warn_at(path!("image"), summary, detail);
            }
        } else if let Some(prior) = plan.prior.as_ref().filter(|_| !plan.is_replace()) {
            warn_of_newer_image(&label, prior, &snapshot, context);
        }
        Ok(())
    }
}

fn settle(planned: &mut Container, config: &Container) {
    if let Some(host) = planned.host.known_mut() {
        host.settle(&config.host);
    }
    planned.id = match (ContainerResource::target(planned), planned.name.known()) {
        (Some(target), Some(name)) => object_id(&target, name).into(),
        _ => Attr::Unknown,
    };
    if config.hostname.is_null() {
        // Every machine name is a host name.
        planned.hostname = match planned.name.known().map(|name| name.text().parse()) {
            Some(Ok(hostname)) => Attr::Known(hostname),
            _ => Attr::Unknown,
        };
    }
}

/// The attributes whose change restarts the guest that runs.
fn restarts(prior: &Container, planned: &Container) -> Vec<&'static str> {
    let up = matches!(prior.status.as_deref(), Some("running" | "degraded"));
    if !up || planned.running != Attr::Known(true) {
        return Vec::new();
    }
    [
        ("hostname", prior.hostname != planned.hostname),
        ("ephemeral", prior.ephemeral != planned.ephemeral),
        (
            "nspawn_config",
            prior.nspawn_config != planned.nspawn_config,
        ),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

/// A status that will change is unknown; that alone makes an apply that mends it.
fn settle_status(prior: &Container, planned: &mut Container, restart: bool) {
    let status = prior.status.as_deref();
    let settled = match planned.running.known() {
        Some(true) => [Status::Running, Status::Degraded]
            .iter()
            .any(|good| status == Some(good.as_str())),
        Some(false) => [Status::Stopped, Status::Failed]
            .iter()
            .any(|good| status == Some(good.as_str())),
        None => false,
    };
    if restart || !settled {
        planned.status = Attr::Unknown;
    }
}

fn warn_of_newer_image(label: &str, prior: &Container, snapshot: &Snapshot, context: &Context) {
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

/// A warning of an image that is neither there nor `expected`. No error: another configuration of the
/// provider (an alias) is a process of its own, and may plan it.
fn unknown_image(
    host: &str,
    planned: &Container,
    snapshot: &Snapshot,
    expected: impl Fn(&ObjectKey) -> bool,
) -> Option<(String, String)> {
    let image = planned.image.known().map(Parsed::value)?;
    if snapshot.images.contains_key(image) || expected(&ObjectKey::Image(image.clone())) {
        return None;
    }
    let known: Vec<_> = snapshot.images.keys().map(ToString::to_string).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    let label = ContainerResource::label(planned);
    Some((
        format!("Unknown image {image} of {label}"),
        format!(
            "{host} has no image {image}, and this configuration of the provider plans none before {label}. Unless another one, \
             or somebody else, makes it before, the apply will fail. Write image = nspawn_image.x.name. Images there: {known}."
        ),
    ))
}

/// What would fail on this host anyway.
fn check_host(host: &str, planned: &Container, snapshot: &Snapshot) -> Result<(), Diagnostics> {
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

/// Refuses to destroy a protected container.
pub(super) fn destroyable(prior: &Container) -> Result<(), Diagnostics> {
    if prior.delete_protection != Attr::Known(true) {
        return Ok(());
    }
    let label = ContainerResource::label(prior);
    Err(Diagnostics::error_at(
        path!("delete_protection"),
        format!("The {label} is protected"),
        "Its delete_protection is true, so that it can be neither destroyed nor replaced. Set delete_protection = false and apply that first. \
                 If it is tainted because its creation failed, run `terraform untaint` before.",
    ))
}

#[cfg(test)]
mod tests {
    use protocol::observed::{ImageState, Observed, Owner};

    use super::*;
    use crate::{connection::Target, fixture};

    fn web() -> Container {
        Container {
            host: Attr::Known((&Target::new("203.0.113.1")).into()),
            name: Attr::Known("web".parse().unwrap()),
            image: Attr::Known("debian".parse().unwrap()),
            hostname: Attr::Known("web".parse().unwrap()),
            running: true.into(),
            storage: "overlay".into(),
            status: "running".into(),
            image_digest: "sha256:old".into(),
            ..Container::default()
        }
    }

    fn with_image(digest: &str) -> Snapshot {
        let mut snapshot = fixture::snapshot();
        let image = Observed {
            desired: protocol::desired::Image {
                name: "debian".parse().unwrap(),
                source: protocol::desired::ImageSource::Tarball(protocol::desired::Tarball {
                    location: protocol::desired::TarballLocation::Path("a".into()),
                    sha256: "0".repeat(64),
                }),
                customize: None,
                timeouts: None,
            },
            owner: Owner {
                token: fixture::token('b'),
                claimed: true,
                holder: None,
            },
            state: ImageState {
                digest: digest.into(),
                os: String::new(),
                size_bytes: 0,
            },
            drift: vec![],
        };
        snapshot.images.insert("debian".parse().unwrap(), image);
        snapshot
    }

    #[test]
    fn the_host_name_follows_the_name_unless_it_is_written() {
        let mut planned = Container {
            hostname: Attr::Unknown,
            ..web()
        };
        settle(&mut planned, &Container::default());
        assert_eq!(planned.hostname.known().unwrap().text(), "web");
        assert_eq!(planned.id.as_deref(), Some("root@203.0.113.1:22/web"));
        let written = Container {
            hostname: Attr::Known("www".parse().unwrap()),
            ..web()
        };
        let mut planned = written.clone();
        settle(&mut planned, &written);
        assert_eq!(
            planned,
            Container {
                id: planned.id.clone(),
                ..written
            }
        );
    }

    #[test]
    fn only_a_running_guest_is_restarted_and_only_by_some_attributes() {
        let renamed = Container {
            hostname: Attr::Known("www".parse().unwrap()),
            ..web()
        };
        assert_eq!(restarts(&web(), &renamed), ["hostname"]);
        assert!(
            restarts(
                &Container {
                    status: "stopped".into(),
                    ..web()
                },
                &renamed
            )
            .is_empty()
        );
        assert!(
            restarts(
                &web(),
                &Container {
                    running: false.into(),
                    ..renamed
                }
            )
            .is_empty()
        );
        assert!(
            restarts(
                &web(),
                &Container {
                    memory: Attr::Known("1G".parse().unwrap()),
                    ..web()
                }
            )
            .is_empty()
        );
    }

    #[test]
    fn a_status_is_known_where_it_stays() {
        for (status, running, restart, known) in [
            ("running", true, false, true),
            ("degraded", true, false, true),
            ("running", true, true, false),
            ("running", false, false, false),
            ("stopped", true, false, false),
            ("failed", true, false, false),
            ("stopped", false, false, true),
        ] {
            let prior = Container {
                status: status.into(),
                ..web()
            };
            let mut planned = Container {
                running: running.into(),
                ..prior.clone()
            };
            settle_status(&prior, &mut planned, restart);
            assert_eq!(
                planned.status.is_known(),
                known,
                "{status} {running} {restart}"
            );
        }
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
    fn an_image_that_only_another_process_may_plan_is_warned_of() {
        let warning = |snapshot: &Snapshot, expected: bool| {
            unknown_image("root@a:22", &web(), snapshot, |_| expected)
        };
        let empty = fixture::snapshot();
        assert_eq!(check_host("root@a:22", &web(), &empty), Ok(()));
        let (summary, detail) = warning(&empty, false).unwrap();
        assert_eq!(summary, "Unknown image debian of container web");
        assert!(detail.contains("Images there: none"), "{detail}");
        assert_eq!(warning(&empty, true), None);
        assert_eq!(warning(&with_image("sha256:old"), false), None);
    }

    #[test]
    fn a_protected_container_is_not_destroyed() {
        assert!(destroyable(&web()).is_ok());
        assert!(
            destroyable(&Container {
                delete_protection: true.into(),
                ..web()
            })
            .is_err()
        );
    }

    #[test]
    fn name_servers_are_set_in_one_way() {
        let settings = Settings::from([(
            "Exec".into(),
            [("ResolvConf".into(), vec!["off".into()])].into(),
        )]);
        for (servers, errors) in [
            (Attr::Null, false),
            (vec!["2001:db8::53".parse().unwrap()].into(), true),
        ] {
            let mut diagnostics = Diagnostics::new();
            let config = Container {
                dns_servers: servers,
                nspawn_config: settings.clone().into(),
                ..web()
            };
            validate(&config, &mut diagnostics);
            assert_eq!(diagnostics.has_errors(), errors);
        }
    }

    #[test]
    fn a_password_needs_its_version() {
        let password = || Attr::Known(tfplugin::Secret::new("x"));
        for (password, version, errors) in [
            (Attr::Null, Attr::Null, false),
            (password(), 1.into(), false),
            (Attr::Unknown, 1.into(), false),
            (password(), Attr::Null, true),
            (Attr::Null, 1.into(), true),
        ] {
            let mut diagnostics = Diagnostics::new();
            let config = Container {
                root_password_wo: password,
                root_password_wo_version: version,
                ..web()
            };
            validate(&config, &mut diagnostics);
            assert_eq!(diagnostics.has_errors(), errors);
        }
    }
}
