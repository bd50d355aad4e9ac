//! The agent's stand-in: this test program again, started by sshd. The name of the image that is to be
//! removed says how to behave.

use std::{
    env, fs,
    io::{Read as _, Write as _, stdin, stdout},
    path::{Path, PathBuf},
    process::exit,
};

use protocol::{
    Failure, FailureKind, VERSION,
    desired::ObjectKey,
    frame::{FrameKind, HEADER_LENGTH, Header, MAGIC},
    message::{Answer, Event, Request},
};
use sha2::{Digest as _, Sha256};

/// The folder where stand-ins leave notes.
pub(super) const NOTES: &str = "FAKE_AGENT_NOTES";

/// This is no test: it does nothing unless sshd starts it.
#[test]
#[ignore = "the agent's stand-in, started by sshd"]
fn serve() {
    let Some(notes) = env::var_os(NOTES) else {
        return;
    };
    put(MAGIC);
    FakeAgent::new(notes.into()).run();
    exit(0);
}

/// Past libtest's capture.
fn put(bytes: &[u8]) {
    let mut stdout = stdout().lock();
    stdout.write_all(bytes).unwrap();
    stdout.flush().unwrap();
}

fn say(id: u32, event: &Event) {
    let payload = serde_json::to_vec(event).unwrap();
    let header = Header {
        kind: FrameKind::Message,
        id,
        length: payload.len(),
    };
    put(&[&header.encode().unwrap()[..], &payload].concat());
}

struct FakeAgent {
    notes: PathBuf,
    waiting: Vec<u32>,
    upload: (Sha256, u64),
}

impl FakeAgent {
    fn new(notes: PathBuf) -> Self {
        Self {
            notes,
            waiting: Vec::new(),
            upload: (Sha256::new(), 0),
        }
    }

    fn run(&mut self) {
        loop {
            let mut header = [0; HEADER_LENGTH];
            if stdin().read_exact(&mut header).is_err() {
                fs::write(self.notes.join("ended"), "in good order").unwrap();
                return;
            }
            let header = Header::decode(header).unwrap();
            let mut payload = vec![0; header.length];
            stdin().read_exact(&mut payload).unwrap();
            match header.kind {
                FrameKind::Data => self.take(header.id, &payload),
                FrameKind::Heartbeat => drop(note(&self.notes, "heartbeat")),
                FrameKind::Message => {
                    self.answer(header.id, serde_json::from_slice(&payload).unwrap());
                }
            }
        }
    }

    fn answer(&mut self, id: u32, request: Request) {
        match request {
            Request::Hello { .. } => say(
                id,
                &Event::Done(Ok(Answer::Welcome {
                    version: VERSION,
                    agent_version: "fake".to_owned(),
                    machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
                })),
            ),
            Request::Remove {
                key: ObjectKey::Image(name),
                ..
            } => self.act(id, name.as_str()),
            Request::Cancel { id: other } => {
                self.waiting.retain(|waiting| *waiting != other);
                fs::write(self.notes.join("cancelled"), "").unwrap();
                say(
                    other,
                    &Event::Done(Err(Failure::new(FailureKind::Cancelled, "cancelled"))),
                );
                say(id, &Event::Done(Ok(Answer::Noted)));
            }
            _ => say(id, &Event::Done(Ok(Answer::Noted))),
        }
    }

    fn act(&mut self, id: u32, what: &str) {
        match what {
            "waits" => {
                say(id, &Event::Progress("waiting".to_owned()));
                self.waiting.push(id);
            }
            "never" => {}
            "uploads" => say(id, &Event::WantData),
            "dies" => self.die(),
            "dies-once" => {
                if !note(&self.notes, "died") {
                    self.die();
                }
                say(id, &Event::Done(Ok(Answer::Removed)));
            }
            "nonsense" => put(b"this is no frame"),
            _ => {
                say(id, &Event::Progress(format!("removing {what}")));
                say(id, &Event::Done(Ok(Answer::Removed)));
            }
        }
    }

    fn die(&self) -> ! {
        let _ = note(&self.notes, "died");
        eprintln!("{}the agent's dying words", "x".repeat(20_000));
        exit(3);
    }

    fn take(&mut self, id: u32, piece: &[u8]) {
        self.upload.0.update(piece);
        self.upload.1 += piece.len() as u64;
        if piece.is_empty() {
            let digest = self.upload.0.clone().finalize();
            say(
                id,
                &Event::Progress(format!("{} bytes {digest:x?}", self.upload.1)),
            );
            say(id, &Event::Done(Ok(Answer::Removed)));
        } else {
            say(id, &Event::Received(self.upload.1));
        }
    }
}

/// Leaves a note; whether it was there already.
fn note(folder: &Path, name: &str) -> bool {
    let path = folder.join(name);
    let there = path.exists();
    fs::write(path, "").unwrap();
    there
}
