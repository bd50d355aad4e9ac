//! nspawn-agent: makes a Debian host what Terraform asks for, and keeps it so.
//!
//! Knows the host, not Terraform: nothing of the plugin protocol or of SSH may enter here.

#![allow(
    async_fn_in_trait,
    clippy::future_not_send,
    reason = "the agent has one thread; nothing crosses another"
)]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "the kill sweep strikes at no test"
    )
)]

mod address;
mod command;
mod container;
mod context;
mod discarded;
mod failure;
mod filter;
mod given_up;
mod guest;
mod host;
mod image;
mod left_over;
mod lock;
mod object;
mod ownership;
mod reconcile;
mod resident;
mod serve;
mod store;
mod system;
#[cfg(test)]
mod testing;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use protocol::{Failure, name::MachineName};
use tokio::{runtime, task::LocalSet};

use crate::{context::Context, failure::Context as _, system::netlink::Netlink};

/// Makes a Debian host what terraform-provider-nspawn asks for, and keeps it so.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Answers a provider's requests on stdin and stdout.
    Serve,
    /// Stays and keeps the host as it should be; run by nspawn-agent.service.
    Resident,
    /// Brings up what a container needs before its start; run by its own unit.
    ContainerPrepare {
        /// The container.
        name: MachineName,
    },
    /// Drops what a container needed after its stop; run by its own unit.
    ContainerRelease {
        /// The container.
        name: MachineName,
    },
    /// Looks at or writes the files inside running guests; run by the agent itself.
    GuestFiles {
        /// What to do.
        deed: container::Deed,
        /// The containers.
        names: Vec<MachineName>,
    },
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Resident => "resident",
            Self::ContainerPrepare { .. } => "container-prepare",
            Self::ContainerRelease { .. } => "container-release",
            Self::GuestFiles { .. } => "guest-files",
        }
    }
}

/// Where the kill sweep says what is to happen to its test build of the agent.
const FAULT_FOLDER: &str = "/dev/shm/nspawn-agent-fault";

/// How long a container's own unit may take to bring its storage up or down.
const UNIT_TIME: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    fault::watch(arguments.action.name(), Some(FAULT_FOLDER));
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error).doing(|| "start the agent's runtime")),
    };
    let result = LocalSet::new().block_on(&runtime, run(arguments.action));
    // Reading stdin blocks a thread of its own; don't wait for it.
    runtime.shutdown_background();
    ended(result)
}

async fn run(action: Action) -> Result<(), Failure> {
    let netlink = Netlink::open()?;
    match action {
        Action::Serve => serve::run(Context::new(netlink, "a provider", Duration::ZERO)).await,
        Action::Resident => resident::run(netlink).await,
        Action::ContainerPrepare { name } => {
            let context = Context::new(netlink, format!("the start of {name}"), UNIT_TIME);
            container::prepare_start(&context, &name).await
        }
        Action::ContainerRelease { name } => {
            let context = Context::new(netlink, format!("the stop of {name}"), UNIT_TIME);
            container::release_stopped(&context, &name).await
        }
        Action::GuestFiles { deed, names } => container::work_inside(deed, &names),
    }
}

fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("nspawn-agent: {failure}");
            if let Some(help) = &failure.help {
                eprintln!("{help}");
            }
            ExitCode::FAILURE
        }
    }
}
