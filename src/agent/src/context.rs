//! What every deed of the agent gets: the store, the kernel, systemd, and the request it serves.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use protocol::{Failure, FailureKind, name::SessionId};
use tokio::{
    sync::{OnceCell, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::Context as _, filter, lock, serve::upload::Upload, store::Store,
    system::netlink::Netlink,
};

/// Where the agent keeps what a reboot may forget.
pub const RUN_FOLDER: &str = "/run/nspawn-agent";

/// How long a call over the system bus may take. systemd reads all units anew within one, which takes long on a
/// host with hundreds of guests.
const CALL_TIME: Duration = Duration::from_secs(90);

/// What every deed of the agent gets. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The desired state.
    pub store: Store,
    /// The host's network.
    pub netlink: Netlink,
    /// What a reboot may forget: the lock, sessions, the guests' network files.
    pub run_folder: PathBuf,
    /// Who makes the change, for whoever waits for the lock.
    pub holder: String,
    /// The provider process; none in the resident service.
    pub session: Option<SessionId>,
    /// When the change has to be done.
    pub deadline: Instant,
    /// How often the host's lock is tried again while another holds it.
    pub lock_interval: Duration,
    /// Set when the caller asks to stop.
    pub cancel: CancellationToken,
    /// For how long the provider wasn't heard, when all that it had asked for was stopped for that.
    pub unheard: Rc<Cell<Option<Duration>>>,
    /// The file that the provider streams up with this request.
    pub upload: Option<Upload>,
    /// What this process knows of the kernel's filter table.
    pub filter_listed: Rc<RefCell<filter::Listed>>,
    progress: Option<mpsc::UnboundedSender<String>>,
    bus: Rc<OnceCell<zbus::Connection>>,
}

impl Context {
    /// A context for work without a request: the resident service, the container's own unit.
    pub fn new(netlink: Netlink, holder: impl Into<String>, time: Duration) -> Self {
        Self {
            store: Store::new(crate::store::FOLDER),
            netlink,
            run_folder: PathBuf::from(RUN_FOLDER),
            holder: holder.into(),
            session: None,
            deadline: Instant::now() + time,
            lock_interval: lock::INTERVAL,
            cancel: CancellationToken::new(),
            unheard: Rc::default(),
            upload: None,
            filter_listed: Rc::default(),
            progress: None,
            bus: Rc::new(OnceCell::new()),
        }
    }

    /// The same with a connection of its own to the bus, made at first use.
    #[must_use]
    pub fn reconnected(&self) -> Self {
        Self {
            bus: Rc::default(),
            ..self.clone()
        }
    }

    /// The same for one request, with a deadline and a way to stop of its own.
    #[must_use]
    pub fn for_request(
        &self,
        time: Duration,
        cancel: CancellationToken,
        progress: mpsc::UnboundedSender<String>,
    ) -> Self {
        Self {
            deadline: Instant::now() + time,
            cancel,
            progress: Some(progress),
            ..self.clone()
        }
    }

    /// The same with a fresh deadline.
    #[must_use]
    pub fn within_time(&self, time: Duration) -> Self {
        Self {
            deadline: Instant::now() + time,
            ..self.clone()
        }
    }

    /// The same with a deadline of its own, and nobody to stop it: for what has to be done just because the change
    /// was stopped, or its time is up.
    #[must_use]
    pub fn undisturbed(&self, time: Duration) -> Self {
        Self {
            cancel: CancellationToken::new(),
            ..self.within_time(time)
        }
    }

    /// The same before others that wait for the host's lock: for what has to be done in time, and takes but a moment.
    #[must_use]
    pub fn in_haste(&self) -> Self {
        Self {
            lock_interval: lock::HASTY_INTERVAL,
            ..self.clone()
        }
    }

    /// Sends a line for the log; the resident service writes it to the journal.
    pub fn progress(&self, line: impl Into<String>) {
        let line = line.into();
        match &self.progress {
            // The receiver is gone only when the connection is.
            Some(sender) => drop(sender.send(line)),
            None => eprintln!("{line}"),
        }
    }

    /// Fails when the caller asked to stop or the time is up: for safe points between two steps.
    pub fn check(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Err(self.cancelled());
        }
        if Instant::now() >= self.deadline {
            return Err(timed_out());
        }
        Ok(())
    }

    /// Runs something that may be dropped half-way until it ends, the caller asks to stop, or the time is up.
    pub async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(self.cancelled()),
            result = tokio::time::timeout_at(self.deadline, work) => {
                result.unwrap_or_else(|_| Err(timed_out()))
            }
        }
    }

    fn cancelled(&self) -> Failure {
        let Some(time) = self.unheard.get() else {
            return Failure::new(FailureKind::Cancelled, "stopped, as Terraform asked");
        };
        let seconds = time.as_secs();
        Failure::new(
            FailureKind::Cancelled,
            format!("stopped: nspawn-agent had heard nothing of the provider for {seconds} seconds"),
        )
        .help("The connection or the host stood still. Run terraform apply again: what is done already is not done twice.")
    }

    /// The system bus, connected at first use.
    pub async fn bus(&self) -> Result<&zbus::Connection, Failure> {
        self.bus.get_or_try_init(connect).await
    }
}

/// Connects to the system bus. One that takes calls and never answers must not keep the host's lock for ever.
async fn connect() -> Result<zbus::Connection, Failure> {
    let connected = zbus::connection::Builder::system()
        .method_timeout(CALL_TIME)
        .build();
    let deed = || "connect to the host's system bus";
    tokio::time::timeout(CALL_TIME, connected)
        .await
        .map_err(std::io::Error::from)
        .doing(deed)?
        .doing(deed)
}

fn timed_out() -> Failure {
    Failure::new(FailureKind::Timeout, "the time for this change is up")
        .help("Raise this resource's timeouts.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn what_follows_a_change_that_was_stopped_is_not_stopped_with_it() {
        // Where netlink's own task runs.
        let local = tokio::task::LocalSet::new();
        let _entered = local.enter();
        let netlink = Netlink::open().unwrap();
        let context = Context::new(netlink, "test", Duration::ZERO);
        context.cancel.cancel();
        let minute = Duration::from_mins(1);
        let work = async || Ok(1);
        let later = context.within_time(minute);
        assert_eq!(
            later.check().unwrap_err().kind,
            FailureKind::Cancelled,
            "more time alone doesn't help"
        );
        let undisturbed = context.undisturbed(minute);
        undisturbed.check().unwrap();
        assert_eq!(undisturbed.within(work()).await.unwrap(), 1);
        undisturbed.cancel.cancel();
        assert!(undisturbed.within(work()).await.is_err());
    }
}
