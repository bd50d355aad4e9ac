//! A file on its way to the agent, no more of it at once than the window allows.

use std::{future::pending, path::Path, sync::Arc};

use protocol::{
    Failure, FailureKind,
    frame::{DATA_LIMIT, DATA_WINDOW},
};
use tokio::{
    fs::File,
    io::AsyncReadExt as _,
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// The pieces that a window holds.
#[allow(clippy::cast_possible_truncation, reason = "4 MiB")]
const PIECES: usize = DATA_WINDOW as usize / DATA_LIMIT;

/// Bytes for the host.
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    /// Of a piece of a file: its place in the window, until it has left.
    _place: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    pub(super) fn piece(bytes: Vec<u8>, place: OwnedSemaphorePermit) -> Self {
        Self {
            bytes,
            _place: Some(place),
        }
    }
}

impl From<Vec<u8>> for Outgoing {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            _place: None,
        }
    }
}

/// A file on its way up.
pub(super) struct Upload {
    file: File,
    shown: String,
    buffer: Vec<u8>,
    sent: u64,
    received: u64,
    /// Of pieces that haven't left: an agent that says it has them would have us hold the whole file.
    places: Arc<Semaphore>,
    done: bool,
}

impl Upload {
    pub(super) async fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Err(Failure::new(
                FailureKind::Protocol,
                "the agent asks for a file where there is none to send",
            ));
        };
        let shown = path.display().to_string();
        let file = File::open(path)
            .await
            .map_err(|error| unreadable(&shown, &error))?;
        let buffer = vec![0; DATA_LIMIT];
        Ok(Self {
            file,
            shown,
            buffer,
            sent: 0,
            received: 0,
            places: Arc::new(Semaphore::new(PIECES)),
            done: false,
        })
    }

    /// The agent has taken so many bytes in all.
    pub(super) fn acknowledge(&mut self, bytes: u64) {
        self.received = bytes.min(self.sent);
    }
}

fn unreadable(path: &str, error: &std::io::Error) -> Failure {
    Failure::new(
        FailureKind::Invalid,
        format!("reading {path} for the upload: {error}"),
    )
    .help("Correct the path, or make the file readable.")
    .at("tarball.path")
}

/// The next piece of a file, an empty one at its end; waits while the window is full, and forever
/// where there is nothing to send. With its place in the window, which it gives up when it has left.
pub(super) async fn next_piece(
    upload: Option<&mut Upload>,
) -> Result<(&[u8], OwnedSemaphorePermit), Failure> {
    let Some(upload) = upload else {
        return pending().await;
    };
    let in_flight = upload.sent.saturating_sub(upload.received);
    if upload.done || in_flight + DATA_LIMIT as u64 > DATA_WINDOW {
        return pending().await;
    }
    let places = Arc::clone(&upload.places);
    let Ok(place) = places.acquire_owned().await else {
        return pending().await;
    };
    let length = upload
        .file
        .read(&mut upload.buffer)
        .await
        .map_err(|error| unreadable(&upload.shown, &error))?;
    upload.done = length == 0;
    upload.sent += length as u64;
    Ok((&upload.buffer[..length], place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the next piece is, unless it has to wait.
    async fn piece(upload: &mut Upload) -> Option<OwnedSemaphorePermit> {
        let next = tokio::time::timeout(
            std::time::Duration::from_millis(200),
            next_piece(Some(upload)),
        );
        next.await.ok().map(|piece| piece.unwrap().1)
    }

    #[tokio::test]
    async fn an_agent_that_acknowledges_what_it_never_got_gets_no_more_than_the_window() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(3 * DATA_WINDOW).unwrap();
        let mut upload = Upload::open(Some(file.path())).await.unwrap();
        let mut held = Vec::new();
        upload.acknowledge(u64::MAX);
        while let Some(place) = piece(&mut upload).await {
            held.push(place);
            assert!(held.len() <= PIECES, "once is enough");
        }
        assert_eq!(held.len(), PIECES);
        upload.acknowledge(u64::MAX);
        assert!(piece(&mut upload).await.is_none(), "nothing has left");
        held.clear();
        assert!(piece(&mut upload).await.is_some());
    }
}
