//! A file that the provider streams up along with a request.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use protocol::{Failure, FailureKind, frame::DATA_WINDOW, message::Event};
use tokio::sync::mpsc;

use crate::context::Context;

/// Where the events of a request go.
pub type EventSender = mpsc::UnboundedSender<(u32, Event)>;

/// What has come in and wasn't taken yet.
#[derive(Clone, Copy, Default)]
struct Waiting {
    /// Whether the file was asked for.
    asked_for: bool,
    bytes: u64,
}

/// A file that the provider streams up when it is asked to.
#[derive(Clone)]
pub struct Upload {
    id: u32,
    events: EventSender,
    waiting: Rc<Cell<Waiting>>,
    arrived: Rc<RefCell<Option<mpsc::UnboundedReceiver<Vec<u8>>>>>,
}

/// The two ends of an upload: the deed's, and the one that frames are put into.
pub fn upload(id: u32, events: EventSender) -> (Upload, Intake) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Rc::new(Cell::default());
    let upload = Upload {
        id,
        events,
        waiting: Rc::clone(&waiting),
        arrived: Rc::new(RefCell::new(Some(receiver))),
    };
    (
        upload,
        Intake {
            waiting,
            sender: Some(sender),
        },
    )
}

/// Where data frames are put in.
pub struct Intake {
    waiting: Rc<Cell<Waiting>>,
    sender: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

impl Intake {
    /// Takes one frame; the empty one ends the upload. Whoever sends more than the window would make
    /// the agent hold all of it.
    pub fn put(&mut self, piece: Vec<u8>) -> Result<(), Failure> {
        let Some(sender) = &self.sender else {
            return Ok(());
        };
        if piece.is_empty() {
            self.sender = None;
            return Ok(());
        }
        let mut waiting = self.waiting.get();
        waiting.bytes += piece.len() as u64;
        if !waiting.asked_for || waiting.bytes > DATA_WINDOW {
            return Err(Failure::new(
                FailureKind::Protocol,
                "the provider sent more of a file than it was asked for",
            ));
        }
        // A deed that has ended reads no more; its answer says why.
        if sender.send(piece).is_ok() {
            self.waiting.set(waiting);
        }
        Ok(())
    }
}

impl Upload {
    /// Asks the provider for the file. It can be asked for once.
    pub fn start(&self) -> Result<UploadReader, Failure> {
        let arrived = self.arrived.borrow_mut().take().ok_or_else(|| {
            Failure::new(
                FailureKind::Protocol,
                "a file was asked for twice in one request",
            )
        })?;
        self.waiting.set(Waiting {
            asked_for: true,
            ..self.waiting.get()
        });
        let _ = self.events.send((self.id, Event::WantData));
        Ok(UploadReader {
            id: self.id,
            events: self.events.clone(),
            waiting: Rc::clone(&self.waiting),
            arrived,
            taken: 0,
            acknowledged: 0,
        })
    }
}

/// The pieces of a file as they arrive.
pub struct UploadReader {
    id: u32,
    events: EventSender,
    waiting: Rc<Cell<Waiting>>,
    arrived: mpsc::UnboundedReceiver<Vec<u8>>,
    taken: u64,
    acknowledged: u64,
}

impl UploadReader {
    /// The next piece; none at the file's end. The piece before is acknowledged by this call.
    pub async fn next(&mut self, context: &Context) -> Result<Option<Vec<u8>>, Failure> {
        // An eighth of the window at a time keeps the other end busy with few events.
        if self.taken - self.acknowledged >= DATA_WINDOW / 8 {
            self.acknowledged = self.taken;
            let _ = self.events.send((self.id, Event::Received(self.taken)));
        }
        let piece = context
            .within(async { Ok(self.arrived.recv().await) })
            .await?;
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.taken += length;
        let waiting = self.waiting.get();
        self.waiting.set(Waiting {
            bytes: waiting.bytes - length,
            ..waiting
        });
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use protocol::frame::DATA_LIMIT;

    use super::*;

    #[test]
    fn what_nobody_asked_for_is_not_kept() {
        let (events, _queue) = mpsc::unbounded_channel();
        let (upload, mut intake) = upload(1, events);
        assert!(intake.put(vec![0]).is_err(), "before it was asked for");
        let _reader = upload.start().unwrap();
        let mut taken = 0;
        while intake.put(vec![0; DATA_LIMIT]).is_ok() {
            taken += DATA_LIMIT as u64;
            assert!(taken <= DATA_WINDOW, "{taken}");
        }
        assert_eq!(taken, DATA_WINDOW);
    }
}
