//! What the resident service has given up for the moment, for the next refresh to say.

use std::path::PathBuf;

use protocol::Failure;

use crate::{context::Context, failure::Context as _, system::files};

fn path(context: &Context) -> PathBuf {
    context.run_folder.join("given-up.json")
}

/// A sentence for each thing.
pub fn read(context: &Context) -> Result<Vec<String>, Failure> {
    let text = files::read(&path(context))?;
    let sentences = text.and_then(|text| serde_json::from_slice(&text).ok());
    Ok(sentences.unwrap_or_default())
}

/// Notes what is given up.
pub fn write(context: &Context, sentences: &[String]) -> Result<(), Failure> {
    if sentences.is_empty() {
        return forget(context);
    }
    let text = serde_json::to_vec(sentences).map_err(std::io::Error::other);
    let text = text.doing(|| "note what is given up")?;
    files::replace(&path(context), &text, 0o600)
}

/// A change of what is wanted tries all afresh.
pub fn forget(context: &Context) -> Result<(), Failure> {
    files::remove_file(&path(context))
}
