//! The random words by which objects know their owners and hosts know this process.

use protocol::name::{InvalidName, OwnerToken, SessionId};

/// Why there is no random word.
#[derive(Debug, thiserror::Error)]
pub enum RandomError {
    /// getrandom(2) failed.
    #[error("the system gave no random numbers: {0}")]
    System(#[from] getrandom::Error),
    /// The word has not the form of a token.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// A new owner token.
pub fn owner_token() -> Result<OwnerToken, RandomError> {
    Ok(word()?.parse()?)
}

/// A new session id.
pub fn session_id() -> Result<SessionId, RandomError> {
    Ok(word()?.parse()?)
}

fn word() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn tokens_differ() {
        assert_ne!(super::owner_token().unwrap(), super::owner_token().unwrap());
    }
}
