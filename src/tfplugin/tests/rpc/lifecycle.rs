//! A resource's life: create, read, plan, update, delete.

use super::*;

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
    // Told null and an error, Terraform keeps the state that it has.
    assert_eq!(unpacked(kept.new_state.as_ref()), Value::Null);
    assert!(kept.private.is_empty());

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
