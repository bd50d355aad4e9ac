use proptest::prelude::*;

use super::*;
use crate::path;
use crate::schema::{Model as _, Parsed, Secret};

crate::model! {
    /// Everything that an attribute can be.
    struct Everything {
        /// A text.
        text: Attr<String> => optional(),
        /// Raw.
        r#type: Attr<bool> => optional(),
        /// Whole.
        whole: Attr<i64> => optional(),
        /// Broken.
        broken: Attr<f64> => optional(),
        /// Parsed.
        parsed: Attr<Parsed<u8>> => optional(),
        /// Secret.
        secret: Attr<Secret> => optional().sensitive(),
        /// Some known.
        partly: Attr<Vec<Attr<String>>> => optional(),
        /// A set.
        set: Attr<BTreeSet<i64>> => optional(),
        /// Deep.
        deep: Attr<BTreeMap<String, BTreeMap<String, Vec<String>>>> => optional(),
    }
}

fn attr<T: Clone + Debug>(known: impl Strategy<Value = T>) -> impl Strategy<Value = Attr<T>> {
    prop_oneof![
        Just(Attr::Null),
        Just(Attr::Unknown),
        known.prop_map(Attr::Known)
    ]
}

prop_compose! {
    fn everything()(
        text in attr(".*"),
        r#type in attr(any::<bool>()),
        whole in attr(any::<i64>()),
        broken in attr(-1e300..1e300_f64),
        parsed in attr("0{0,3}[0-9]".prop_map(|text| text.parse().unwrap())),
        secret in attr(".*".prop_map(Secret::new)),
        partly in attr(prop::collection::vec(attr(".*"), 0..4)),
        set in attr(prop::collection::btree_set(any::<i64>(), 0..4)),
        deep in attr(prop::collection::btree_map(
            ".*",
            prop::collection::btree_map(".*", prop::collection::vec(".*", 0..3), 0..3),
            0..3,
        )),
    ) -> Everything {
        Everything { text, r#type, whole, broken, parsed, secret, partly, set, deep }
    }
}

proptest! {
    #[test]
    fn a_model_survives_the_wire(model in everything()) {
        let bytes = crate::value::msgpack::encode(&model.encode());
        let value = crate::value::msgpack::decode(&bytes).unwrap();
        prop_assert_eq!(Everything::decode(&value, &Path::root()), Ok(model));
    }
}

fn texts(issue: Issue) -> Vec<String> {
    let Issue::Invalid(errors) = issue else {
        unreachable!("{issue:?}")
    };
    errors.iter().map(|error| error.detail.clone()).collect()
}

#[test]
fn every_wrong_value_is_named() {
    let value = Value::Object(
        [
            ("text", Value::Bool(true)),
            ("whole", Value::Float(1.5)),
            ("parsed", "300".into()),
            ("set", vec!["x"].into()),
            (
                "deep",
                Value::Object([("a".into(), Value::List(vec![]))].into()),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    );
    let errors = texts(Everything::decode(&value, &path!("outer")).unwrap_err());
    assert_eq!(
        errors,
        [
            "outer.text has to be a string, not a bool.",
            "outer.whole: a whole number is wanted, without a fraction.",
            "outer.parsed: \"300\": number too large to fit in target type.",
            "outer.set has to be a whole number, not a string.",
            "outer.deep[\"a\"] has to be a map, not a list.",
        ]
    );
}

#[test]
fn one_unknown_element_makes_a_plain_list_unknown() {
    let list = Value::List(vec!["a".into(), Value::Unknown]);
    let plain = Attr::<Vec<String>>::decode(&list, &Path::root());
    assert_eq!(plain, Ok(Attr::Unknown));
    let partly = Attr::<Vec<Attr<String>>>::decode(&list, &Path::root());
    assert_eq!(partly, Ok(vec!["a".into(), Attr::Unknown].into()));
}

#[test]
fn secrets_do_not_print() {
    assert_eq!(
        format!("{:?}", Attr::from(Secret::new("x"))),
        "Known([secret])"
    );
    let error = Secret::decode(&Value::Integer(12_345), &path!("password")).unwrap_err();
    assert!(!format!("{error:?}").contains("12345"));
}

#[test]
fn a_private_key_in_the_wrong_attribute_does_not_print() {
    crate::model! {
        /// Where a key may land.
        struct Misplaced {
            /// Parsed.
            parsed: Attr<Parsed<u8>> => optional(),
            /// Checked as a whole.
            checked: Attr<String> => optional().validate(crate::schema::validators::one_of(&["a"])),
            /// Checked item by item.
            many: Attr<Vec<String>> => optional().validate(|items: &[String]| {
                items.iter().try_for_each(|item| Err(format!("{item:?} is no word")))
            }),
        }
    }
    let body = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ";
    for key in [
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----"),
        format!("-----BEGIN PRIVATE KEY-----{body}"),
        format!("{body}\n"),
    ] {
        let value = Value::Object(
            [
                ("parsed", key.as_str().into()),
                ("checked", key.as_str().into()),
                ("many", vec!["a", &key].into()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        );
        let errors = Misplaced::object().check(&value, &Path::root());
        let errors: Vec<_> = errors.iter().map(|error| &error.detail).collect();
        assert_eq!(errors.len(), 3, "{errors:?}");
        for error in &errors {
            assert!(!error.contains(&body[..12]), "{error}");
        }
        assert!(
            errors[1].starts_with("checked: what stands here"),
            "{errors:?}"
        );
        assert!(errors[1].contains("not shown"), "{errors:?}");
    }
}

#[test]
fn mistakes_in_a_declaration_are_found() {
    crate::model! {
        /// Wrong.
        struct Wrong {
            /// A default of another type.
            port: Attr<i64> => optional().default("ssh"),
            undescribed: Attr<i64> => optional(),
            /// Both.
            both: Attr<i64> => computed().write_only(),
        }
    }
    let mistakes = <Wrong as crate::Model>::object().mistakes("wrong");
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
}
