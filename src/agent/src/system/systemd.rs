//! systemd and systemd-machined over D-Bus: the few calls that containers need.
//!
//! org.freedesktop.systemd1(5), org.freedesktop.machine1(5)

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use protocol::{Failure, FailureKind};
use zbus::{Connection, OwnedObjectPath};

use self::calls::{
    JobRemovedStream, MachineProxy, MachinesProxy, ManagerProxy, ServiceProxy, UnitProxy,
};
pub use self::{
    masked::{is_mask, is_masked, masked},
    unit_state::UnitState,
};
use super::netlink::hexadecimal;
use crate::{context::Context, failure::Context as _};

mod calls;
mod masked;
mod unit_state;

/// How the units of containers begin; the container follows.
pub const INSTANCE_OF: &str = "systemd-nspawn@";

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// As asked.
    Done,
    /// "failed", "canceled", "dependency", …
    Other(String),
    /// Still under way when the time was over.
    TimedOut,
}

/// A service manager, and the machine manager beside it.
#[derive(Debug, Clone)]
pub struct Systemd {
    connection: Connection,
}

impl Systemd {
    /// The host's own.
    pub async fn of_host(context: &Context) -> Result<Self, Failure> {
        Ok(Self::over(context.bus().await?.clone()))
    }

    /// Speaks over a bus connection that is there already; a guest's, too.
    pub fn over(connection: Connection) -> Self {
        Self { connection }
    }

    async fn manager(&self) -> Result<ManagerProxy<'_>, Failure> {
        ManagerProxy::new(&self.connection)
            .await
            .doing(|| "reach systemd")
    }

    async fn machines(&self) -> Result<MachinesProxy<'_>, Failure> {
        MachinesProxy::new(&self.connection)
            .await
            .doing(|| "reach systemd-machined")
    }

    /// The manager's version, such as "257.9-1~deb13u1".
    pub async fn version(&self) -> Result<String, Failure> {
        let manager = self.manager().await?;
        let version = again(async || manager.version().await).await;
        version.doing(|| "ask systemd for its version")
    }

    /// "running", "degraded", "starting", …
    pub async fn system_state(&self) -> Result<String, Failure> {
        let manager = self.manager().await?;
        let state = again(async || manager.system_state().await).await;
        state.doing(|| "ask systemd for its state")
    }

    /// Makes systemd read units' files again where it holds older ones of any. A unit that it hasn't
    /// loaded yet is read fresh, without the reload of everything that takes long on a full host.
    pub async fn refresh_units(&self, units: &[String]) -> Result<(), Failure> {
        for unit in units {
            if self.is_outdated(unit).await? {
                return self.reload().await;
            }
        }
        Ok(())
    }

    /// Whether systemd holds older files of a unit than there are.
    pub async fn is_outdated(&self, unit: &str) -> Result<bool, Failure> {
        let manager = self.manager().await?;
        let look = async || self.unit(&manager, unit).await?.need_daemon_reload().await;
        again(look).await.doing(|| format!("look at {unit}"))
    }

    /// Makes systemd read all units again.
    pub async fn reload(&self) -> Result<(), Failure> {
        let manager = self.manager().await?;
        // Twice does no harm.
        let reloaded = again(async || manager.reload().await).await;
        reloaded.doing(|| "reload systemd's units")
    }

    /// Makes systemd forget what it holds of a unit whose files are gone.
    pub async fn forget_unit(&self, unit: &str) -> Result<(), Failure> {
        self.reset_failed(unit).await?;
        // It stays loaded where a target wants it since the boot, and then with its old files.
        if self.units(unit).await?.is_empty() {
            Ok(())
        } else {
            self.reload().await
        }
    }

    async fn unit<'a>(
        &'a self,
        manager: &ManagerProxy<'a>,
        unit: &str,
    ) -> zbus::Result<UnitProxy<'a>> {
        let path = manager.load_unit(unit).await?;
        let built = UnitProxy::builder(&self.connection).path(path);
        built.build().await
    }

    /// The state of one unit.
    pub async fn unit_state(&self, unit: &str) -> Result<UnitState, Failure> {
        let manager = self.manager().await?;
        let look = async || {
            let proxy = self.unit(&manager, unit).await?;
            Ok(UnitState {
                active: proxy.active_state().await?,
                sub: proxy.sub_state().await?,
            })
        };
        again(look).await.doing(|| format!("look at {unit}"))
    }

    /// The states of the units that would be stopped along with this one, such as those in a slice. systemd.unit(5)
    pub async fn stopped_along(&self, unit: &str) -> Result<Vec<UnitState>, Failure> {
        let manager = self.manager().await?;
        let look = async || {
            let proxy = self.unit(&manager, unit).await?;
            let mut names = proxy.required_by().await?;
            names.extend(proxy.bound_by().await?);
            names.extend(proxy.consists_of().await?);
            Ok(names)
        };
        let names = again(look).await;
        let names = names.doing(|| format!("look at what needs {unit}"))?;
        let mut states = Vec::new();
        for name in names {
            states.push(self.unit_state(&name).await?);
        }
        Ok(states)
    }

    /// Its newest run, as the journal names it; `None` when it never ran. sd_id128_get_invocation(3)
    pub async fn invocation(&self, unit: &str) -> Result<Option<String>, Failure> {
        let manager = self.manager().await?;
        let look = async || self.unit(&manager, unit).await?.invocation().await;
        let id = again(look).await.doing(|| format!("look at {unit}"))?;
        Ok((!id.is_empty()).then(|| hexadecimal(&id)))
    }

    /// The process id of a service; 0 when it doesn't run.
    pub async fn main_process(&self, unit: &str) -> Result<u32, Failure> {
        let manager = self.manager().await?;
        let look = async || {
            let path = manager.load_unit(unit).await?;
            let service = ServiceProxy::builder(&self.connection).path(path);
            service.build().await?.main_process().await
        };
        again(look).await.doing(|| format!("look at {unit}"))
    }

    /// The loaded units whose names match a pattern.
    pub async fn units(&self, pattern: &str) -> Result<HashMap<String, UnitState>, Failure> {
        let manager = self.manager().await?;
        let list = async || manager.list_units_by_patterns(&[], &[pattern]).await;
        let listed = again(list).await.doing(|| "list systemd's units")?;
        Ok(listed
            .into_iter()
            .map(|unit| {
                (
                    unit.0,
                    UnitState {
                        active: unit.3,
                        sub: unit.4,
                    },
                )
            })
            .collect())
    }

    /// Starts a unit and returns at once.
    pub async fn start(&self, unit: &str) -> Result<Job, Failure> {
        self.job(unit, "start", async |manager| {
            manager.start_unit(unit, "replace").await
        })
        .await
    }

    /// Stops a unit and returns at once.
    pub async fn stop(&self, unit: &str) -> Result<Job, Failure> {
        self.job(unit, "stop", async |manager| {
            manager.stop_unit(unit, "replace").await
        })
        .await
    }

    /// Restarts a unit and returns at once.
    pub async fn restart(&self, unit: &str) -> Result<Job, Failure> {
        self.job(unit, "restart", async |manager| {
            manager.restart_unit(unit, "replace").await
        })
        .await
    }

    /// The job that a unit has at the moment.
    pub async fn current_job(&self, unit: &str) -> Result<Option<Job>, Failure> {
        let deed = || format!("look at {unit}");
        let manager = self.manager().await?;
        let ends = again(async || self.job_ends(&manager).await).await;
        let ends = ends.doing(deed)?;
        let look = async || self.unit(&manager, unit).await?.job().await;
        let (id, job) = again(look).await.doing(deed)?;
        Ok((id != 0).then_some(Job { job, ends }))
    }

    async fn job<'a>(
        &'a self,
        unit: &str,
        verb: &str,
        enqueue: impl AsyncFnOnce(&ManagerProxy<'a>) -> zbus::Result<OwnedObjectPath>,
    ) -> Result<Job, Failure> {
        let manager = self.manager().await?;
        let begin = async {
            // Listening begins before the job does, or a quick end would be missed.
            let ends = again(async || self.job_ends(&manager).await).await?;
            let job = enqueue(&manager).await?;
            Ok::<_, zbus::Error>(Job { job, ends })
        };
        match begin.await {
            Err(error) if is_error(&error, &["org.freedesktop.systemd1.UnitMasked"]) => {
                Err(masked(unit))
            }
            enqueued => enqueued.doing(|| format!("{verb} {unit}")),
        }
    }

    async fn job_ends<'a>(&'a self, manager: &ManagerProxy<'a>) -> zbus::Result<JobRemovedStream> {
        match manager.subscribe().await {
            Err(error) if !is_error(&error, &["org.freedesktop.systemd1.AlreadySubscribed"]) => {
                return Err(error);
            }
            _ => {}
        }
        manager.receive_job_removed().await
    }

    /// Clears a unit's failed state; fine when it has none.
    pub async fn reset_failed(&self, unit: &str) -> Result<(), Failure> {
        let manager = self.manager().await?;
        // Twice does no harm.
        match again(async || manager.reset_failed_unit(unit).await).await {
            Err(error) if is_unknown(&error) => Ok(()),
            reset => reset.doing(|| format!("reset {unit}")),
        }
    }

    /// The names of the machines that run.
    pub async fn machine_names(&self) -> Result<Vec<String>, Failure> {
        let listed = match self.machines().await?.list_machines().await {
            // A host that systemd-container is yet to be installed on runs no machines.
            Err(error) if is_error(&error, &["org.freedesktop.DBus.Error.ServiceUnknown"]) => {
                return Ok(Vec::new());
            }
            listed => listed.doing(|| "list the running machines")?,
        };
        // ".host" is the host itself.
        Ok(listed
            .into_iter()
            .map(|machine| machine.0)
            .filter(|name| name != ".host")
            .collect())
    }

    /// The host's process id of a machine's first process; `None` when it doesn't run.
    pub async fn leader(&self, machine: &str) -> Result<Option<u32>, Failure> {
        let deed = || format!("look at the machine {machine}");
        let path = match self.machines().await?.get_machine(machine).await {
            Ok(path) => path,
            Err(error) if is_unknown(&error) => return Ok(None),
            Err(error) => return Err(error).doing(deed),
        };
        let build = async {
            MachineProxy::builder(&self.connection)
                .path(path)
                .build()
                .await?
                .leader()
                .await
        };
        match build.await {
            Ok(leader) => Ok(Some(leader)),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(error).doing(deed),
        }
    }

    /// Makes systemd-machined forget a machine, without ending anything; fine when it knows none of that name.
    pub async fn unregister(&self, machine: &str) -> Result<(), Failure> {
        match self.machines().await?.unregister_machine(machine).await {
            Err(error) if is_unknown(&error) => Ok(()),
            forgotten => forgotten.doing(|| format!("unregister the machine {machine}")),
        }
    }

    /// Kills a machine's first process, and with it all others; fine when it doesn't run.
    pub async fn kill(&self, machine: &str) -> Result<(), Failure> {
        match self
            .machines()
            .await?
            .kill_machine(machine, "leader", libc::SIGKILL)
            .await
        {
            // It may end by itself just now: ESRCH of kill(2), in machined's words.
            Err(error) if is_unknown(&error) || is_error(&error, &[GONE]) => Ok(()),
            ended => ended.doing(|| format!("end the machine {machine}")),
        }
    }
}

/// What a process is that has ended.
const GONE: &str = "org.freedesktop.DBus.Error.UnixProcessIdUnknown";

/// A job that systemd works on.
#[derive(Debug)]
pub struct Job {
    job: OwnedObjectPath,
    ends: JobRemovedStream,
}

impl Job {
    /// Waits for the job's end, which systemd announces.
    pub async fn end(mut self, timeout: Duration) -> Result<JobEnd, Failure> {
        let announced = async {
            while let Some(signal) = self.ends.next().await {
                let Ok(end) = signal.args() else { continue };
                if end.job == self.job {
                    return Ok(match end.result.as_str() {
                        "done" | "skipped" => JobEnd::Done,
                        other => JobEnd::Other(other.to_owned()),
                    });
                }
            }
            Err(Failure::new(
                FailureKind::System,
                "the connection to systemd was closed",
            ))
        };
        tokio::time::timeout(timeout, announced)
            .await
            .unwrap_or(Ok(JobEnd::TimedOut))
    }
}

/// So often is asked again what systemd has not answered because it was executed anew just then, which takes it some
/// tenths of a second: `systemctl daemon-reexec`, as an upgrade of systemd does it.
const ASKED_AGAIN: u32 = 5;
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Asks for something that only looks, or that does no harm when it is done twice.
async fn again<T>(ask: impl AsyncFn() -> zbus::Result<T>) -> zbus::Result<T> {
    for _ in 0..ASKED_AGAIN {
        match ask().await {
            Err(error) if is_error(&error, &LOST) => tokio::time::sleep(ASKED_AGAIN_AFTER).await,
            answer => return answer,
        }
    }
    ask().await
}

/// How the bus tells that whoever was asked has left it without an answer.
const LOST: [&str; 2] = [
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.Disconnected",
];

/// Whether what was asked for has gone, or never was.
fn is_unknown(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::MethodError(..) => is_error(
            error,
            &[
                "org.freedesktop.systemd1.NoSuchUnit",
                "org.freedesktop.machine1.NoSuchMachine",
                "org.freedesktop.DBus.Error.UnknownObject",
                "org.freedesktop.DBus.Error.UnknownMethod",
            ],
        ),
        // Properties fail with the bus's own errors.
        zbus::Error::FDO(error) => matches!(
            **error,
            zbus::fdo::Error::UnknownObject(_)
                | zbus::fdo::Error::UnknownMethod(_)
                | zbus::fdo::Error::UnknownInterface(_)
        ),
        _ => false,
    }
}

/// Whether an error is one of these. zbus wraps those of the bus itself in a type of their own.
pub fn is_error(error: &zbus::Error, names: &[&str]) -> bool {
    match error {
        zbus::Error::MethodError(name, ..) => names.contains(&name.as_str()),
        zbus::Error::FDO(error) => names.contains(&zbus::DBusError::name(&**error).as_str()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn lost() -> zbus::Error {
        zbus::Error::FDO(Box::new(zbus::fdo::Error::NoReply("left".to_owned())))
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn what_systemd_did_not_answer_while_it_was_executed_anew_is_asked_again() {
        let asked = Cell::new(0);
        let answer = again(async || {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Err(lost()) } else { Ok(7) }
        });
        assert_eq!(answer.await.unwrap(), 7);
        for (error, times) in [
            (lost as fn() -> _, ASKED_AGAIN + 1),
            (|| zbus::Error::InvalidReply, 1),
        ] {
            asked.set(0);
            let answer = again(async || {
                asked.set(asked.get() + 1);
                Err::<(), _>(error())
            });
            assert!(answer.await.is_err());
            assert_eq!(asked.get(), times);
        }
    }
}
