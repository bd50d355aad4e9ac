//! The agent's stand-in: this test program again, started by sshd. The name of the image, or of the
//! host's bridge, says how to behave.

use std::{
    env, fs,
    io::{Read as _, Write as _, stdin, stdout},
    path::{Path, PathBuf},
    process::exit,
};

use protocol::{
    Failure, FailureKind, VERSION,
    desired::{Desired, ObjectKey},
    frame::{FrameKind, HEADER_LENGTH, Header, MAGIC},
    message::{Answer, Event, Put, Request},
    observed::{HostState, ImageState, Object, Observed, Owner, RolledBack, Snapshot},
};
use rustix::process::{Signal, getpid, kill_process};
use sha2::{Digest as _, Sha256};

use crate::fixture;

/// The folder where stand-ins leave notes.
pub(super) const NOTES: &str = "FAKE_AGENT_NOTES";

/// The machine that it says it is, unless the note `machine` says otherwise.
pub(super) const MACHINE: &str = "0123456789abcdef0123456789abcdef";

/// The machine that a host which fails over leads to.
pub(super) const OTHER_MACHINE: &str = "fedcba9876543210fedcba9876543210";

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
            Request::Hello { .. } if self.notes.join("shut-down").exists() => {
                let _ = kill_process(getpid(), Signal::TERM);
            }
            Request::Hello { .. } => say(
                id,
                &Event::Done(Ok(Answer::Welcome {
                    version: VERSION,
                    agent_version: "fake".to_owned(),
                    machine_id: fs::read_to_string(self.notes.join("machine"))
                        .unwrap_or_else(|_| MACHINE.to_owned()),
                    boot_id: fs::read_to_string(self.notes.join("boot")).unwrap_or_default(),
                })),
            ),
            Request::Remove {
                key: ObjectKey::Image(name),
                deadline,
                ..
            } => {
                fs::write(self.notes.join("deadline"), deadline.to_string()).unwrap();
                self.act(id, name.as_str());
            }
            Request::Put(put) => self.make(id, *put),
            Request::Snapshot { .. } => {
                say(id, &Event::Done(Ok(Answer::Snapshot(self.snapshot()))));
            }
            Request::Claim { objects } => {
                let claimed = serde_json::to_string(&objects).unwrap();
                fs::write(self.notes.join("claimed"), claimed).unwrap();
                say(id, &Event::Done(Ok(Answer::Noted)));
            }
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
                let _ = note(&self.notes, "waiting");
            }
            "never" => {}
            "uploads" => say(id, &Event::WantData),
            "uploads-twice" => (0..2).for_each(|_| say(id, &Event::WantData)),
            "dies" => self.die(),
            "dies-once" => {
                if !note(&self.notes, "died") {
                    self.die();
                }
                say(id, &Event::Done(Ok(Answer::Removed)));
            }
            "fails-over" if !self.notes.join("machine").exists() => {
                fs::write(self.notes.join("machine"), OTHER_MACHINE).unwrap();
                self.die();
            }
            "nonsense" => put(b"this is no frame"),
            _ => {
                say(id, &Event::Progress(format!("removing {what}")));
                say(id, &Event::Done(Ok(Answer::Removed)));
            }
        }
    }

    /// Makes an object, or behaves as its name says.
    fn make(&mut self, id: u32, asked: Put) {
        let (name, object) = made(asked);
        let refused = |kind| say(id, &Event::Done(Err(Failure::new(kind, "refused"))));
        let again = self.notes.join("died").exists();
        match name.as_str() {
            "waits" => return self.act(id, "waits"),
            "fails-over" if !self.notes.join("machine").exists() => {
                return self.act(id, "fails-over");
            }
            "reboots" if !again => {
                fs::write(self.notes.join("boot"), "the next one").unwrap();
                self.die();
            }
            "busy" => return refused(FailureKind::Busy),
            "fails" => return refused(FailureKind::System),
            "busy-later" if again => return refused(FailureKind::Busy),
            "newer-later" if again => return refused(FailureKind::Unsupported),
            _ => {}
        }
        let record = serde_json::to_vec(&object).unwrap();
        fs::write(self.notes.join("object"), record).unwrap();
        if matches!(name.as_str(), "busy-later" | "newer-later" | "dies-once") && !again {
            self.die();
        }
        if name == "fails-undone" {
            return refused(FailureKind::System);
        }
        let object = Box::new(object);
        let failure = None;
        say(id, &Event::Done(Ok(Answer::Changed { object, failure })));
    }

    /// The host with what was made last.
    fn snapshot(&self) -> Box<Snapshot> {
        let mut snapshot = fixture::snapshot();
        if let Ok(record) = fs::read(self.notes.join("object")) {
            match serde_json::from_slice(&record).unwrap() {
                Object::Image(image) => {
                    snapshot.images.insert(image.desired.name.clone(), image);
                }
                Object::Host(_, host) => snapshot.host = Some(host),
                other => panic!("not made by the stand-in: {other:?}"),
            }
        }
        Box::new(snapshot)
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

/// What an object looks like that was made as asked, beside the name that says how to behave.
pub(super) fn made(asked: Put) -> (String, Object) {
    let owner = Owner {
        token: asked.token,
        claimed: false,
        holder: None,
    };
    match asked.desired {
        Desired::Image(desired) => {
            let name = desired.name.to_string();
            let state = ImageState {
                digest: "sha256:0".to_owned(),
                os: "Debian".to_owned(),
                size_bytes: 1,
            };
            let drift = Vec::new();
            (
                name,
                Object::Image(Observed {
                    desired,
                    owner,
                    state,
                    drift,
                }),
            )
        }
        Desired::Host(desired) => {
            let name = desired.bridge.to_string();
            let rolled_back = name.ends_with("undone").then(|| RolledBack {
                at: 1,
                reason: "it was not confirmed".to_owned(),
                changes: vec!["isolation true -> \x1b[2Jfalse".to_owned()],
                put_back: Vec::new(),
            });
            let state = HostState {
                uplink: "eth0".to_owned(),
                confirm_within: None,
                rolled_back,
            };
            let drift = Vec::new();
            let host = Observed {
                desired,
                owner,
                state,
                drift,
            };
            (name, Object::Host(Box::new(fixture::facts()), host))
        }
        other => panic!("not made by the stand-in: {other:?}"),
    }
}

/// Leaves a note; whether it was there already.
fn note(folder: &Path, name: &str) -> bool {
    let path = folder.join(name);
    let there = path.exists();
    fs::write(path, "").unwrap();
    there
}
