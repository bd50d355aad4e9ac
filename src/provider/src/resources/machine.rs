//! An object stays on its machine: what a configuration that has it on another one comes to.

use protocol::observed::Snapshot;
use tfplugin::Plan;

use super::Managed;
use crate::{
    connection::{CallError, ConnectionErrorKind, Target},
    failure::Place,
};

/// What to do when the configuration has an object on another machine.
const NOT_MOVED: &str = "An object stays on its machine, and nothing of it was changed. To have it made anew on the other one and \
     destroyed where it is, with all that is in it, run: terraform apply -replace=ADDRESS, where ADDRESS is that of this resource. \
     Otherwise correct host.address.";

/// Whether the configuration has the object on a machine other than the one that it was read on: it is made anew there,
/// and destroyed where it was. Of a host that was not read that isn't known: then the update finds out.
pub(super) fn goes_to_another_machine<R: Managed>(
    resource: &R,
    plan: &Plan<R>,
    target: &Target,
) -> bool {
    let hosts = resource.hosts();
    let Some(prior) = &plan.prior else {
        return false;
    };
    let (Some(from), Some(key)) = (R::target(prior), R::key(prior)) else {
        return false;
    };
    // What is planned once more in the apply has to stay what it was.
    if R::PLACE == Place::Own || !hosts.planned.has_read(R::NAME, &from, &key) {
        return false;
    }
    let there = hosts.peek(target);
    is_another(plan.private.machine_id.as_deref(), there.as_deref())
}

fn is_another(known: Option<&str>, there: Option<&Snapshot>) -> bool {
    let there = there.map(|snapshot| snapshot.facts.machine_id.as_str());
    known.is_some() && there.is_some() && known != there
}

/// Says what an object's own change of its host comes to, which the plan couldn't know.
pub(super) fn elsewhere<R: Managed>(
    error: CallError,
    prior: &R::Model,
    target: &Target,
) -> CallError {
    let is_elsewhere = |from: Target| from.identity() != target.identity();
    let is_moved = R::PLACE == Place::Host && R::target(prior).is_some_and(is_elsewhere);
    match error {
        CallError::Connection(error)
            if is_moved && error.kind == ConnectionErrorKind::AnotherMachine =>
        {
            error.help(NOT_MOVED).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use tfplugin::path;

    use super::*;
    use crate::{
        failure::diagnostics, fixture, hosts::same_machine, resources::container::ContainerResource,
    };

    #[test]
    fn only_a_host_that_was_read_is_known_to_be_another_machine() {
        let there = fixture::snapshot();
        let same = there.facts.machine_id.as_str();
        for (known, there, expected) in [
            (Some("other"), Some(&there), true),
            (Some(same), Some(&there), false),
            (None, Some(&there), false),
            (Some("other"), None, false),
        ] {
            assert_eq!(is_another(known, there), expected, "{known:?}");
        }
    }

    #[test]
    fn an_update_that_would_move_an_object_says_how_to_replace_it() {
        let failed = || same_machine(&Target::new("b"), Some("1"), "2").unwrap_err();
        let told = |error: CallError| {
            let told = diagnostics("Changing", &error, Place::Host);
            let first = told.iter().next().unwrap();
            (first.attribute.clone(), first.detail.clone())
        };
        let (prior, b) = (fixture::web(), Target::new("b"));
        let (attribute, detail) = told(elsewhere::<ContainerResource>(failed(), &prior, &b));
        assert_eq!(attribute, Some(path!("host", "address")));
        assert!(
            detail.contains("-replace=") && !detail.contains("state rm"),
            "{detail}"
        );
        let same = ContainerResource::target(&prior).unwrap();
        let (_, detail) = told(elsewhere::<ContainerResource>(failed(), &prior, &same));
        assert!(detail.contains("state rm"), "{detail}");
    }
}
