//! The RPCs, one by one, as go-plugin's client calls them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod lifecycle;
mod panics;
#[path = "../support/mod.rs"]
mod support;
mod values;

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
