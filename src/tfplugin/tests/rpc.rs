//! The RPCs, one by one.

mod support;

use std::collections::BTreeMap;

use support::{Plugin, errors, object, packed, unpacked, warnings};
use tfplugin::proto::provider_client::ProviderClient;
use tfplugin::proto::{self, DynamicValue};
use tfplugin::{Attr, Value};
use tonic::transport::Channel;

const NOTE: &str = "notes_note";
const TOKEN: &[u8] = br#"{"token":"kept"}"#;

async fn plan(
    client: &mut ProviderClient<Channel>,
    prior: &Value,
    config: &Value,
    private: &[u8],
) -> proto::plan_resource_change::Response {
    let request = proto::plan_resource_change::Request {
        type_name: NOTE.into(),
        prior_state: packed(prior),
        proposed_new_state: packed(config),
        config: packed(config),
        prior_private: private.to_vec(),
        ..Default::default()
    };
    client
        .plan_resource_change(request)
        .await
        .unwrap()
        .into_inner()
}

async fn apply(
    client: &mut ProviderClient<Channel>,
    prior: &Value,
    planned: &Value,
    config: &Value,
) -> proto::apply_resource_change::Response {
    let request = proto::apply_resource_change::Request {
        type_name: NOTE.into(),
        prior_state: packed(prior),
        planned_state: packed(planned),
        config: packed(config),
        planned_private: TOKEN.to_vec(),
        ..Default::default()
    };
    client
        .apply_resource_change(request)
        .await
        .unwrap()
        .into_inner()
}

async fn created(client: &mut ProviderClient<Channel>, config: &Value) -> Value {
    let planned = plan(client, &Value::Null, config, b"").await;
    assert_eq!(errors(&planned.diagnostics), "");
    let planned = unpacked(planned.planned_state.as_ref());
    let applied = apply(client, &Value::Null, &planned, config).await;
    assert_eq!(errors(&applied.diagnostics), "");
    unpacked(applied.new_state.as_ref())
}

async fn validate(
    client: &mut ProviderClient<Channel>,
    config: DynamicValue,
) -> Vec<proto::Diagnostic> {
    let request = proto::validate_resource_config::Request {
        type_name: NOTE.into(),
        config: Some(config),
        ..Default::default()
    };
    client
        .validate_resource_config(request)
        .await
        .unwrap()
        .into_inner()
        .diagnostics
}

fn note(fields: &[(&str, Value)]) -> Value {
    object(fields)
}

fn with(value: &Value, name: &str, field: Value) -> Value {
    let Value::Object(mut fields) = value.clone() else {
        panic!("no object")
    };
    fields.insert(name.to_owned(), field);
    Value::Object(fields)
}

#[tokio::test]
async fn a_note_is_made_changed_and_deleted() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let config = note(&[
        ("name", "n".into()),
        ("text", "one".into()),
        ("shelf", object(&[("address", "x".into())])),
        ("password_wo", "geheim".into()),
    ]);
    let state = created(&mut client, &config).await;
    assert_eq!(*state.field("revision"), Value::Integer(1));
    assert_eq!(*state.field("shelf").field("port"), Value::Integer(22));
    assert_eq!(
        *state.field("password_wo"),
        Value::Null,
        "a write-only value is in the state"
    );
    assert_eq!(*state.field("password_length"), Value::Integer(6));

    let same = plan(&mut client, &state, &config, b"").await;
    assert_eq!(unpacked(same.planned_state.as_ref()), state);
    assert!(same.diagnostics.is_empty() && same.requires_replace.is_empty());

    let config = with(&config, "text", "two".into());
    let changed = plan(&mut client, &state, &config, b"").await;
    assert!(warnings(&changed.diagnostics).contains("is rewritten"));
    let planned = unpacked(changed.planned_state.as_ref());
    assert_eq!(*planned.field("revision"), Value::Unknown);
    assert_eq!(planned.field("id"), state.field("id"));
    let updated = apply(&mut client, &state, &planned, &config).await;
    assert_eq!(errors(&updated.diagnostics), "");
    let updated = unpacked(updated.new_state.as_ref());
    assert_eq!(*updated.field("revision"), Value::Integer(2));

    let renamed = plan(
        &mut client,
        &updated,
        &with(&config, "name", "m".into()),
        b"",
    )
    .await;
    let replaced: Vec<_> = renamed
        .requires_replace
        .iter()
        .flat_map(|path| &path.steps)
        .collect();
    assert_eq!(replaced.len(), 1);

    let gone = apply(&mut client, &updated, &Value::Null, &Value::Null).await;
    assert_eq!(errors(&gone.diagnostics), "");
    assert_eq!(unpacked(gone.new_state.as_ref()), Value::Null);
}

#[tokio::test]
async fn what_is_gone_or_changed_is_noticed() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let config = note(&[("name", "n".into()), ("text", "one".into())]);
    let state = created(&mut client, &config).await;
    let request = proto::read_resource::Request {
        type_name: NOTE.into(),
        current_state: packed(&state),
        private: TOKEN.to_vec(),
        ..Default::default()
    };
    let file = plugin.folder.path().join("n.note");
    std::fs::write(&file, "other").unwrap();
    let read = client
        .read_resource(request.clone())
        .await
        .unwrap()
        .into_inner();
    let drifted = unpacked(read.new_state.as_ref());
    assert_eq!(*drifted.field("drift"), vec!["the text was changed"].into());
    assert_eq!(read.private, TOKEN);
    let mending = plan(&mut client, &drifted, &config, b"").await;
    assert_eq!(
        *unpacked(mending.planned_state.as_ref()).field("drift"),
        Value::List(vec![])
    );

    std::fs::remove_file(&file).unwrap();
    let read = client.read_resource(request).await.unwrap().into_inner();
    assert_eq!(unpacked(read.new_state.as_ref()), Value::Null);
}

#[tokio::test]
async fn a_panic_in_a_plan_or_apply_is_a_diagnostic_and_the_state_is_kept() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let state = created(&mut client, &note(&[("name", "n".into())])).await;

    let config = note(&[("name", "panic-plan".into())]);
    let planned = plan(&mut client, &state, &config, TOKEN).await;
    assert_panic(&planned.diagnostics);
    assert_eq!(unpacked(planned.planned_state.as_ref()), state);
    assert_eq!(planned.planned_private, TOKEN);

    let config = note(&[("name", "n".into()), ("text", "panic".into())]);
    let planned = with(&state, "text", "panic".into());
    for (prior, planned) in [
        (Value::Null, planned.clone()),
        (state.clone(), planned),
        (with(&state, "name", "panic-delete".into()), Value::Null),
    ] {
        let applied = apply(&mut client, &prior, &planned, &config).await;
        assert_panic(&applied.diagnostics);
        assert_eq!(unpacked(applied.new_state.as_ref()), prior);
        assert_eq!(applied.private, TOKEN);
    }
}

#[tokio::test]
async fn a_panic_anywhere_else_is_a_diagnostic_too() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let panicking = packed(&object(&[("folder", "panic".into())]));
    let request = proto::configure_provider::Request {
        config: panicking,
        ..Default::default()
    };
    assert_panic(
        &client
            .configure_provider(request)
            .await
            .unwrap()
            .into_inner()
            .diagnostics,
    );

    let config = tfplugin::wire::encode(&note(&[("name", "panic-validate".into())]));
    assert_panic(&validate(&mut client, config).await);

    let state = note(&[("name", "panic-read".into())]);
    let request = proto::read_resource::Request {
        type_name: NOTE.into(),
        current_state: packed(&state),
        private: TOKEN.to_vec(),
        ..Default::default()
    };
    let read = client.read_resource(request).await.unwrap().into_inner();
    assert_panic(&read.diagnostics);
    assert_eq!(
        (unpacked(read.new_state.as_ref()), read.private),
        (state, TOKEN.to_vec())
    );

    let request = proto::import_resource_state::Request {
        type_name: NOTE.into(),
        id: "panic".into(),
        ..Default::default()
    };
    let imported = client
        .import_resource_state(request)
        .await
        .unwrap()
        .into_inner();
    assert_panic(&imported.diagnostics);
    assert!(imported.imported_resources.is_empty());

    let upgraded = upgrade(&mut client, 1, r#"{"name":"n","body":"panic"}"#).await;
    assert_panic(&upgraded.diagnostics);

    let request = proto::read_data_source::Request {
        type_name: NOTE.into(),
        config: packed(&object(&[("name", "panic".into())])),
        ..Default::default()
    };
    assert_panic(
        &client
            .read_data_source(request)
            .await
            .unwrap()
            .into_inner()
            .diagnostics,
    );
}

fn assert_panic(diagnostics: &[proto::Diagnostic]) {
    let errors = errors(diagnostics);
    assert!(errors.contains("asked to panic"), "{errors}");
    assert!(
        !errors.contains(".rs:"),
        "a place in the source is no help to a user: {errors}"
    );
}

#[tokio::test]
async fn a_stopped_create_returns_what_exists() {
    let mut plugin = Plugin::start_with(|command| {
        command.env("TF_LOG", "info");
    });
    let mut client = plugin.configured().await;
    let config = note(&[("name", "n".into()), ("text", "slow".into())]);
    let planned = plan(&mut client, &Value::Null, &config, b"").await;
    let planned = unpacked(planned.planned_state.as_ref());
    let mut other = client.clone();
    let under_way = plugin.log_line("waiting to be cancelled");
    let (applied, ()) = tokio::join!(apply(&mut client, &Value::Null, &planned, &config), async {
        under_way.await.unwrap();
        let stopped = other.stop_provider(proto::stop_provider::Request {}).await;
        assert_eq!(stopped.unwrap().into_inner().error, "");
    });
    assert!(errors(&applied.diagnostics).contains("Interrupted"));
    let state = unpacked(applied.new_state.as_ref());
    assert!(matches!(state.field("id"), Value::String(_)));
    assert_eq!(
        *state.field("revision"),
        Value::Null,
        "unknown can't be stored"
    );
    // It goes on serving: only Shutdown ends it.
    client
        .get_metadata(proto::get_metadata::Request {})
        .await
        .unwrap();
}

#[tokio::test]
async fn failures_keep_the_state() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let config = note(&[("name", "fail-delete".into())]);
    let state = created(&mut client, &config).await;
    let kept = apply(&mut client, &state, &Value::Null, &Value::Null).await;
    assert!(errors(&kept.diagnostics).contains("Asked to fail"));
    assert_eq!(unpacked(kept.new_state.as_ref()), state);

    let config = with(&config, "text", "fail".into());
    let planned = with(&state, "text", "fail".into());
    let kept = apply(&mut client, &state, &planned, &config).await;
    assert!(errors(&kept.diagnostics).contains("Asked to fail"));
    assert_eq!(unpacked(kept.new_state.as_ref()), state);

    let nothing = apply(&mut client, &Value::Null, &planned, &config).await;
    assert_eq!(unpacked(nothing.new_state.as_ref()), Value::Null);
}

#[tokio::test]
async fn a_result_other_than_planned_is_named() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let config = note(&[("name", "n".into()), ("text", "break".into())]);
    let planned = plan(&mut client, &Value::Null, &config, b"").await;
    let planned = unpacked(planned.planned_state.as_ref());
    let applied = apply(&mut client, &Value::Null, &planned, &config).await;
    let errors = errors(&applied.diagnostics);
    assert!(
        errors.contains("another value for keep") && !errors.contains("revision"),
        "{errors}"
    );
    assert_eq!(
        *unpacked(applied.new_state.as_ref()).field("keep"),
        Value::Bool(true)
    );
}

#[tokio::test]
async fn deletion_can_be_refused_at_plan_time() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let config = note(&[("name", "n".into()), ("keep", true.into())]);
    let state = created(&mut client, &config).await;
    let request = proto::plan_resource_change::Request {
        type_name: NOTE.into(),
        prior_state: packed(&state),
        proposed_new_state: packed(&Value::Null),
        config: packed(&Value::Null),
        ..Default::default()
    };
    let refused = client
        .plan_resource_change(request)
        .await
        .unwrap()
        .into_inner();
    assert!(errors(&refused.diagnostics).contains("Set keep to false first"));
}

#[tokio::test]
async fn a_message_of_six_megabytes_goes_both_ways() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let text = "x".repeat(6 << 20);
    let config = note(&[("name", "n".into()), ("text", text.as_str().into())]);
    let state = created(&mut client, &config).await;
    assert_eq!(*state.field("text"), Value::String(text));
}

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
    let steps = |position: usize| from_json[position].attribute.as_ref().unwrap().steps.len();
    assert_eq!((steps(0), steps(1)), (2, 3));
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

    let forbidden = tfplugin::wire::encode(&note(&[("name", "forbidden".into())]));
    let diagnostics = validate(&mut client, forbidden).await;
    assert_eq!(
        support::errors(&diagnostics),
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

async fn upgrade(
    client: &mut ProviderClient<Channel>,
    version: i64,
    json: &str,
) -> proto::upgrade_resource_state::Response {
    let request = proto::upgrade_resource_state::Request {
        type_name: NOTE.into(),
        version,
        raw_state: Some(proto::RawState {
            json: json.into(),
            ..Default::default()
        }),
    };
    client
        .upgrade_resource_state(request)
        .await
        .unwrap()
        .into_inner()
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
async fn another_spelling_of_the_same_changes_nothing() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    let config = note(&[("name", "n".into()), ("size", "2K".into())]);
    let state = created(&mut client, &config).await;
    let same = plan(
        &mut client,
        &state,
        &with(&config, "size", "02K".into()),
        b"",
    )
    .await;
    assert_eq!(unpacked(same.planned_state.as_ref()), state);
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
