//! What the plan of an nspawn_container says beside what follows from its attributes.

use protocol::{desired::ObjectKey, observed::Status};
use tfplugin::{Attr, Context, Diagnostics, Plan, path};

use texts::nspawn::Settings;

use super::{
    Container, ContainerResource,
    check::{check_host, unknown_image, warn_of_newer_image},
};
use crate::{
    id::object_id,
    resources::{Managed as _, lifecycle},
};

/// Checks what single attributes can't, as far as it is known yet.
pub(super) fn validate(config: &Container, diagnostics: &mut Diagnostics) {
    if config
        .root_password_wo
        .just_one(&config.root_password_wo_version)
    {
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
    if config.dns_servers.is_known() && config.nspawn_config.known().is_some_and(own) {
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
        let mut problems = Diagnostics::new();
        // What was unknown in validation may be known by now.
        validate(&plan.config, &mut problems);
        problems.into_result()?;
        settle(&mut plan.planned, &plan.config);
        let registered = lifecycle::register(self, plan)?;
        if plan.is_replace()
            && let Some(prior) = &plan.prior
        {
            destroyable(prior)?;
        }
        let label = Self::label(&plan.planned);
        // The second half of `-replace=…` or of replace_triggered_by, which the first half doesn't tell of.
        if plan.is_create() && plan.private.protected {
            return Err(is_protected(&label));
        }
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
        let Some((target, _)) = registered else {
            return Ok(());
        };
        let Some(snapshot) = self.hosts.peek(&target) else {
            return Ok(());
        };
        if plan.is_create() {
            let host = target.to_string();
            let expected = |image: &ObjectKey| self.hosts.planned.expects(&target, image);
            check_host(&host, &plan.planned, &snapshot)?;
            unknown_image(&host, &plan.planned, &snapshot, expected)?;
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

/// Refuses to destroy a protected container.
pub(super) fn destroyable(prior: &Container) -> Result<(), Diagnostics> {
    if prior.delete_protection != Attr::Known(true) {
        return Ok(());
    }
    Err(is_protected(&ContainerResource::label(prior)))
}

fn is_protected(label: &str) -> Diagnostics {
    Diagnostics::error_at(
        path!("delete_protection"),
        format!("The {label} is protected"),
        "Its delete_protection is true, so that it can be neither destroyed nor replaced. Set delete_protection = false and apply that first. \
                 If it is tainted because its creation failed, run `terraform untaint` before.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::web;

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
            (Attr::Unknown, false),
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
            (Attr::Unknown, Attr::Null, false),
            (Attr::Null, Attr::Unknown, false),
            (Attr::Unknown, Attr::Unknown, false),
            (password(), Attr::Unknown, false),
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
