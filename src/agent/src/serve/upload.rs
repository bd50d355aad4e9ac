//! A file that the provider streams up along with a request.

use std::{cell::RefCell, rc::Rc};

use protocol::{Failure, FailureKind, frame::DATA_WINDOW, message::Event};
use tokio::sync::mpsc;

use crate::context::Context;

/// Where the events of a request go.
pub type EventSender = mpsc::UnboundedSender<(u32, Event)>;

/// A file that the provider streams up when it is asked to.
#[derive(Clone)]
pub struct Upload {
    id: u32,
    events: EventSender,
    arrived: Rc<RefCell<Option<mpsc::UnboundedReceiver<Vec<u8>>>>>,
}

/// The two ends of an upload: the deed's, and the one that frames are put into.
pub fn upload(id: u32, events: EventSender) -> (Upload, Intake) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let upload = Upload {
        id,
        events,
        arrived: Rc::new(RefCell::new(Some(receiver))),
    };
    (
        upload,
        Intake {
            sender: Some(sender),
        },
    )
}

/// Where data frames are put in.
pub struct Intake {
    sender: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

impl Intake {
    /// Takes one frame; the empty one ends the upload.
    pub fn put(&mut self, piece: Vec<u8>) {
        if piece.is_empty() {
            self.sender = None;
        } else if let Some(sender) = &self.sender {
            // A deed that has ended reads no more; its answer says why.
            let _ = sender.send(piece);
        }
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
        let _ = self.events.send((self.id, Event::WantData));
        Ok(UploadReader {
            id: self.id,
            events: self.events.clone(),
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
        self.taken += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }
}
