//! Frames, out of and into bytes.

use protocol::{
    Failure,
    frame::{FrameKind, HEADER_LENGTH, Header, InvalidFrame, REQUEST_LIMIT},
    message::{Answer, Event, Request},
    observed::{Object, Observed},
};

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
        let event = printable(serde_json::from_slice(payload)?);
        self.taken += HEADER_LENGTH + header.length;
        Ok(Some((header.id, event)))
    }
}

/// What is shown to a person may come from a guest, by way of the journal or a program's complaint.
fn printable(event: Event) -> Event {
    match event {
        Event::Progress(line) => Event::Progress(texts::printable(&line)),
        Event::Done(Err(failure)) => Event::Done(Err(printable_failure(failure))),
        Event::Done(Ok(answer)) => Event::Done(Ok(printable_answer(answer))),
        other => other,
    }
}

fn printable_answer(mut answer: Answer) -> Answer {
    match &mut answer {
        Answer::Changed { object, failure } => {
            match &mut **object {
                Object::Host(_, host) => make_printable(host),
                Object::Image(image) => make_printable(image),
                Object::Container(container) => make_printable(container),
                Object::Address(address) => make_printable(address),
            }
            *failure = failure.take().map(printable_failure);
        }
        Answer::Snapshot(snapshot) => {
            snapshot.host.iter_mut().for_each(make_printable);
            snapshot.images.values_mut().for_each(make_printable);
            snapshot.containers.values_mut().for_each(make_printable);
            snapshot.addresses.values_mut().for_each(make_printable);
        }
        _ => {}
    }
    answer
}

fn make_printable<D, S>(observed: &mut Observed<D, S>) {
    for sentence in &mut observed.drift {
        *sentence = texts::printable(sentence);
    }
}

fn printable_failure(failure: Failure) -> Failure {
    Failure {
        message: texts::printable(&failure.message),
        help: failure.help.map(|help| texts::printable(&help)),
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use protocol::{
        FailureKind,
        desired::{Image, ImageSource, Tarball, TarballLocation},
        observed::{ImageState, Owner},
    };

    use super::*;
    use crate::fixture;
    use proptest::prelude::*;

    #[test]
    fn nothing_that_a_guest_says_steers_the_terminal() {
        let hostile = "the last lines:\n\x1b]0;owned\x07\x1b[2J";
        let failure = Failure::new(FailureKind::Command, hostile).help(hostile);
        let image = Observed {
            desired: Image {
                name: "debian".parse().unwrap(),
                source: ImageSource::Tarball(Tarball {
                    location: TarballLocation::Path("/tmp/debian.tar".to_owned()),
                    sha256: "a".repeat(64),
                }),
                customize: None,
                timeouts: None,
            },
            owner: Owner {
                token: fixture::token('a'),
                claimed: true,
                holder: None,
            },
            state: ImageState {
                digest: "sha256:0".to_owned(),
                os: "Debian".to_owned(),
                size_bytes: 1,
            },
            drift: vec![hostile.to_owned()],
        };
        let mut snapshot = fixture::snapshot();
        snapshot
            .images
            .insert("debian".parse().unwrap(), image.clone());
        let changed = Answer::Changed {
            object: Box::new(Object::Image(image)),
            failure: None,
        };
        for event in [
            Event::Progress(hostile.to_owned()),
            Event::Done(Err(failure)),
            Event::Done(Ok(changed)),
            Event::Done(Ok(Answer::Snapshot(Box::new(snapshot)))),
        ] {
            let mut decoder = Decoder::default();
            decoder.extend(&event_frame(1, &event));
            let (_, event) = decoder.next().unwrap().unwrap();
            let shown = match event {
                Event::Progress(line) => line,
                Event::Done(Ok(Answer::Changed { object, .. })) => match *object {
                    Object::Image(image) => image.drift.concat(),
                    other => panic!("{other:?}"),
                },
                Event::Done(Ok(Answer::Snapshot(snapshot))) => {
                    let images = snapshot.images.into_values();
                    images.flat_map(|image| image.drift).collect()
                }
                Event::Done(Err(failure)) => failure.message + &failure.help.unwrap(),
                other => panic!("{other:?}"),
            };
            assert!(!shown.contains(['\x1b', '\x07']), "{shown:?}");
            assert!(shown.contains("lines:\n"), "{shown:?}");
        }
    }

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
