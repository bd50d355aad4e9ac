//! The layout of bytes on the agent's stdin and stdout.
//!
//! First a line of magic from the agent, then frames both ways: length of the payload (4 bytes, big
//! endian), kind (1 byte), id of the request that it belongs to (4 bytes, big endian), payload.

use std::time::Duration;

/// The agent's first line on stdout. What a login shell printed before it is noise.
/// mutagen's agent and zed's remote server find their start in the same way.
pub const MAGIC: &[u8] = b"\x00nspawn-agent serve 1\n";

/// How much noise may come before [`MAGIC`]. Bytes.
pub const NOISE_LIMIT: usize = 64 * 1024;

/// The length of a frame's header. Bytes.
pub const HEADER_LENGTH: usize = 9;

/// The longest payload of a message: a snapshot of thousands of objects fits. Bytes.
pub const MESSAGE_LIMIT: usize = 64 * 1024 * 1024;

/// The longest payload of a request: one object, or the claims of thousands. Bytes.
pub const REQUEST_LIMIT: usize = 4 * 1024 * 1024;

/// The longest payload of a data frame. Bytes.
pub const DATA_LIMIT: usize = 256 * 1024;

/// How much data may be on its way before the agent has acknowledged it: keeps an upload from
/// blocking other requests on the one channel, and 4 MiB fill 50 ms of round trip at 80 MB/s. Bytes.
pub const DATA_WINDOW: u64 = 4 * 1024 * 1024;

/// How often the provider gives a sign of life, whether it asks for anything or not.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long the agent hears nothing before it takes the provider for gone: a line that has frozen
/// closes nothing, and sshd notices it after hours only.
pub const SILENCE: Duration = Duration::from_secs(20);

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// JSON: a request in one direction, an event in the other.
    Message,
    /// A piece of an upload; an empty one ends it.
    Data,
    /// Nothing: the provider is still there.
    Heartbeat,
}

/// The fixed part before each payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: FrameKind,
    /// The request that this belongs to.
    pub id: u32,
    /// The length of the payload. Bytes.
    pub length: usize,
}

/// Bytes that are not a frame's header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrame {
    /// The kind is none of ours.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Longer than the other end may send.
    #[error("a frame of {0} bytes is over the limit")]
    Length(usize),
}

impl Header {
    /// The header as bytes.
    ///
    /// # Errors
    /// When the payload is longer than the other end accepts.
    pub fn encode(self) -> Result<[u8; HEADER_LENGTH], InvalidFrame> {
        self.check()?;
        let length = u32::try_from(self.length).map_err(|_| InvalidFrame::Length(self.length))?;
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4] = match self.kind {
            FrameKind::Message => 0,
            FrameKind::Data => 1,
            FrameKind::Heartbeat => 2,
        };
        bytes[5..].copy_from_slice(&self.id.to_be_bytes());
        Ok(bytes)
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When the kind is unknown or the length over the limit.
    pub fn decode(bytes: [u8; HEADER_LENGTH]) -> Result<Self, InvalidFrame> {
        let [l0, l1, l2, l3, kind, i0, i1, i2, i3] = bytes;
        let kind = match kind {
            0 => FrameKind::Message,
            1 => FrameKind::Data,
            2 => FrameKind::Heartbeat,
            other => return Err(InvalidFrame::Kind(other)),
        };
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let header = Self {
            kind,
            id: u32::from_be_bytes([i0, i1, i2, i3]),
            length,
        };
        header.check()?;
        Ok(header)
    }

    fn check(self) -> Result<(), InvalidFrame> {
        let limit = match self.kind {
            FrameKind::Message => MESSAGE_LIMIT,
            FrameKind::Data => DATA_LIMIT,
            FrameKind::Heartbeat => 0,
        };
        if self.length > limit {
            Err(InvalidFrame::Length(self.length))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_comes_back(id: u32, length in 0..=DATA_LIMIT, data: bool) {
            let kind = if data { FrameKind::Data } else { FrameKind::Message };
            let header = Header { kind, id, length };
            prop_assert_eq!(Header::decode(header.encode().unwrap()), Ok(header));
        }

        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes: [u8; HEADER_LENGTH]) {
            if let Ok(header) = Header::decode(bytes) {
                prop_assert_eq!(header.encode(), Ok(bytes));
            }
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        assert_eq!(
            Header::decode([0xff, 0, 0, 0, 0, 0, 0, 0, 1]),
            Err(InvalidFrame::Length(0xff00_0000))
        );
        assert_eq!(
            Header::decode([0, 0, 0, 0, 7, 0, 0, 0, 1]),
            Err(InvalidFrame::Kind(7))
        );
        assert!(
            Header {
                kind: FrameKind::Data,
                id: 1,
                length: DATA_LIMIT + 1
            }
            .encode()
            .is_err()
        );
    }
}
