//! A file on its way to the agent, no more of it at once than the window allows.

use std::{future::pending, path::Path};

use protocol::{
    Failure, FailureKind,
    frame::{DATA_LIMIT, DATA_WINDOW},
};
use tokio::{fs::File, io::AsyncReadExt as _};

/// A file on its way up.
pub(super) struct Upload {
    file: File,
    shown: String,
    buffer: Vec<u8>,
    sent: u64,
    received: u64,
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
            done: false,
        })
    }

    /// The agent has taken so many bytes in all.
    pub(super) fn acknowledge(&mut self, bytes: u64) {
        self.received = bytes;
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
/// where there is nothing to send.
pub(super) async fn next_piece(upload: Option<&mut Upload>) -> Result<&[u8], Failure> {
    let Some(upload) = upload else {
        return pending().await;
    };
    let in_flight = upload.sent.saturating_sub(upload.received);
    if upload.done || in_flight + DATA_LIMIT as u64 > DATA_WINDOW {
        return pending().await;
    }
    let length = upload
        .file
        .read(&mut upload.buffer)
        .await
        .map_err(|error| unreadable(&upload.shown, &error))?;
    upload.done = length == 0;
    upload.sent += length as u64;
    Ok(&upload.buffer[..length])
}
