use super::*;
use crate::schema::AttributeType;
use crate::{Attr, Model};

crate::model! {
    /// Inner.
    struct Inner {
        /// Set by the user.
        address: Attr<String> => required().replace(),
        /// Has a default.
        port: Attr<i64> => optional().default(22),
        /// Set by the provider.
        stamp: Attr<String> => optional().computed(),
    }

    /// Outer.
    struct Outer {
        /// Replaces.
        name: Attr<String> => required().replace(),
        /// Optional.
        text: Attr<String> => optional(),
        /// Nested.
        host: Attr<Inner> => optional(),
        /// Nested with defaults.
        wait: Attr<Wait> => optional().default_object(),
        /// Many.
        many: Attr<Vec<Inner>> => optional(),
        /// By name.
        named: Attr<BTreeMap<String, Inner>> => optional(),
        /// A number that need not be whole.
        share: Attr<f64> => optional(),
        /// Many of them.
        shares: Attr<Vec<f64>> => optional(),
        /// A set.
        tags: Attr<std::collections::BTreeSet<String>> => optional(),
        /// Only in the configuration.
        secret: Attr<String> => optional().write_only(),
        /// Kept.
        id: Attr<String> => computed(),
        /// Computed anew.
        revision: Attr<i64> => computed().unknown_on_update(),
        /// What deviates.
        drift: Attr<Vec<String>> => computed().planned_empty(),
    }

    /// Waiting.
    struct Wait {
        /// For the boot.
        boot: Attr<bool> => optional().default(true),
        /// For a port.
        port: Attr<i64> => optional(),
        /// Between two looks.
        pause: Attr<f64> => optional(),
    }
}

fn inner(address: &str) -> Attr<Inner> {
    Inner {
        address: address.into(),
        ..Inner::default()
    }
    .into()
}

fn config() -> Outer {
    Outer {
        name: "n".into(),
        host: inner("h"),
        secret: "s".into(),
        ..Outer::default()
    }
}

fn run(prior: Option<&Outer>, config: &Outer) -> (Outer, Proposal) {
    let object = Outer::object();
    let prior = prior.map_or(Value::Null, |prior| object.conform(prior.encode()));
    let proposal = propose(&object, &prior, &object.conform(config.encode()));
    (
        Outer::decode(&proposal.planned, &Path::root()).unwrap(),
        proposal,
    )
}

/// A state as a create would leave it.
fn made(config: &Outer) -> Outer {
    let mut state = run(None, config).0;
    (state.id, state.revision) = ("i".into(), 1.into());
    if let Some(host) = state.host.known_mut() {
        host.stamp = "today".into();
    }
    state
}

#[test]
fn a_create_has_defaults_and_unknowns() {
    let planned = run(None, &config()).0;
    let host = planned.host.known().unwrap();
    assert_eq!((&host.port, &host.stamp), (&22.into(), &Attr::Unknown));
    assert_eq!(planned.wait.known().unwrap().boot, true.into());
    assert_eq!(planned.wait.known().unwrap().port, Attr::Null);
    assert_eq!(
        (planned.id, planned.revision),
        (Attr::Unknown, Attr::Unknown)
    );
    assert_eq!(planned.drift, vec![].into());
    assert_eq!((planned.text, planned.secret), (Attr::Null, Attr::Null));
}

#[test]
fn the_same_configuration_changes_nothing() {
    let state = made(&config());
    let (planned, proposal) = run(Some(&state), &config());
    assert_eq!(planned, state);
    assert!(!proposal.changed && proposal.requires_replace.is_empty());
}

#[test]
fn an_update_keeps_what_is_computed_unless_it_says_otherwise() {
    let state = made(&config());
    let (planned, proposal) = run(
        Some(&state),
        &Outer {
            text: "changed".into(),
            ..config()
        },
    );
    assert!(proposal.changed && proposal.requires_replace.is_empty());
    assert_eq!((planned.id, planned.revision), ("i".into(), Attr::Unknown));
    assert_eq!(planned.host, state.host);
}

#[test]
fn a_number_that_no_binary_type_holds_is_no_change_however_it_travels() {
    let object = Outer::object();
    // Core sends such a number of a configuration as text, and one that a read has just told as the nearest f64.
    let with = |number: Value, rest: Value| {
        let Value::Object(mut fields) = made(&config()).encode() else {
            unreachable!()
        };
        let wait = BTreeMap::from([
            ("boot".to_owned(), true.into()),
            ("pause".to_owned(), number.clone()),
        ]);
        fields.insert("wait".to_owned(), Value::Object(wait));
        fields.insert("share".to_owned(), number.clone());
        fields.insert("shares".to_owned(), Value::List(vec![1.into(), number]));
        fields.insert("text".to_owned(), rest);
        object.conform(Value::Object(fields))
    };
    let state = with(0.3.into(), Value::Null);
    let proposal = propose(&object, &state, &with("0.3".into(), Value::Null));
    assert_eq!(proposal.planned, state);
    assert!(!proposal.changed);
    let beside = propose(&object, &state, &with("0.3".into(), "changed".into())).planned;
    assert_eq!(
        beside.field("share"),
        &0.3.into(),
        "another change beside it"
    );
    for (before, after) in [
        (0.3.into(), "0.4".into()),
        (i64::MAX.into(), (i64::MAX - 1).into()),
    ] {
        let state = with(before, Value::Null);
        let other = propose(&object, &state, &with(Value::clone(&after), Value::Null));
        assert_eq!(other.planned.field("share"), &after);
        assert!(other.changed);
    }
}

#[test]
fn drift_alone_is_a_change() {
    let mut state = made(&config());
    state.drift = vec!["it deviates".to_owned()].into();
    let (planned, proposal) = run(Some(&state), &config());
    assert!(proposal.changed);
    assert_eq!(planned.drift, vec![].into());
    // After an import it is null, and that is none.
    state.drift = Attr::Null;
    assert!(!run(Some(&state), &config()).1.changed);
}

#[test]
fn replacements_are_named_however_deep() {
    let state = made(&config());
    let config = Outer {
        name: "m".into(),
        host: inner("other"),
        ..config()
    };
    let replaced = run(Some(&state), &config).1.requires_replace;
    assert_eq!(
        replaced,
        [crate::path!("name"), crate::path!("host", "address")]
    );
}

#[test]
fn an_unknown_object_stays_unknown_as_a_whole() {
    let unknown = Outer {
        host: Attr::Unknown,
        many: Attr::Unknown,
        ..config()
    };
    for prior in [None, Some(made(&config()))] {
        let planned = run(prior.as_ref(), &unknown).0;
        assert_eq!((planned.host, planned.many), (Attr::Unknown, Attr::Unknown));
    }
}

#[test]
fn elements_are_matched_by_place_and_key() {
    let with = |count: usize| Outer {
        many: vec![inner("a").into_known().unwrap(); count].into(),
        named: BTreeMap::from([("k".to_owned(), inner("a").into_known().unwrap())]).into(),
        ..config()
    };
    let mut state = made(&with(1));
    state.many.known_mut().unwrap()[0].stamp = "first".into();
    state.named.known_mut().unwrap().get_mut("k").unwrap().stamp = "named".into();
    assert!(!run(Some(&state), &with(1)).1.changed);
    let planned = run(Some(&state), &with(2)).0;
    let stamps: Vec<_> = planned
        .many
        .known()
        .unwrap()
        .iter()
        .map(|item| &item.stamp)
        .collect();
    assert_eq!(stamps, [&"first".into(), &Attr::Unknown]);
    assert_eq!(planned.named, state.named);
}

#[test]
fn a_sets_order_is_no_change() {
    let object = Outer::object();
    let tags = |order: [&str; 2]| {
        let Value::Object(mut fields) = made(&config()).encode() else {
            unreachable!()
        };
        fields.insert("tags".into(), order.to_vec().into());
        object.conform(Value::Object(fields))
    };
    assert_eq!(tags(["a", "b"]), tags(["b", "a"]));
}

#[test]
fn a_hook_that_changes_nothing_loses_nothing() {
    let list = Value::List(vec![Value::Unknown, "x".into()]);
    let object = |list: &Value, id: &str| {
        Value::Object(
            [
                ("list".to_owned(), list.clone()),
                ("id".to_owned(), id.into()),
            ]
            .into(),
        )
    };
    // Typed, the list is unknown as a whole.
    let before = object(&Value::Unknown, "1");
    let after = object(&Value::Unknown, "2");
    assert_eq!(
        carry_over(&object(&list, "1"), &before, &after),
        object(&list, "2")
    );
}

#[test]
fn promises_are_kept_or_named() {
    let object = |id: Value, tags: Value| {
        Value::Object([("id".to_owned(), id), ("tags".to_owned(), tags)].into())
    };
    let planned = object(Value::Unknown, vec!["a", "b"].into());
    let broken = |result| broken_promises(&planned, &result, &Path::root());
    assert!(broken(object("i".into(), vec!["a", "b"].into())).is_empty());
    assert!(broken(object(Value::Null, vec!["a", "b"].into())).is_empty());
    let wrong = broken(object(Value::Unknown, vec!["a", "c"].into()));
    assert_eq!(wrong, [crate::path!("id"), crate::path!("tags", 1)]);
    assert_eq!(
        broken(object("i".into(), Value::Null)),
        [crate::path!("tags")]
    );
}
