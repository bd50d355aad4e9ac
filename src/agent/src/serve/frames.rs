//! Frames on stdin and stdout.

use protocol::{
    Failure, FailureKind,
    frame::{FrameKind, HEADER_LENGTH, Header, InvalidFrame},
    message::{Event, Request},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::failure::Context as _;

/// One frame from the provider.
#[derive(Debug)]
pub enum Incoming {
    /// A request; one that can't be understood is answered with a failure.
    Request(u32, Result<Box<Request>, Failure>),
    /// A piece of an upload.
    Data(u32, Vec<u8>),
}

/// Reads the next frame; none at the end of the stream.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Incoming>, Failure> {
    let mut bytes = [0; HEADER_LENGTH];
    match stream.read_exact(&mut bytes).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error).doing(|| "read a request"),
    }
    let header = Header::decode(bytes).map_err(protocol_failure)?;
    let mut payload = vec![0; header.length];
    if stream.read_exact(&mut payload).await.is_err() {
        return Ok(None);
    }
    Ok(Some(match header.kind {
        FrameKind::Data => Incoming::Data(header.id, payload),
        FrameKind::Message => Incoming::Request(
            header.id,
            serde_json::from_slice(&payload)
                .map(Box::new)
                .map_err(|error| {
                    Failure::new(
                        FailureKind::Protocol,
                        format!("the agent doesn't understand this request: {error}"),
                    )
                }),
        ),
    }))
}

/// Writes one event.
pub async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    id: u32,
    event: &Event,
) -> Result<(), Failure> {
    let payload = serde_json::to_vec(event).map_err(|error| {
        Failure::new(FailureKind::Protocol, format!("encode an answer: {error}"))
    })?;
    let header = Header {
        kind: FrameKind::Message,
        id,
        length: payload.len(),
    };
    let header = header.encode().map_err(protocol_failure)?;
    stream
        .write_all(&header)
        .await
        .doing(|| "write an answer")?;
    stream
        .write_all(&payload)
        .await
        .doing(|| "write an answer")?;
    stream.flush().await.doing(|| "write an answer")
}

#[allow(clippy::needless_pass_by_value, reason = "stands in map_err")]
fn protocol_failure(error: InvalidFrame) -> Failure {
    Failure::new(FailureKind::Protocol, error.to_string())
}
