//! Encodings, schemas, and what is wrong with a value.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn json_and_messagepack_mean_the_same() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let json = |text: &str| DynamicValue {
        msgpack: Vec::new(),
        json: text.into(),
    };
    assert!(
        validate(
            &mut client,
            json(r#"{"name":"n","shelf":{"address":"x","port":8}}"#)
        )
        .await
        .is_empty()
    );
    let wrong =
        r#"{"name":"n","shelf":{"address":"x","port":"eight"},"labels":{"a b":{"weight":true}}}"#;
    let from_json = validate(&mut client, json(wrong)).await;
    let value = tfplugin::wire::decode(Some(&json(wrong))).unwrap();
    let from_msgpack = validate(&mut client, tfplugin::wire::encode(&value)).await;
    assert_eq!(from_json, from_msgpack);
    let errors = errors(&from_json);
    assert!(
        errors.contains("shelf.port has to be a whole number, not a string"),
        "{errors}"
    );
    assert!(
        errors.contains("labels[\"a b\"].weight has to be a number, not a bool"),
        "{errors}"
    );
    // Terraform has a line to show for `shelf` and for an element of `labels`, for nothing deeper.
    let steps = |position: usize| from_json[position].attribute.as_ref().unwrap().steps.len();
    assert_eq!((steps(0), steps(1)), (1, 2));
}

#[tokio::test]
async fn what_is_unknown_stays_unknown_in_the_plan() {
    use rmpv::Value as Packed;
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let unknown = Packed::Ext(0, vec![0]);
    // Refined: known not to be null.
    let refined = Packed::Ext(12, vec![0x81, 0x01, 0xc2]);
    let config = Packed::Map(vec![
        ("name".into(), refined.clone()),
        ("text".into(), unknown.clone()),
        ("lines".into(), Packed::Array(vec![refined, "fixed".into()])),
        (
            "shelf".into(),
            Packed::Map(vec![("address".into(), unknown.clone())]),
        ),
        ("size".into(), unknown.clone()),
        ("labels".into(), unknown),
    ]);
    let mut msgpack = Vec::new();
    rmpv::encode::write_value(&mut msgpack, &config).unwrap();
    let config = DynamicValue {
        msgpack,
        json: Vec::new(),
    };
    assert!(validate(&mut client, config.clone()).await.is_empty());
    let request = proto::plan_resource_change::Request {
        type_name: NOTE.into(),
        prior_state: packed(&Value::Null),
        proposed_new_state: Some(config.clone()),
        config: Some(config),
        ..Default::default()
    };
    let response = client
        .plan_resource_change(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(errors(&response.diagnostics), "");
    let planned = unpacked(response.planned_state.as_ref());
    for name in ["name", "text", "size", "labels", "id"] {
        assert_eq!(*planned.field(name), Value::Unknown, "{name}");
    }
    assert_eq!(
        *planned.field("lines"),
        Value::List(vec![Value::Unknown, "fixed".into()])
    );
    assert_eq!(*planned.field("shelf").field("address"), Value::Unknown);
    assert_eq!(*planned.field("shelf").field("port"), Value::Integer(22));
}

#[tokio::test]
async fn bad_values_are_told_all_at_once_with_their_place() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let config = note(&[
        ("name", "".into()),
        ("size", "12 potatoes".into()),
        ("content", "x".into()),
        (
            "shelf",
            object(&[("address", "x".into()), ("port", 70_000.into())]),
        ),
        (
            "pages",
            vec![object(&[]), object(&[("color", "green".into())])].into_list(),
        ),
        ("timeouts", object(&[("create", "soon".into())])),
    ]);
    let diagnostics = validate(&mut client, tfplugin::wire::encode(&config)).await;
    let errors = errors(&diagnostics);
    for expected in [
        "name: an empty text is not allowed",
        "size: \"12 potatoes\" is not a size",
        "shelf.port: 70000 is not between 1 and 65535",
        "pages[1].color: \"green\" is not one of red, blue",
        "timeouts.create: ",
    ] {
        assert!(
            errors.contains(expected),
            "{expected:?} is missing in: {errors}"
        );
    }
    assert_eq!(
        warnings(&diagnostics),
        "content is deprecated: Use text instead."
    );

    let config = note(&[("name", "n".into()), ("password_wo", "geheim".into())]);
    let diagnostics = validate(&mut client, tfplugin::wire::encode(&config)).await;
    let errors = crate::support::errors(&diagnostics);
    assert!(
        errors.contains("password_wo is write-only, which needs Terraform 1.11"),
        "{errors}"
    );
    assert!(!errors.contains("geheim"));

    let forbidden = tfplugin::wire::encode(&note(&[("name", "forbidden".into())]));
    let diagnostics = validate(&mut client, forbidden).await;
    assert_eq!(
        crate::support::errors(&diagnostics),
        "Forbidden name: Attribute shelf.port: Take another."
    );
}

trait IntoList {
    fn into_list(self) -> Value;
}

impl IntoList for Vec<Value> {
    fn into_list(self) -> Value {
        Value::List(self)
    }
}

#[tokio::test]
async fn older_states_are_brought_up_and_newer_ones_refused() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let upgraded = upgrade(&mut client, 1, r#"{"name":"n","body":"b","removed":1}"#).await;
    assert_eq!(errors(&upgraded.diagnostics), "");
    let state = unpacked(upgraded.upgraded_state.as_ref());
    assert_eq!(*state.field("text"), "b".into());
    let Value::Object(fields) = &state else {
        panic!("no object")
    };
    assert!(fields.contains_key("revision") && !fields.contains_key("removed"));

    let newer = upgrade(&mut client, 3, r#"{"name":"n"}"#).await;
    assert!(errors(&newer.diagnostics).contains("schema version 3"));
    let broken = upgrade(&mut client, 2, r#"{"name":["n"]}"#).await;
    assert!(errors(&broken.diagnostics).contains("name has to be a string, not a list"));
}

#[tokio::test]
async fn schemas_carry_nested_attributes_and_descriptions() {
    let plugin = Plugin::start();
    let mut client = plugin.client().await;
    let response = client
        .get_provider_schema(proto::get_provider_schema::Request {})
        .await;
    let response = response.unwrap().into_inner();
    assert_eq!(errors(&response.diagnostics), "");
    let block = response.resource_schemas[NOTE].block.clone().unwrap();
    assert_eq!(block.description, "A note.\n\nIt is a file.");
    let attributes: BTreeMap<_, _> = block
        .attributes
        .iter()
        .map(|a| (a.name.as_str(), a))
        .collect();
    assert!(
        attributes
            .values()
            .all(|attribute| !attribute.description.is_empty())
    );
    let shelf = attributes["shelf"];
    assert!(shelf.r#type.is_empty() && shelf.nested_type.is_some());
    assert_eq!(
        attributes["sections"].r#type,
        br#"["map",["map",["list","string"]]]"#
    );
    assert!(attributes["password_wo"].write_only && attributes["password_wo"].sensitive);
    let provider = response.provider.unwrap().block.unwrap();
    assert!(
        provider
            .attributes
            .iter()
            .all(|attribute| !attribute.computed)
    );
}

#[tokio::test]
async fn what_the_provider_has_not_is_told() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let request = proto::plan_resource_change::Request {
        type_name: "notes_book".into(),
        ..Default::default()
    };
    let planned = client
        .plan_resource_change(request)
        .await
        .unwrap()
        .into_inner();
    assert!(errors(&planned.diagnostics).contains("no resource notes_book"));
    let request = proto::call_function::Request {
        name: "f".into(),
        arguments: Vec::new(),
    };
    let called = client.call_function(request).await.unwrap().into_inner();
    assert!(called.error.unwrap().text.contains("no function f"));
    let garbage = DynamicValue {
        msgpack: vec![0x81],
        json: Vec::new(),
    };
    let diagnostics = validate(&mut client, garbage).await;
    assert!(errors(&diagnostics).contains("Unreadable value"));
}

#[test]
fn attributes_convert_from_plain_values() {
    assert_eq!(Attr::from(Some(1)), Attr::Known(1));
    assert_eq!(Attr::<String>::from(None), Attr::Null);
    assert_eq!(Attr::<String>::from("x").as_deref(), Some("x"));
}
