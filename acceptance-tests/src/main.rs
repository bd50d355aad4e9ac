//! `lab`: the cloud in a box, to try things by hand.

use std::{os::unix::process::CommandExt, path::PathBuf, process::ExitCode, time::Duration};

use acceptance_tests::{
    Flavour, HostOptions, Hosts, Lab, User,
    images::{Guest, root},
    instance::{Instance, clean_up_at_signals, wait_if_ending},
    namespace::Namespace,
    promise::{Promise, Report},
    quickstart,
};
use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum as _};

/// A cloud in a box: an operator, a router and servers, on this machine only.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Boots a lab and keeps it until Ctrl-C.
    Up {
        /// How many servers.
        #[arg(long, default_value_t = 1)]
        hosts: usize,
        /// What is installed on them.
        #[arg(long, value_enum, default_value = "trixie")]
        flavour: Flavour,
        /// The name of their network card.
        #[arg(long, default_value = "eth0")]
        uplink: String,
        /// Who logs in.
        #[arg(long, value_enum, default_value = "root")]
        user: User,
    },
    /// Lists the running labs and their folders.
    List,
    /// Runs a command on `client` (this machine's programs, the lab's network), `vps1` or `vps2`.
    Exec {
        /// Which lab, when several are running.
        #[arg(long)]
        lab: Option<String>,
        /// Where to run.
        host: String,
        /// The command; none gives a shell.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Copies a file into a server.
    Copy {
        /// Which lab, when several are running.
        #[arg(long)]
        lab: Option<String>,
        /// The file here.
        file: PathBuf,
        /// The place there, such as `vps1:/root/`.
        to: String,
    },
    /// Ends the running labs, or the one that is named, and removes what dead ones have left.
    Down {
        /// Which lab.
        lab: Option<String>,
    },
    /// Shows the main job: applies `examples/quickstart` in a lab of its own, and destroys it.
    Quickstart,
    /// Prints which promises were tried and held, from what the tests of a run have written.
    Promises {
        /// The folder that `NSPAWN_PROMISES_REPORT` named in that run.
        folder: PathBuf,
        /// The promises that were asked for; all, when none is named.
        #[arg(value_enum)]
        promises: Vec<Promise>,
    },
    /// Makes all images that aren't there yet, and prints the guests' tarballs with their sha256.
    Images,
}

fn main() -> ExitCode {
    match act(Arguments::parse().action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            wait_if_ending();
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> Result<()> {
    match action {
        Action::Up {
            hosts,
            flavour,
            uplink,
            user,
        } => up(Hosts(vec![
            HostOptions {
                flavour,
                uplink,
                user,
                own_disk: false,
            };
            hosts
        ])),
        Action::List => {
            for instance in Instance::running()? {
                println!("{}\t{}", instance.id(), instance.folder().display());
            }
            Ok(())
        }
        Action::Exec { lab, host, command } => exec(&find(lab.as_deref())?, &host, &command),
        Action::Copy { lab, file, to } => {
            let instance = find(lab.as_deref())?;
            let mut scp = Namespace::named(&instance.namespace_name("client")).command("scp");
            scp.arg("-qF")
                .arg(instance.folder().join("ssh_config"))
                .arg(file)
                .arg(to);
            Err(scp.exec()).context("start scp")
        }
        Action::Down { lab } => down(lab.as_deref()),
        Action::Quickstart => quickstart::show(),
        Action::Promises { folder, promises } => {
            let asked = if promises.is_empty() {
                Promise::value_variants()
            } else {
                &promises
            };
            let report = Report::read(&folder, asked)?;
            print!("{}", report.table());
            ensure!(report.holds(), "not every promise held");
            Ok(())
        }
        Action::Images => {
            clean_up_at_signals()?;
            for flavour in [Flavour::Trixie, Flavour::Bookworm, Flavour::Bare] {
                root(flavour)?;
            }
            for guest in [Guest::Debian, Guest::WithoutNetworkd, Guest::Etcd] {
                let tarball = guest.tarball()?;
                println!("{}\t{}", tarball.path.display(), tarball.sha256);
            }
            Ok(())
        }
    }
}

fn up(hosts: Hosts) -> Result<()> {
    let lab = Lab::start(hosts)?;
    println!(
        "Lab {} is up; its files are in {}",
        lab.id(),
        lab.folder().display()
    );
    for vps in lab.servers() {
        let block = vps.block();
        println!(
            "  {}: {} and {}, {} and {} are routed to it\n    lab exec --lab {} {}",
            vps.name(),
            block.ipv4,
            block.ipv6,
            block.ipv4_network(),
            block.ipv6_network(),
            lab.id(),
            vps.name(),
        );
    }
    println!("Ctrl-C ends it.");
    loop {
        for vps in lab.servers() {
            if vps.restart_if_rebooted()? {
                println!("{} restarts", vps.name());
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn exec(instance: &Instance, host: &str, words: &[String]) -> Result<()> {
    let client = Namespace::named(&instance.namespace_name("client"));
    if host == "client" {
        let (program, arguments) = words
            .split_first()
            .map_or(("bash", &[][..]), |(a, b)| (a.as_str(), b));
        let mut command = client.command(program);
        return Err(command.args(arguments).exec()).context("start the command");
    }
    let mut ssh = client.command("ssh");
    ssh.arg("-F").arg(instance.folder().join("ssh_config"));
    if words.is_empty() {
        ssh.arg("-t");
    }
    Err(ssh.arg(host).args(words).exec()).context("start ssh")
}

fn down(lab: Option<&str>) -> Result<()> {
    for instance in Instance::running()? {
        if lab.is_none_or(|id| id == instance.id()) {
            instance.stop()?;
        }
    }
    Instance::remove_leftovers()
}

fn find(lab: Option<&str>) -> Result<Instance> {
    let mut running = Instance::running()?;
    running.retain(|instance| lab.is_none_or(|id| id == instance.id()));
    match (running.pop(), running.is_empty()) {
        (Some(instance), true) => Ok(instance),
        (None, _) => bail!("no such lab is running: start one with `lab up`"),
        (Some(_), false) => bail!("several labs are running: choose one with --lab (`lab list`)"),
    }
}
