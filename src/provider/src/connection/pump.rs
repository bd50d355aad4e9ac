//! Frames in both directions, once the agent serves.

use std::{
    sync::{Arc, mpsc},
    time::Instant,
};

use protocol::frame::HEARTBEAT;

use super::{
    link::Shared,
    session::StepError,
    upload::Outgoing,
    wire::{self, Decoder},
    worker::{END_TIMEOUT, Pipe, Turn},
};

/// A connection with an agent that serves.
pub(super) struct Pump<'a> {
    pub(super) pipe: Pipe,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) decoder: Decoder,
}

impl Pump<'_> {
    /// Runs until the connection ends; the reason, for those who still wait for an answer.
    pub(super) fn run(&mut self, outgoing: &mpsc::Receiver<Outgoing>) -> Result<String, StepError> {
        let mut beat = Instant::now() + HEARTBEAT;
        loop {
            self.pipe.outgoing.extend(outgoing.try_iter());
            if Instant::now() >= beat {
                beat = Instant::now() + HEARTBEAT;
                if self.pipe.outgoing.is_empty() {
                    let heartbeat = wire::heartbeat().map_err(|error| error.to_string());
                    self.pipe.outgoing.extend(heartbeat.map(Outgoing::from));
                }
            }
            let decoder = &mut self.decoder;
            let turn = self.pipe.turn(&mut |bytes| decoder.extend(bytes))?;
            loop {
                match self.decoder.next() {
                    Ok(Some((id, event))) => self.shared.deliver(id, event),
                    Ok(None) => break,
                    Err(error) => {
                        return Ok(format!("the agent said what makes no sense: {error}"));
                    }
                }
            }
            if turn == Turn::Ended {
                let status = self.pipe.status();
                return Ok(format!("the agent ended with status {status}"));
            }
            if self.shared.wake.is_closing() {
                fault::point(|| "before: end the connection");
                self.end();
                fault::done(|| "end the connection");
                return Ok("the connection was closed".to_owned());
            }
            if turn == Turn::Idle {
                self.pipe.wait(beat)?;
            }
        }
    }

    /// Ends in good order: the agent sees the end of its stdin and ends by itself.
    fn end(&mut self) {
        let deadline = Instant::now() + END_TIMEOUT;
        let pipe = &mut self.pipe;
        let _ = pipe.ssh.finish(deadline, |_| pipe.channel.send_eof());
        while Instant::now() < deadline {
            match pipe.turn(&mut |_| {}) {
                Ok(Turn::More) => {}
                Ok(Turn::Idle) if pipe.ssh.wait(deadline, None).is_ok() => {}
                _ => break,
            }
        }
        pipe.ssh.disconnect(deadline);
    }
}
