//! The destroy of an object of which Terraform hands on nothing, over a real sshd.

use protocol::{
    desired::{ContainerSecrets, ObjectKey},
    message::{Intent, Put},
    name::OwnerToken,
    observed::{Holder, Object},
};
use tfplugin::{Diagnostics, Resource as _, State};

use super::{
    changes::{desired_image, image, provider},
    fake_agent::made,
    server::Server,
};
use crate::{
    fixture::token,
    marks::Marks,
    resources::{Private, image::ImageResource},
};

/// Destroys the image of that name, which had the token `planned` when the plan looked, and has `found` now.
async fn destroy(planned: &OwnerToken, found: OwnerToken) -> Result<(), Diagnostics> {
    let server = Server::new();
    let (_, mut object) = made(Put {
        desired: desired_image("web"),
        token: found,
        intent: Intent::Create,
        deadline: 1,
        secrets: ContainerSecrets::default(),
    });
    if let Object::Image(image) = &mut object {
        image.owner.holder = Some(Holder {
            name: "alice@laptop".to_owned(),
            since: 1 << 30,
        });
    }
    let record = serde_json::to_vec(&object).unwrap();
    std::fs::write(server.path("notes/object"), record).unwrap();
    let (hosts, context) = provider(&server, server.credentials());
    let key = ObjectKey::Image("web".parse().unwrap());
    let private = Private {
        refreshed: true,
        marks: Marks::of([(&key, planned)].into_iter()),
        ..Private::default()
    };
    let state = State::new(image(&server.target(), "web"), private);
    let destroyed = ImageResource { hosts }.delete(state, &context).await;
    // The stand-in notes the deadline of what it is asked to remove.
    assert_eq!(server.path("notes/deadline").exists(), destroyed.is_ok());
    destroyed.map_err(|failed| failed.diagnostics)
}

#[tokio::test]
async fn a_tainted_object_that_is_renamed_is_destroyed_as_the_plan_saw_it() {
    destroy(&token('a'), token('a')).await.unwrap();
}

#[tokio::test]
async fn whoever_has_the_name_of_a_tainted_object_by_then_keeps_it() {
    let error = destroy(&token('a'), token('b'))
        .await
        .unwrap_err()
        .to_string();
    for part in [
        "image web",
        "another Terraform state",
        "alice@laptop",
        "at 2004-01-10T",
    ] {
        assert!(error.contains(part), "{error}");
    }
}
