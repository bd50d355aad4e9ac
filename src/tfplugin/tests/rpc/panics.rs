//! A panic in any RPC.

use super::*;

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
        // Told nothing and an error, Terraform keeps the state that it has.
        assert!(applied.new_state.is_none() && applied.private.is_empty());
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
