//! Frames, out of and into bytes.

use protocol::{
    frame::{FrameKind, HEADER_LENGTH, Header, InvalidFrame, REQUEST_LIMIT},
    message::{Event, Request},
};

use super::harmless::harmless;

/// Bytes of the agent that make no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// No header of ours.
    #[error("{0}")]
    Frame(#[from] protocol::frame::InvalidFrame),
    /// No event of ours.
    #[error("{0}")]
    Message(#[from] serde_json::Error),
    /// Only the provider sends such frames.
    #[error("the agent sent a frame that only the provider sends")]
    Kind,
}

/// A request as bytes.
pub(super) fn request(id: u32, request: &Request) -> Result<Vec<u8>, WireError> {
    let payload = serde_json::to_vec(request)?;
    if payload.len() > REQUEST_LIMIT {
        return Err(InvalidFrame::Length(payload.len()).into());
    }
    frame(FrameKind::Message, id, &payload)
}

/// A piece of an upload as bytes.
pub(super) fn data(id: u32, payload: &[u8]) -> Result<Vec<u8>, WireError> {
    frame(FrameKind::Data, id, payload)
}

/// A sign of life as bytes.
pub(super) fn heartbeat() -> Result<Vec<u8>, WireError> {
    frame(FrameKind::Heartbeat, 0, &[])
}

fn frame(kind: FrameKind, id: u32, payload: &[u8]) -> Result<Vec<u8>, WireError> {
    let length = payload.len();
    let mut bytes = Header { kind, id, length }.encode()?.to_vec();
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// Bytes of the agent that aren't a whole frame yet.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Adds what has come in.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event, when it is whole.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Event)>, WireError> {
        let rest = &self.buffer[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_LENGTH>() else {
            return Ok(None);
        };
        let header = Header::decode(*header)?;
        let Some(payload) = rest.get(..header.length) else {
            return Ok(None);
        };
        if header.kind != FrameKind::Message {
            return Err(WireError::Kind);
        }
        let event = harmless(serde_json::from_slice(payload)?);
        self.taken += HEADER_LENGTH + header.length;
        Ok(Some((header.id, event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event_frame(id: u32, event: &Event) -> Vec<u8> {
        frame(FrameKind::Message, id, &serde_json::to_vec(event).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn events_come_out_however_the_bytes_are_cut(cuts in proptest::collection::vec(1_usize..20, 1..200)) {
            let events: Vec<_> = (0..10).map(|id| (id, Event::Received(u64::from(id)))).collect();
            let bytes: Vec<u8> = events.iter().flat_map(|(id, event)| event_frame(*id, event)).collect();
            let (mut decoder, mut found, mut rest) = (Decoder::default(), Vec::new(), &bytes[..]);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                rest = left;
                decoder.extend(piece);
                while let Some(event) = decoder.next().unwrap() {
                    found.push(event);
                }
            }
            prop_assert_eq!(found, events);
        }

        #[test]
        fn any_bytes_are_events_or_an_error(bytes: Vec<u8>) {
            let mut decoder = Decoder::default();
            decoder.extend(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }

    #[test]
    fn the_agent_sends_messages_only() {
        for frame in [data(1, b"x"), heartbeat()] {
            let mut decoder = Decoder::default();
            decoder.extend(&frame.unwrap());
            assert!(matches!(decoder.next(), Err(WireError::Kind)));
        }
    }
}
