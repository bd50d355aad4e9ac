//! A server of the lab: a systemd-nspawn container that looks like a virtual machine from a cloud.

mod disk;
mod root;

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};

use crate::{
    command::{Output, command, ends_within, pid_of, run, wait_until},
    hosts::{Block, HostOptions},
    instance::Instance,
    namespace::Namespace,
    network::Network,
};

/// Boots a root in a mount namespace with a sysfs of its network (networkd waits for ever without)
/// and with cgroup v2 only. The tmpfs keeps labs apart that have machines of the same name.
const BOOT: &str = r#"
    mount -t sysfs sysfs /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /run/systemd/nspawn
    mount -t tmpfs tmpfs /run/systemd/nspawn
    echo $$ > "/sys/fs/cgroup/$3/cgroup.procs"
    set -- -D "$1" --machine="$2"
    for device in /dev/net/tun /dev/fuse; do
        if [ -e "$device" ]; then set -- "$@" --bind="$device"; fi
    done
    export SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes SYSTEMD_SECCOMP=0
    exec systemd-nspawn --register=no --keep-unit -b --capability=all --console=pipe "$@"
"#;

/// How systemd-nspawn ends with --keep-unit when the machine inside reboots (nspawn.c: EXIT_FORCE_RESTART).
const NSPAWN_REBOOTED: i32 = 133;

/// How long a server may take to boot, or to end.
const BOOT_DEADLINE: Duration = Duration::from_mins(3);

/// A server.
#[derive(Debug)]
pub struct Vps {
    name: String,
    options: HostOptions,
    block: Block,
    instance: Arc<Instance>,
    network: Arc<Network>,
    namespace: Namespace,
    nspawn: Mutex<Option<Child>>,
}

impl Vps {
    pub(crate) fn create(
        index: usize,
        options: HostOptions,
        instance: &Arc<Instance>,
        network: &Arc<Network>,
    ) -> Result<Self> {
        let name = format!("vps{}", index + 1);
        let block = Block::of(index).context("a lab has at most two servers")?;
        let namespace = Namespace::named(&instance.namespace_name(&name));
        let vps = Self {
            name,
            options,
            block,
            instance: Arc::clone(instance),
            network: Arc::clone(network),
            namespace,
            nspawn: Mutex::new(None),
        };
        vps.prepare_root()?;
        Ok(vps)
    }

    /// Returns the name: `vps1` or `vps2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the addresses.
    pub fn block(&self) -> Block {
        self.block
    }

    /// Returns what the server was asked to be.
    pub fn options(&self) -> &HostOptions {
        &self.options
    }

    /// Returns the server's root folder on this machine.
    pub fn root_folder(&self) -> PathBuf {
        self.instance.folder().join(&self.name)
    }

    /// Returns where this machine sees a path of the running server, also one below its /run or /dev.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        let leader = wait_until("systemd runs", BOOT_DEADLINE, || self.leader())?;
        Ok(PathBuf::from(format!("/proc/{leader}/root")).join(path))
    }

    /// Returns the public key of the server's sshd, as one line of OpenSSH.
    pub fn host_key(&self) -> Result<String> {
        let file = self.root_folder().join("etc/ssh/ssh_host_ed25519_key.pub");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(text
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" "))
    }

    /// Starts the server and returns at once.
    pub fn power_on(&self) -> Result<()> {
        let mut nspawn = self.nspawn();
        if nspawn.is_some() {
            bail!("{} is on already", self.name);
        }
        // A machine that starts has fresh links and sysctls: a new namespace has, too.
        Namespace::create(self.namespace.name())?;
        self.network.plug(
            &self.namespace,
            &self.options.uplink,
            &self.name,
            self.block,
        )?;
        let group = self.instance.control_group(&self.name)?;
        let console = self
            .instance
            .folder()
            .join(format!("{}.console", self.name));
        let file = File::options().create(true).append(true).open(&console)?;
        let child = command("unshare", ["-m", "--propagation", "slave", "nsenter"])
            .arg(format!("--net={}", self.namespace.path().display()))
            .args(["sh", "-euc", BOOT, "sh"])
            .arg(self.root_folder())
            .args([&self.name, &group])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("start systemd-nspawn")?;
        *nspawn = Some(child);
        Ok(())
    }

    /// Waits until the server's sshd answers and its systemd has started everything.
    pub fn wait_until_up(&self) -> Result<()> {
        self.wait_until_up_within(BOOT_DEADLINE)
    }

    fn wait_until_up_within(&self, patience: Duration) -> Result<()> {
        let state = self.state_once_booted(patience)?;
        if state.trim() != "running" {
            let failed = self.root("systemctl --no-legend --failed; systemctl list-jobs")?;
            bail!("{} is {}, not running:\n{failed}", self.name, state.trim());
        }
        let what = format!("{} has its IPv6 addresses", self.name);
        wait_until(&what, BOOT_DEADLINE, || {
            self.network
                .client
                .ping(self.block.ipv6.into(), Duration::from_secs(1))?;
            let tentative = self.root("ip -6 addr show tentative")?;
            ensure!(tentative.is_empty(), "not all are verified:\n{tentative}");
            Ok(())
        })
    }

    /// Cuts the power: nothing on the server has a chance to save anything.
    pub fn power_off_hard(&self) -> Result<()> {
        self.instance.kill_control_group(&self.name)?;
        self.unplug()
    }

    /// Cuts the power of a server with a disk of its own: what was not brought to the disk is gone, too.
    pub fn cut_power(&self) -> Result<()> {
        ensure!(
            self.options.own_disk,
            "{} has no disk of its own",
            self.name
        );
        self.instance.kill_control_group(&self.name)?;
        disk::cut(&self.disk(), &self.root_folder())?;
        self.unplug()
    }

    fn disk(&self) -> PathBuf {
        self.instance.folder().join(format!("{}.disk", self.name))
    }

    /// Waits until the server's sshd answers and its systemd has started what it can.
    pub fn wait_until_reachable(&self) -> Result<()> {
        self.state_once_booted(BOOT_DEADLINE).map(drop)
    }

    fn state_once_booted(&self, patience: Duration) -> Result<String> {
        let address = SocketAddr::from((self.block.ipv4, 22));
        let what = format!("{} answers on {address}", self.name);
        let ready = wait_until(&what, BOOT_DEADLINE, || {
            self.network
                .client
                .banner(address, Duration::from_millis(500))
        });
        ready.with_context(|| format!("the end of its console:\n{}", self.console()))?;
        let mut state = self.root_command("systemctl is-system-running --wait || true")?;
        run(&mut state, patience)?.checked()
    }

    /// Reboots the server from inside and waits until it is up again.
    pub fn reboot(&self) -> Result<()> {
        self.reboot_within(BOOT_DEADLINE)
    }

    /// The same for a server with many guests, which end and boot along with it.
    pub fn reboot_within(&self, patience: Duration) -> Result<()> {
        self.root("systemctl reboot")?;
        self.wait_for_end(patience)?;
        self.unplug()?;
        self.power_on()?;
        self.wait_until_up_within(patience)
    }

    /// Shuts the server down in good order.
    pub fn power_off(&self) -> Result<()> {
        if let Some(child) = self.nspawn().as_ref() {
            kill_process(pid_of(child)?, Signal::TERM)
                .context("ask systemd-nspawn to power off")?;
        }
        self.wait_for_end(BOOT_DEADLINE)?;
        self.unplug()
    }

    /// Starts the server again if it has rebooted by itself; tells whether it had.
    pub fn restart_if_rebooted(&self) -> Result<bool> {
        let status = self
            .nspawn()
            .as_mut()
            .map(Child::try_wait)
            .transpose()?
            .flatten();
        let rebooted = status.and_then(|status| status.code()) == Some(NSPAWN_REBOOTED);
        if rebooted {
            self.unplug()?;
            self.power_on()?;
        }
        Ok(rebooted)
    }

    /// Runs a shell command over SSH, as the user that logs in, whatever its exit status.
    pub fn ssh(&self, script: &str) -> Result<Output> {
        run(self.ssh_command().arg(script), Duration::from_mins(2))
    }

    /// Builds an `ssh` to the server in the operator's namespace; the remote command is to be added.
    pub fn ssh_command(&self) -> Command {
        let mut ssh = self.network.client.command("ssh");
        ssh.arg("-F")
            .arg(self.instance.folder().join("ssh_config"))
            .arg(&self.name);
        ssh
    }

    /// Runs a shell command that has to succeed as root, without SSH, and returns what it printed.
    pub fn root(&self, script: &str) -> Result<String> {
        self.root_within(script, Duration::from_mins(2))
    }

    /// The same with another patience.
    pub fn root_within(&self, script: &str, patience: Duration) -> Result<String> {
        run(&mut self.root_command(script)?, patience)?.checked()
    }

    /// Runs a shell command inside one of the server's containers and returns what it printed.
    pub fn guest(&self, container: &str, script: &str) -> Result<String> {
        let quoted = script.replace('\'', r"'\''");
        self.root(&format!(
            "systemd-run -q --machine={container} --wait --pipe --collect sh -c '{quoted}'"
        ))
    }

    /// Returns the server's network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Returns the file that stands for a running container's network namespace, for `nsenter --net=`.
    pub fn guest_namespace(&self, container: &str) -> Result<PathBuf> {
        let inside = self.root(&format!("machinectl show --value -p Leader {container}"))?;
        let leader = self.leader()?;
        Ok(PathBuf::from(format!(
            "/proc/{leader}/root/proc/{}/ns/net",
            inside.trim()
        )))
    }

    /// Returns the end of what the server wrote to its console.
    pub fn console(&self) -> String {
        let file = self
            .instance
            .folder()
            .join(format!("{}.console", self.name));
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub(crate) fn root_command(&self, script: &str) -> Result<Command> {
        let leader = wait_until("systemd runs", BOOT_DEADLINE, || self.leader())?;
        let mut nsenter = command("nsenter", ["-t", &leader.to_string(), "-a", "env", "-i"]);
        nsenter.args([
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
        ]);
        nsenter.args(["LC_ALL=C.UTF-8", "sh", "-euc", script]);
        Ok(nsenter)
    }

    /// Finds the process that is number 1 inside; systemd-nspawn is its parent.
    fn leader(&self) -> Result<u32> {
        let nspawn = self
            .nspawn()
            .as_ref()
            .map(Child::id)
            .context("the server is off")?;
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children"))?;
        children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .find(|pid| is_first_in_namespace(*pid))
            .context("systemd-nspawn has not started systemd yet")
    }

    fn nspawn(&self) -> MutexGuard<'_, Option<Child>> {
        self.nspawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_end(&self, patience: Duration) -> Result<()> {
        if let Some(child) = self.nspawn().as_ref()
            && !ends_within(child, patience)?
        {
            bail!("{} was still on after {patience:?}", self.name);
        }
        Ok(())
    }

    fn unplug(&self) -> Result<()> {
        if let Some(mut child) = self.nspawn().take() {
            child.wait().context("wait for systemd-nspawn")?;
        }
        self.instance.kill_control_group(&self.name)?;
        // The kernel takes its time with a namespace's links, and the name has to be free.
        self.network.unplug(&self.name)?;
        self.namespace.remove()
    }
}

impl Drop for Vps {
    fn drop(&mut self) {
        if self.nspawn().is_some() {
            // What is left is removed with the lab, which tells what fails.
            let _ = self.power_off_hard();
        }
    }
}

fn is_first_in_namespace(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .is_some_and(|pids| pids.split_whitespace().nth(1) == Some("1"))
    })
}
