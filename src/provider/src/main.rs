//! The provider as Terraform starts it; with `docs`, it writes its own documentation.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use provider::{documentation, provider::server};

/// Terraform provider for systemd-nspawn hosts. Terraform starts it without arguments.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the registry's pages.
    Docs {
        /// Writes nothing, and fails when a page is stale.
        #[arg(long)]
        check: bool,
        /// Their folder, with `examples` beside it.
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    fault::watch(
        "provider",
        std::env::var("NSPAWN_FAULT_FOLDER").ok().as_deref(),
    );
    let server = match server() {
        Ok(server) => server,
        Err(error) => return failed(&error),
    };
    let Some(Command::Docs { check, folder }) = arguments.command else {
        return server.serve();
    };
    let done = if check {
        documentation::check(&server, &folder)
    } else {
        documentation::write(&server, &folder)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("terraform-provider-nspawn: {error}");
    ExitCode::FAILURE
}
