//! What this process has made and read, and what it tells the hosts of that (decision 13).

use std::{sync::Arc, time::Duration};

use protocol::{desired::ObjectKey, message::Request, name::OwnerToken};
use tfplugin::CancellationToken;

use super::Hosts;
use crate::{
    connection::{Call, Target},
    resources::lifecycle::{find, owner_of},
};

/// How long the look for what a failed create has left may take, when the create's own time may be up.
const LOOK: Duration = Duration::from_secs(20);

impl Hosts {
    /// Whether this process has made, or began to make, the object with this token.
    pub fn has_made(&self, target: &Target, key: &ObjectKey, token: &OwnerToken) -> bool {
        self.claims.has_made(target, &(key.clone(), token.clone()))
    }

    /// Whether an object whose create failed is there all the same; so it may be when that can't be asked.
    pub async fn was_made(&self, target: &Target, key: &ObjectKey, token: &OwnerToken) -> bool {
        match self.snapshot(target, LOOK).await {
            Ok(snapshot) => {
                find(&snapshot, key).is_some_and(|object| owner_of(&object).token == *token)
            }
            Err(_) => true,
        }
    }

    /// Notes whether Terraform gets a state of the object that it asked to be created.
    pub fn end_create(
        self: &Arc<Self>,
        target: &Target,
        key: ObjectKey,
        token: OwnerToken,
        has_state: bool,
    ) {
        self.claims.end(target, (key, token), has_state);
        if has_state && self.claims.begin_staying(target) {
            tokio::spawn(Arc::clone(self).stay_connected(target.clone()));
        }
    }

    /// While a host has something of this process that no state is known to hold yet, another run would take it for one
    /// that a killed run has left as soon as the connection dropped.
    async fn stay_connected(self: Arc<Self>, target: Target) {
        if let Some(pool) = self.pool.get() {
            let host = pool.at_hand(&target);
            if let Err(error) = host.stay(|| self.claims.is_maker(&target)).await {
                tracing::info!(%error, "not connected any more");
                self.claims.end_staying(&target);
            }
        }
    }

    /// Tells the host, in the background, that a state holds this object.
    pub fn claim(self: &Arc<Self>, target: &Target, key: ObjectKey, token: OwnerToken) {
        if !self.claims.add_read(target, (key, token)) {
            return;
        }
        let (hosts, target) = (Arc::clone(self), target.clone());
        tokio::spawn(async move {
            loop {
                let objects = hosts.claims.take_read(&target);
                if objects.is_empty() {
                    return;
                }
                hosts.send_claims(&target, objects).await;
            }
        });
    }

    /// Claims what this process made, and ends all connections.
    pub async fn shut_down(&self) {
        // Asked to stop, Terraform may end before it has saved what it was told of.
        let is_stopped = self.stop.get().is_some_and(CancellationToken::is_cancelled);
        let mut tasks = Vec::new();
        for (target, objects) in self.claims.take_all(!is_stopped) {
            tasks.push(async move { self.send_claims(&target, objects).await });
        }
        futures_util::future::join_all(tasks).await;
        if let Some(pool) = self.pool.get() {
            pool.close_all().await;
        }
    }

    async fn send_claims(&self, target: &Target, objects: Vec<(ObjectKey, OwnerToken)>) {
        let sent = async {
            let host = self.host(target, None).await?;
            host.call(Call::new(Request::Claim { objects })).await
        };
        // The next run claims them.
        if let Err(error) = sent.await {
            tracing::warn!(host = %target, "objects could not be claimed: {error}");
        }
    }
}
