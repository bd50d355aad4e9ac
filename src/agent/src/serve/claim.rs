//! A state that holds an object: it says so once it is saved, or takes the object over.

use std::time::Duration;

use protocol::{
    Failure, FailureKind,
    desired::{Address, Container, Host, Image, ObjectKey},
    message::Answer,
    name::OwnerToken,
    observed::Owner,
};

use super::change::{holder, take_turn};
use crate::{context::Context, object::Object, ownership};

/// How long a claim may wait for the host's lock.
const CLAIM_TIME: Duration = Duration::from_mins(1);

/// Notes that a state holds these tokens.
pub async fn claim(
    context: &Context,
    objects: &[(ObjectKey, OwnerToken)],
) -> Result<Answer, Failure> {
    // A provider that ends says so with its last words, and the end of those cancels all that is under way.
    let context = &context.undisturbed(CLAIM_TIME);
    let _lock = take_turn(context).await?;
    for (key, token) in objects {
        set_owner(context, key, |owner| {
            Ok((owner.token == *token).then(|| Owner {
                claimed: true,
                ..owner.clone()
            }))
        })?;
    }
    Ok(Answer::Noted)
}

/// Gives an object a new owner, who holds it in a state from now on. Whoever asks has seen it with the `former` token:
/// another owner has taken it over since, or made it anew.
pub async fn take_over(
    context: &Context,
    key: &ObjectKey,
    token: OwnerToken,
    former: Option<&OwnerToken>,
) -> Result<Answer, Failure> {
    let _lock = take_turn(context).await?;
    let owner = Owner {
        token,
        claimed: true,
        holder: Some(holder(context)),
    };
    let is_there = set_owner(context, key, |present| {
        // A request that is sent again finds what it did the first time.
        if let Some(former) = former.filter(|_| present.token != owner.token) {
            ownership::remove(&key.to_string(), present, former)?;
        }
        Ok(Some(owner.clone()))
    });
    if is_there? {
        Ok(Answer::TakenOver { owner })
    } else {
        Err(Failure::new(
            FailureKind::NotFound,
            "nothing of that name is on this host, or nspawn-agent didn't make it",
        ))
    }
}

/// Gives an object the owner that is made of its present one, if any is; whether it has.
fn set_owner(
    context: &Context,
    key: &ObjectKey,
    new: impl Fn(&Owner) -> Result<Option<Owner>, Failure>,
) -> Result<bool, Failure> {
    match key {
        ObjectKey::Host => set_owner_of::<Host>(context, "host", new),
        ObjectKey::Image(name) => set_owner_of::<Image>(context, name.as_str(), new),
        ObjectKey::Container(name) => set_owner_of::<Container>(context, name.as_str(), new),
        ObjectKey::Address(name) => set_owner_of::<Address>(context, name, new),
    }
}

fn set_owner_of<O: Object>(
    context: &Context,
    name: &str,
    new: impl Fn(&Owner) -> Result<Option<Owner>, Failure>,
) -> Result<bool, Failure> {
    let Some(mut stored) = context.store.get::<O>(name)? else {
        return Ok(false);
    };
    let Some(owner) = new(&stored.owner)? else {
        return Ok(false);
    };
    if stored.owner != owner {
        stored.owner = owner;
        context.store.put(&stored)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lock::HostLock, testing};

    #[tokio::test(flavor = "current_thread")]
    async fn an_object_is_taken_over_from_the_owner_that_was_seen_and_from_no_other() {
        let folder = tempfile::tempdir().unwrap();
        testing::within(Duration::from_secs(20), async |context| {
            let context = testing::in_folder(context, folder.path());
            let made = testing::stored(
                testing::address("203.0.113.2", "web"),
                crate::address::Assigned::default(),
            );
            context.store.put(&made).unwrap();
            let (key, seen) = (made.desired.key(), &made.owner.token);
            let token = |digit: char| digit.to_string().repeat(32).parse::<OwnerToken>().unwrap();
            let take = |new, former| Box::pin(take_over(&context, &key, token(new), former));
            take('d', Some(seen)).await.unwrap();
            take('d', Some(seen)).await.expect("sent again");
            let late = take('e', Some(seen)).await.unwrap_err();
            assert_eq!(late.kind, FailureKind::NotOwner, "{late}");
            let now = context
                .store
                .get::<Address>("203.0.113.2")
                .unwrap()
                .unwrap();
            assert_eq!(now.owner.token, token('d'));
            take('e', None).await.expect("as an earlier provider asks");
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_claim_outlasts_the_provider_that_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        testing::within(Duration::from_secs(20), async |context| {
            let context = testing::in_folder(context, folder.path());
            let mut made = testing::stored(
                testing::address("203.0.113.2", "web"),
                crate::address::Assigned::default(),
            );
            made.owner.claimed = false;
            context.store.put(&made).unwrap();
            let objects = [(made.desired.key(), made.owner.token.clone())];
            let another = HostLock::take(&context).await.unwrap();
            // As at the end of the provider's stream, while another change is under way.
            context.cancel.cancel();
            let let_go = async {
                tokio::task::yield_now().await;
                drop(another);
            };
            let (claimed, ()) = tokio::join!(Box::pin(claim(&context, &objects)), let_go);
            claimed.unwrap();
            let now = context.store.get::<Address>("203.0.113.2").unwrap();
            assert!(now.unwrap().owner.claimed);
        })
        .await;
    }
}
