//! Starting, stopping and waiting, without the host's lock: a slow guest is waited for, never killed.

use std::{fmt::Write as _, time::Duration};

use protocol::{Failure, FailureKind, desired::Container, name::MachineName};
use tokio::time::{Instant, sleep};

use super::{
    listeners, mac, observe,
    paths::Paths,
    plan::{self, Run},
    started::Started,
    storage,
};
use crate::{
    command::off_thread,
    context::Context,
    filter::port,
    guest, host,
    reconcile::{Scope, Step, look},
    store::Stored,
    system::{
        journal,
        systemd::{Job, JobEnd, Systemd, UnitState},
    },
};

/// How long a guest may take to shut down before it is ended. systemd's own default is 90 s.
const SHUTDOWN: Duration = Duration::from_secs(45);

/// How long systemd may take to tell why a guest was ended.
const REASON: Duration = Duration::from_secs(20);

/// How long a unit may take to end once it is killed: nothing ends a process that brings a copied root to a busy disk
/// before that is done. syncfs(2)
pub const CLEAR_UP: Duration = Duration::from_mins(2);

/// How often the guest's listening sockets are looked at; the kernel tells of none.
const PORT_INTERVAL: Duration = Duration::from_millis(50);

/// How often a guest is started that is down again at once.
const STARTS: u32 = 2;

/// How soon a unit that just changed is looked at again.
const UNIT_INTERVAL: Duration = Duration::from_millis(50);

/// How a container's unit stands after [`begin`].
enum Begun {
    /// It is down, as it should be.
    Down,
    Up,
    /// It has a job of ours, whose end is the container's.
    Ours(Job),
    /// It has a job of somebody else's, such as systemd's own after a failure; then it has to be looked at again.
    Others(Job),
    /// It is on its way down, and is to be started after that.
    Stopping,
    /// It was on its way up, and has no job for that any more: it has to be looked at again.
    Changed,
}

/// Makes a container run or stop as it should, and waits as long as it says.
pub async fn settle(context: &Context, stored: &Stored<Container>) -> Result<(), Failure> {
    let container = &stored.desired;
    let systemd = Systemd::of_host(context).await?;
    let since = Instant::now();
    let until = context
        .deadline
        .min(since + container.wait_for.timeout.duration());
    let Some(starts) = come_up(context, &systemd, container, until).await? else {
        return Ok(());
    };
    if let Some(port) = container.wait_for.port {
        let wait = listening(context, &systemd, container, port, until);
        unless_cancelled(context, wait).await?;
    }
    if starts > 0 {
        context.progress(format!(
            "{}: up after {:.1?}",
            container.name,
            since.elapsed()
        ));
    }
    Ok(())
}

/// Looks and acts until the container is as it should be. How often it was started; `None` of one that should be down.
async fn come_up(
    context: &Context,
    systemd: &Systemd,
    container: &Container,
    until: Instant,
) -> Result<Option<u32>, Failure> {
    let (mut starts, mut is_queued) = (0, false);
    loop {
        match begin(context, systemd, container).await? {
            Begun::Down => return Ok(None),
            Begun::Up => return Ok(Some(starts)),
            Begun::Ours(job) => {
                booted(context, systemd, container, job, until).await?;
                starts += 1;
                if has_come_up(systemd, container, starts).await? {
                    return Ok(Some(starts));
                }
            }
            Begun::Others(job) => booted(context, systemd, container, job, until).await?,
            // Whoever waits no longer shall find it started all the same.
            Begun::Stopping if !is_queued => {
                context.progress(format!("{}: waiting until it has stopped", container.name));
                systemd.start(&Paths::of(&container.name).unit()).await?;
                is_queued = true;
            }
            Begun::Stopping | Begun::Changed if Instant::now() >= until => {
                return Err(too_slow(context, systemd, container, "to boot").await);
            }
            Begun::Stopping | Begun::Changed => {
                context.check()?;
                sleep(UNIT_INTERVAL).await;
            }
        }
    }
}

/// Whether a guest is up after its start was done, or has to be looked at again: one that was down again at once, or whose
/// unit failed in the moment of the start. One that ends well by itself each time is left so, and told in its drift.
async fn has_come_up(
    systemd: &Systemd,
    container: &Container,
    starts: u32,
) -> Result<bool, Failure> {
    let state = systemd
        .unit_state(&Paths::of(&container.name).unit())
        .await?;
    if state.is_ready() || starts < STARTS {
        return Ok(state.is_ready());
    }
    if state.active == "inactive" {
        return Ok(true);
    }
    let message = format!(
        "the container {} did not stay up: its unit is {} ({})",
        container.name, state.active, state.sub
    );
    Err(ended(systemd, container, message).await)
}

/// Starts or stops what isn't as it should be; waits for a stop only.
async fn begin(
    context: &Context,
    systemd: &Systemd,
    container: &Container,
) -> Result<Begun, Failure> {
    let unit = Paths::of(&container.name).unit();
    let (run, state) = planned(systemd, container).await?;
    Ok(match run {
        Run::Stop => {
            context.progress(format!("{}: stopping", container.name));
            context.within(shut_down(systemd, container)).await?;
            Begun::Down
        }
        // A start joins the job of a run that is failing just now, and a reset would make a success of that, which systemd
        // tells as done. systemd's src/core/unit.c, unit_process_job()
        Run::Start if state.is_stopping() => Begun::Stopping,
        Run::Start => {
            context.progress(format!("{}: starting", container.name));
            if !state.is_up() {
                systemd.reset_failed(&unit).await?;
            }
            Begun::Ours(systemd.start(&unit).await?)
        }
        Run::Restart => {
            context.progress(format!(
                "{}: restarting for its new settings",
                container.name
            ));
            // What is asked for is no crash: it must not count for the limit of starts. systemctl(1), reset-failed
            systemd.reset_failed(&unit).await?;
            Begun::Ours(systemd.restart(&unit).await?)
        }
        Run::Leave if container.running => match systemd.current_job(&unit).await? {
            Some(job) => Begun::Others(job),
            None if systemd.unit_state(&unit).await?.is_ready() => Begun::Up,
            None => Begun::Changed,
        },
        Run::Leave if state.is_failed() => {
            systemd.reset_failed(&unit).await?;
            Begun::Down
        }
        Run::Leave => Begun::Down,
    })
}

async fn planned(systemd: &Systemd, container: &Container) -> Result<(Run, UnitState), Failure> {
    let paths = Paths::of(&container.name);
    let started = Started::read(&paths)?;
    let state = systemd.unit_state(&paths.unit()).await?;
    // Of a guest that isn't ready it doesn't matter, and it takes a look into the guest.
    let is_whole = !state.is_ready() || is_whole(&container.name).await?;
    Ok((plan::run(container, &state, &started, is_whole), state))
}

/// Waits, with no limit but the work's own, which tells what it waited for. Not [`Context::within`], whose limit tells
/// nothing.
async fn unless_cancelled(
    context: &Context,
    wait: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        result = wait => result,
        () = context.cancel.cancelled() => context.check(),
    }
}

/// Whether a guest is to be stopped or restarted though the reconcile failed: its root must not keep it from that.
/// A restart with settings that are still wrong would be taken for one with the right ones. What else is left, such as
/// of the filter while other guests start, doesn't matter: a start waits for that itself.
pub async fn ends_anyway(context: &Context, stored: &Stored<Container>) -> Result<bool, Failure> {
    let systemd = Systemd::of_host(context).await?;
    Ok(match planned(&systemd, &stored.desired).await?.0 {
        Run::Stop => true,
        Run::Restart => {
            let scope = Scope::Container(stored.desired.name.clone());
            let left = look(context, &scope).await?.steps;
            !left.iter().any(Step::shapes_a_start)
        }
        Run::Leave | Run::Start => false,
    })
}

/// Waits for the end of a unit's job.
async fn booted(
    context: &Context,
    systemd: &Systemd,
    container: &Container,
    job: Job,
    until: Instant,
) -> Result<(), Failure> {
    let wait = async {
        let left = until.saturating_duration_since(Instant::now());
        match job.end(left).await? {
            JobEnd::Done => Ok(()),
            JobEnd::Other(result) => {
                let message = format!("the container {} did not start: {result}", container.name);
                Err(ended(systemd, container, message).await)
            }
            JobEnd::TimedOut => Err(too_slow(context, systemd, container, "to boot").await),
        }
    };
    unless_cancelled(context, wait).await
}

async fn listening(
    context: &Context,
    systemd: &Systemd,
    container: &Container,
    port: u16,
    until: Instant,
) -> Result<(), Failure> {
    let unit = Paths::of(&container.name).unit();
    loop {
        if let Some(leader) = systemd.leader(container.name.as_str()).await?
            && listeners::are_on(leader, port)
        {
            return Ok(());
        }
        let state = systemd.unit_state(&unit).await?;
        if !state.is_up() {
            let message = format!(
                "the container {} stopped while TCP port {port} was waited for",
                container.name
            );
            return Err(ended(systemd, container, message).await);
        }
        if Instant::now() >= until {
            let what = format!("to listen on TCP port {port}");
            return Err(too_slow(context, systemd, container, &what).await);
        }
        sleep(PORT_INTERVAL).await;
    }
}

async fn too_slow(
    context: &Context,
    systemd: &Systemd,
    container: &Container,
    what: &str,
) -> Failure {
    let span = &container.wait_for.timeout;
    // Whichever was over first has to be raised.
    let (mut message, limit) = if Instant::now() >= context.deadline {
        let message = format!(
            "the container {} took longer {what} than this change may take",
            container.name
        );
        (message, "timeouts")
    } else {
        let message = format!(
            "the container {} took longer than {span} {what}",
            container.name
        );
        (message, "wait_for.timeout")
    };
    let unit = Paths::of(&container.name).unit();
    let mut outlook = "It is left running";
    if let Ok(state) = systemd.unit_state(&unit).await {
        let _ = write!(message, "; its unit is {} ({})", state.active, state.sub);
        if state.is_stopping() {
            outlook = "It is started once it has stopped";
        }
    }
    if let Ok(Some(leader)) = systemd.leader(container.name.as_str()).await {
        let inside = guest::bus::system_state(leader).await;
        let inside = inside.unwrap_or_else(|| "not answering yet".to_owned());
        let _ = write!(message, "; its own service manager is {inside}");
    }
    let failure = Failure::new(FailureKind::Timeout, message)
        .help(format!(
            "{outlook}. Raise {limit}, or look inside on the host: machinectl shell {}",
            container.name
        ))
        .at(limit);
    // The time for the change may be up; the reason is worth a moment more.
    let lines = journal::last_lines(systemd, &unit, Instant::now() + REASON).await;
    with_lines(failure, &unit, &lines)
}

async fn ended(systemd: &Systemd, container: &Container, message: String) -> Failure {
    let unit = Paths::of(&container.name).unit();
    let lines = journal::last_lines_of_failed(systemd, &unit, Instant::now() + REASON).await;
    with_lines(Failure::new(FailureKind::Command, message), &unit, &lines)
}

fn with_lines(mut failure: Failure, unit: &str, lines: &str) -> Failure {
    if !lines.is_empty() {
        let _ = write!(failure.message, "\nThe last lines of {unit}:\n{lines}");
    }
    failure
}

async fn shut_down(systemd: &Systemd, container: &Container) -> Result<(), Failure> {
    let job = systemd.stop(&Paths::of(&container.name).unit()).await?;
    match job.end(SHUTDOWN).await? {
        JobEnd::TimedOut => end(systemd, container).await,
        // A guest that failed on its way down was to go all the same.
        JobEnd::Done | JobEnd::Other(_) => {
            systemd
                .reset_failed(&Paths::of(&container.name).unit())
                .await
        }
    }
}

/// Takes away the root of a stopped container, whose own unit was killed when it should have.
pub async fn take_down(context: &Context, name: &MachineName) -> Result<(), Failure> {
    let systemd = Systemd::of_host(context).await?;
    // It may have been started since.
    if systemd.unit_state(&Paths::of(name).unit()).await?.is_up() {
        return Ok(());
    }
    let Some(stored) = context.store.get::<Container>(name.as_str())? else {
        return Ok(());
    };
    off_thread(stored.desired, |container| storage::take_down(&container)).await
}

/// Ends a guest at once and waits until its unit has cleared up.
pub async fn end(systemd: &Systemd, container: &Container) -> Result<(), Failure> {
    let unit = Paths::of(&container.name).unit();
    let state = systemd.unit_state(&unit).await?;
    if state.is_up() {
        systemd.kill(container.name.as_str()).await?;
        let job = systemd.stop(&unit).await?;
        if job.end(CLEAR_UP).await? == JobEnd::TimedOut {
            return Err(Failure::new(
                FailureKind::Timeout,
                format!("{unit} did not stop within {CLEAR_UP:?} of being killed"),
            )
            .help("Look for processes in an uninterruptible state on the host."));
        }
    }
    systemd.reset_failed(&unit).await
}

/// Whether all is there that a running guest is given by its start alone.
async fn is_whole(name: &MachineName) -> Result<bool, Failure> {
    if !port::exists(name) || storage::has_lost_root(&Paths::of(name)) {
        return Ok(false);
    }
    let id = mac::parse_machine_id(&host::facts::machine_id()?).unwrap_or_default();
    let mac = mac::mac_address(id, name.as_str());
    Ok(match observe::leader(name)? {
        Some(leader) => !guest::network::has_lost_link(leader, mac).await,
        None => true,
    })
}
