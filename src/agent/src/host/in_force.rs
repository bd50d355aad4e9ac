//! Which agent is in force on this host: the one that its units run. It says so in /etc/nspawn-agent/release,
//! a line with its release and nothing else: agents of any release, before and after this one, read that.

use std::{cmp::Ordering, path::Path};

use protocol::{Failure, FailureKind, RELEASE, desired::ObjectKey, release};

use super::install;
use crate::{
    context::Context,
    lock::HostLock,
    reconcile::{Observation, Scope, reconcile},
    system::files::{self, OwnFile},
};

/// The file, beside the objects.
const FILE: &str = "release";

/// How the agent in force stands to this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InForce {
    /// It is this one.
    This,
    /// Another build of the same release; or it isn't known, or gone.
    OtherBuild,
    /// One of this earlier release.
    Older(String),
    /// One of this later release.
    Newer(String),
}

impl InForce {
    /// What the drift says; an older release is told by its number.
    pub fn sentence(&self) -> Option<String> {
        (*self == Self::OtherBuild).then(|| {
            format!("the agent in force is not this provider's build of nspawn-agent {RELEASE}")
        })
    }
}

/// The agent in force; none on a machine that is no host of ours.
pub fn of_host(context: &Context) -> Result<Option<InForce>, Failure> {
    // A file of any form will do: what an agent of a later release keeps there may not be readable.
    if !context.store.folder().join("host.json").exists() {
        return Ok(None);
    }
    Ok(Some(compare(recorded(context)?, install::is_in_force())))
}

fn compare(recorded: Option<String>, this_runs: bool) -> InForce {
    match recorded.map(|other| (release::compared(&other), other)) {
        Some((Ordering::Greater, other)) => InForce::Newer(other),
        Some((Ordering::Less, other)) => InForce::Older(other),
        Some((Ordering::Equal, _)) if this_runs => InForce::This,
        _ => InForce::OtherBuild,
    }
}

fn recorded(context: &Context) -> Result<Option<String>, Failure> {
    let text = files::read(&context.store.folder().join(FILE))?;
    Ok(text.map(|text| String::from_utf8_lossy(&text).trim().to_owned()))
}

/// The release in force; on a machine that is no host of ours, the one that would be.
pub fn release(context: &Context) -> Result<String, Failure> {
    Ok(match of_host(context)? {
        Some(InForce::Older(other) | InForce::Newer(other)) => other,
        _ => RELEASE.to_owned(),
    })
}

/// Writes down this release; before its agent is in force, so that no older one is let in once it is.
pub fn record(context: &Context) -> Result<(), Failure> {
    let folder = context.store.folder();
    files::create_folder(folder, 0o700)?;
    files::replace(&folder.join(FILE), format!("{RELEASE}\n").as_bytes(), 0o644)
}

/// The host is to be no more.
pub fn forget(context: &Context) -> Result<(), Failure> {
    context.store.remove_beside(FILE)
}

/// Refuses when the host is a later release's: this one may not understand what that wrote.
pub fn refuse_newer(context: &Context) -> Result<(), Failure> {
    match of_host(context)? {
        Some(InForce::Newer(other)) => Err(newer(&other, &context.store.folder().join(FILE))),
        _ => Ok(()),
    }
}

fn newer(other: &str, file: &Path) -> Failure {
    Failure::new(
        FailureKind::Unsupported,
        format!("this host is managed by nspawn-agent {other}, and this provider brings the older {RELEASE}"),
    )
    .help(format!(
        "Upgrade the provider: version = \">= {other}\" in required_providers, and terraform init -upgrade. \
         To go back to {RELEASE} on purpose, remove {} on the host, and apply.",
        file.display()
    ))
}

/// Refuses a change by an agent that may not write what the one in force keeps: only a change of the
/// host itself, which its plan shows, puts a later release in force. Tells whether this agent takes over.
pub fn admit(context: &Context, key: &ObjectKey) -> Result<bool, Failure> {
    refuse_newer(context)?;
    match of_host(context)? {
        Some(InForce::Older(other)) if *key != ObjectKey::Host => Err(older(&other)),
        in_force => Ok(in_force.is_some_and(|in_force| in_force != InForce::This)),
    }
}

fn older(other: &str) -> Failure {
    Failure::new(
        FailureKind::Unsupported,
        format!("this host is managed by nspawn-agent {other}, and this provider brings the newer {RELEASE}"),
    )
    .help(format!(
        "Apply the nspawn_host of this machine with this provider first, which puts the newer agent in force and \
         restarts no container; or keep the provider at {other} in required_providers."
    ))
    .at("host")
}

/// Lets the resident service take up this agent, which has just been put in force, unless that was
/// told already, and brings all files to what it writes.
pub async fn take_over(context: &Context, told: bool) -> Result<(), Failure> {
    context.progress(format!("nspawn-agent {RELEASE} is in force now"));
    if !told {
        install::start(context).await?;
    }
    install::taken_up(context).await?;
    let _lock = HostLock::take(context).await?;
    // An object that can't be mended says so itself, and the resident tries again.
    if let Err(failure) = reconcile(context, &Scope::All).await {
        context.progress(format!("not all is well on this host: {failure}"));
    }
    Ok(())
}

/// Another agent may write the same files differently: that is no drift, and goes when this one is
/// in force.
pub fn pass_over_differences(context: &Context, observed: &mut Observation) -> Result<(), Failure> {
    if of_host(context)?.is_none_or(|in_force| in_force == InForce::This) {
        return Ok(());
    }
    let host = observed.host.files.iter_mut().map(|(_, file)| file);
    let machines = observed.containers.machines.values_mut();
    let machines = machines.flat_map(|machine| [&mut machine.settings, &mut machine.drop_in]);
    for file in host
        .chain(machines)
        .filter(|file| **file == OwnFile::Differs)
    {
        *file = OwnFile::Same;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_follows_from_the_file_and_the_link() {
        let of = |recorded: &str, this_runs| compare(Some(recorded.to_owned()), this_runs);
        assert_eq!(of(RELEASE, true), InForce::This);
        assert_eq!(of(RELEASE, false), InForce::OtherBuild);
        assert_eq!(compare(None, true), InForce::OtherBuild);
        for this_runs in [true, false] {
            assert_eq!(of("0.0.9", this_runs), InForce::Older("0.0.9".to_owned()));
            assert_eq!(of("99.0.0", this_runs), InForce::Newer("99.0.0".to_owned()));
        }
    }

    #[test]
    fn an_older_provider_hears_what_to_do() {
        let failure = newer("99.0.0", Path::new("/etc/nspawn-agent/release"));
        assert!(failure.message.contains("99.0.0") && failure.message.contains(RELEASE));
        let help = failure.help.unwrap();
        assert!(
            help.contains(">= 99.0.0") && help.contains("/etc/nspawn-agent/release"),
            "{help}"
        );
    }
}
