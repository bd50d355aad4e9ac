//! Frames on stdin and stdout.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{self, Poll},
    time::Duration,
};

use protocol::{
    Failure, FailureKind,
    frame::{FrameKind, HEADER_LENGTH, Header, InvalidFrame, MESSAGE_LIMIT, REQUEST_LIMIT},
    message::{Event, Request},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::failure::Context as _;

/// One frame from the provider.
#[derive(Debug)]
pub enum Incoming {
    /// A request; one that can't be understood is answered with a failure.
    Request(u32, Result<Box<Request>, Failure>),
    /// A piece of an upload.
    Data(u32, Vec<u8>),
    /// The provider is still there.
    Heartbeat,
}

/// Notes when the last bytes came.
pub struct Heard<S> {
    stream: S,
    at: Rc<Cell<Instant>>,
}

/// When the last bytes came.
pub struct LastHeard(Rc<Cell<Instant>>);

/// A stream, and when it was last heard.
pub fn heard<S>(stream: S) -> (Heard<S>, LastHeard) {
    let at = Rc::new(Cell::new(Instant::now()));
    let last = LastHeard(Rc::clone(&at));
    (Heard { stream, at }, last)
}

impl LastHeard {
    /// Waits until nothing has come for so long. Tells for how long: longer, when this process was frozen itself.
    pub async fn silent_for(&self, time: Duration) -> Duration {
        loop {
            let silent = self.0.get().elapsed();
            if silent >= time {
                return silent;
            }
            sleep_until(self.0.get() + time).await;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.at.set(Instant::now());
        }
        read
    }
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
    // Answers may be longer than requests, which share their frames.
    if header.kind == FrameKind::Message && header.length > REQUEST_LIMIT {
        return Err(protocol_failure(InvalidFrame::Length(header.length)));
    }
    let mut payload = vec![0; header.length];
    if stream.read_exact(&mut payload).await.is_err() {
        return Ok(None);
    }
    Ok(Some(match header.kind {
        FrameKind::Heartbeat => Incoming::Heartbeat,
        FrameKind::Data => Incoming::Data(header.id, payload),
        FrameKind::Message => Incoming::Request(header.id, Request::decode(&payload).map(Box::new)),
    }))
}

/// Writes events until no more come, or the provider is gone: what is under way hears of that by the end of stdin.
pub async fn write_all(
    mut stream: impl AsyncWrite + Unpin,
    mut events: mpsc::UnboundedReceiver<(u32, Event)>,
) {
    while let Some((id, event)) = events.recv().await {
        if write(&mut stream, id, &event).await.is_err() {
            return;
        }
    }
}

async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    id: u32,
    event: &Event,
) -> Result<(), Failure> {
    fault::point(|| format!("before: send {}", event.name()));
    // Whoever asked would wait for it until its deadline.
    let frame = encode(id, event).or_else(|failure| encode(id, &Event::Done(Err(failure))))?;
    let written = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    written.await.doing(|| format!("send {}", event.name()))
}

fn encode(id: u32, event: &Event) -> Result<Vec<u8>, Failure> {
    let payload = serde_json::to_vec(event).map_err(|error| {
        Failure::new(FailureKind::Protocol, format!("encode an answer: {error}"))
    })?;
    if payload.len() > MESSAGE_LIMIT {
        return Err(too_long(event, payload.len()));
    }
    let header = Header {
        kind: FrameKind::Message,
        id,
        length: payload.len(),
    };
    let mut frame = header.encode().map_err(protocol_failure)?.to_vec();
    frame.extend(payload);
    Ok(frame)
}

/// All of a host's objects together can be; one alone is bounded by its request.
fn too_long(event: &Event, length: usize) -> Failure {
    let name = event.name();
    Failure::new(
        FailureKind::Protocol,
        format!("{name} to this request has {length} bytes, and at most {MESSAGE_LIMIT} can be sent"),
    )
    .help("Too much is kept on this host: shorten its containers' labels and nspawn_config, or spread them over several hosts.")
}

#[allow(clippy::needless_pass_by_value, reason = "stands in map_err")]
fn protocol_failure(error: InvalidFrame) -> Failure {
    Failure::new(FailureKind::Protocol, error.to_string())
}

#[cfg(test)]
mod tests {
    use protocol::message::Answer;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_is_too_long_is_told_and_ends_no_other() {
        let (sender, events) = mpsc::unbounded_channel();
        let long = Answer::Welcome {
            version: 1,
            // Each takes six bytes in JSON.
            agent_version: "\0".repeat(MESSAGE_LIMIT / 6 + 1),
            machine_id: String::new(),
            boot_id: String::new(),
        };
        sender.send((1, Event::Done(Ok(long)))).unwrap();
        let next = Event::Done(Ok(Answer::Noted));
        sender.send((2, next.clone())).unwrap();
        drop(sender);
        let mut written = Vec::new();
        write_all(&mut written, events).await;
        let mut left = written.as_slice();
        let mut read = || {
            let (header, rest) = left.split_first_chunk().unwrap();
            let header = Header::decode(*header).unwrap();
            let (payload, rest) = rest.split_at(header.length);
            left = rest;
            let event: Event = serde_json::from_slice(payload).unwrap();
            (header.id, event)
        };
        let (1, Event::Done(Err(failure))) = read() else {
            panic!("not the failure of the first");
        };
        assert!(failure.message.contains("bytes"), "{failure}");
        assert!(failure.help.is_some());
        assert_eq!(read(), (2, next));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn silence_begins_with_the_last_byte() {
        let (mut far, near) = tokio::io::duplex(64);
        let (mut near, last) = heard(near);
        let second = Duration::from_secs(1);
        let mut silence = Box::pin(last.silent_for(4 * second));
        let begun = Instant::now();
        for _ in 0..5 {
            tokio::select! {
                _ = &mut silence => panic!("silent after {:?}", begun.elapsed()),
                () = tokio::time::sleep(3 * second) => {}
            }
            far.write_all(b"x").await.unwrap();
            near.read_u8().await.unwrap();
        }
        silence.await;
        assert_eq!(begun.elapsed(), 19 * second);
    }
}
