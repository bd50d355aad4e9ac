//! nftables, through nft(8): a ruleset goes in as one transaction, a listing comes out as JSON.

use protocol::{Failure, FailureKind};
use serde_json::Value;

use crate::{command::Program, context::Context};

/// Applies commands, all or none.
pub async fn apply(context: &Context, commands: &str) -> Result<(), Failure> {
    Program::new("nft")
        .args(["-f", "-"])
        .input(commands)
        .run(context)
        .await
        .map(drop)
}

/// Lists something as JSON: `table bridge nspawn_agent`; none when it isn't there, or nft isn't.
pub async fn list(context: &Context, what: &[&str]) -> Result<Option<Value>, Failure> {
    let listed = Program::new("nft")
        .args(["-j", "list"])
        .args(what)
        .run(context)
        .await;
    match listed {
        Ok(output) => serde_json::from_slice(&output).map(Some).map_err(|error| {
            Failure::new(
                FailureKind::Command,
                format!("nft -j list {} gave no JSON: {error}", what.join(" ")),
            )
        }),
        Err(failure) if is_missing(&failure) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn is_missing(failure: &Failure) -> bool {
    let text = &failure.message;
    text.contains("No such file or directory")
}
