//! The connections of this process: one a host, whatever Terraform's parallelism.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::name::SessionId;
use tokio_util::sync::CancellationToken;

use super::{
    credentials::Credentials,
    embedded::{AGENTS, Agent},
    error::ConnectionError,
    host::{Host, Slot},
    host_key::HostKey,
    install,
    target::{Identity, Target},
};

/// What every connection is made with.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) credentials: Arc<Credentials>,
    pub(super) session: SessionId,
    pub(super) holder: String,
    pub(super) agents: Arc<[Agent]>,
    pub(super) folder: Arc<str>,
    /// Cancelled when no more connections are to be made.
    pub(super) closed: CancellationToken,
}

/// A host, and what its bastion's key must be: that is looked at only when a connection is made.
type Key = (Identity, Option<HostKey>);

/// The connections of this process.
#[derive(Debug)]
pub struct Pool {
    connector: Arc<Connector>,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

impl Pool {
    /// No connections yet. `session` is this process's, `holder` is who waits see ("alice@laptop").
    pub fn new(credentials: Credentials, session: SessionId, holder: String) -> Self {
        Self::with_agents(credentials, session, holder, AGENTS, install::FOLDER)
    }

    /// With agents, and a folder for them, other than the real ones.
    pub(super) fn with_agents(
        credentials: Credentials,
        session: SessionId,
        holder: String,
        agents: &[Agent],
        folder: &str,
    ) -> Self {
        Self {
            connector: Arc::new(Connector {
                credentials: Arc::new(credentials),
                session,
                holder,
                agents: agents.into(),
                folder: folder.into(),
                closed: CancellationToken::new(),
            }),
            slots: Mutex::default(),
        }
    }

    /// The host, connected. A host that isn't up yet is waited for as long as `wait` says; a wrong
    /// host key or a refused key fails at once.
    pub async fn get(
        &self,
        target: &Target,
        wait: Option<Duration>,
    ) -> Result<Host, ConnectionError> {
        let slot = self.slot(target);
        slot.live(target, wait).await?;
        Ok(Host::new(target, slot))
    }

    /// The host, whether it is connected or not.
    pub fn at_hand(&self, target: &Target) -> Host {
        Host::new(target, self.slot(target))
    }

    /// The host over a new TCP and SSH connection of its own, which ends with the last clone of the
    /// result: [`protocol::message::Request::Confirm`] needs one newer than the change.
    pub async fn new_connection(&self, target: &Target) -> Result<Host, ConnectionError> {
        let slot = Slot::new(Arc::clone(&self.connector));
        slot.live(target, None).await?;
        Ok(Host::new(target, slot))
    }

    /// Ends all connections in good order, and lets no new ones be made.
    pub async fn close_all(&self) {
        self.connector.closed.cancel();
        let slots: Vec<_> = self.slots().drain().map(|(_, slot)| slot).collect();
        let closing: Vec<_> = slots
            .into_iter()
            .map(|slot| tokio::spawn(async move { slot.close().await }))
            .collect();
        for task in closing {
            let _ = task.await;
        }
    }

    fn slot(&self, target: &Target) -> Arc<Slot> {
        let bastion = target.bastion.as_ref();
        let bastion_key = bastion.and_then(|bastion| bastion.host_key.clone());
        let mut slots = self.slots();
        let slot = slots
            .entry((target.identity(), bastion_key))
            .or_insert_with(|| Slot::new(Arc::clone(&self.connector)));
        Arc::clone(slot)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
