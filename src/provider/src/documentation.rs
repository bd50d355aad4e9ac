//! `terraform-provider-nspawn docs`: the registry's pages, out of the definitions that the provider
//! itself works with.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use tfplugin::Server;

/// Why the pages could not be written or are not up to date.
#[derive(Debug, thiserror::Error)]
pub enum DocumentationError {
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// Pages differ from the definitions.
    #[error("these pages are stale: {}; run `terraform-provider-nspawn docs DIR`", .0.join(", "))]
    Stale(Vec<String>),
}

/// Writes all pages into a folder. Other files in it are left alone.
pub fn write(server: &Server, folder: &Path) -> Result<(), DocumentationError> {
    for (name, text) in pages(server, folder) {
        let path = folder.join(name);
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, text));
        written.map_err(|error| DocumentationError::File { path, error })?;
    }
    Ok(())
}

/// Compares all pages with those in a folder.
pub fn check(server: &Server, folder: &Path) -> Result<(), DocumentationError> {
    let stale: Vec<_> = pages(server, folder)
        .into_iter()
        .filter(|(name, text)| fs::read_to_string(folder.join(name)).ok().as_ref() != Some(text))
        .map(|(name, _)| name)
        .collect();
    if stale.is_empty() {
        Ok(())
    } else {
        Err(DocumentationError::Stale(stale))
    }
}

/// The examples stand in `examples`, beside the pages' folder.
fn pages(server: &Server, folder: &Path) -> BTreeMap<String, String> {
    let examples = folder.join("../examples");
    server.documentation(|path| fs::read_to_string(examples.join(path)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_were_just_written_are_up_to_date_and_others_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (docs, server) = (
            folder.path().join("docs"),
            crate::provider::server().unwrap(),
        );
        assert!(check(&server, &docs).is_err());
        write(&server, &docs).unwrap();
        check(&server, &docs).unwrap();
        fs::write(docs.join("index.md"), "old").unwrap();
        assert!(
            check(&server, &docs)
                .unwrap_err()
                .to_string()
                .contains("index.md")
        );
    }

    #[test]
    fn the_pages_in_the_repository_are_up_to_date() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        check(&crate::provider::server().unwrap(), &docs).unwrap();
    }
}
