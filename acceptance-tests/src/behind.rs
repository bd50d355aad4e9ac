//! Servers and containers that Terraform reaches over a line which can be made bad.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    Lab, Terraform, Vps,
    command::{Output, wait_until},
    proxy::{Line, Proxy, Traffic},
};

/// How long a step of connecting may take on a bad line; three times that long without a word end a connection.
const CONNECT: &str = "3s";

/// How long an agent may go on with a removal whose session is over.
const GONE: Duration = Duration::from_secs(30);

/// Short ones, so that a bad line is given up soon.
pub const TIMEOUTS: &str =
    "timeouts = { create = \"20s\", read = \"20s\", update = \"20s\", delete = \"20s\" }";

/// The same for a good line: a guest boots, on a busy machine. As many bytes as the short ones.
const PATIENT: &str =
    "timeouts = { create = \"99s\", read = \"99s\", update = \"99s\", delete = \"99s\" }";

/// A server behind a line that can be made bad, and Terraform that reaches it through that line.
pub struct Behind<'a> {
    /// The server.
    pub vps: &'a Vps,
    /// The line.
    pub proxy: Proxy,
    /// With a state of its own.
    pub terraform: Terraform,
}

impl<'a> Behind<'a> {
    /// A good line, and an empty configuration.
    pub fn new(lab: &Lab, vps: &'a Vps) -> Result<Self> {
        let target = SocketAddr::from((vps.block().ipv4, 22));
        Ok(Self {
            vps,
            proxy: Proxy::start(lab.client(), target, Line::default())?,
            terraform: lab.terraform("")?,
        })
    }

    /// Lets the server's sshd take any number of connections that come to nothing: by itself, it
    /// refuses an address for a while after many. sshd_config(5)
    pub fn without_penalties(vps: &Vps) -> Result<()> {
        vps.root(
            "printf 'PerSourcePenalties no\\nMaxStartups 500\\n' > /etc/ssh/sshd_config.d/cuts.conf
             systemctl restart ssh.service",
        )?;
        vps.wait_until_up()
    }

    /// How the server is reached, as attributes.
    pub fn reach(&self) -> Result<String> {
        Ok(format!(
            "address = \"127.0.0.1\"\n  port = {}\n  host_key = \"{}\"\n",
            self.proxy.address().port(),
            self.vps.host_key()?
        ))
    }

    /// Runs Terraform on a bad line: it ends in time, with success or with an error that names the host.
    pub fn on_a_bad_line(&self, line: Line, words: &[&str], bound: Duration) -> Result<Output> {
        self.proxy.set(line);
        let short = [("NSPAWN_SSH_CONNECT_TIMEOUT", CONNECT)];
        let result = self.terraform.start_with(words, &short)?.wait(bound);
        self.proxy.heal();
        let output = result?;
        let printed = output.stdout.clone() + &output.stderr;
        for ugly in [
            "panicked",
            "RUST_BACKTRACE",
            "Plugin did not respond",
            "Unrecognized remote plugin",
        ] {
            ensure!(!printed.contains(ugly), "it printed {ugly:?}:\n{printed}");
        }
        let names_the_host =
            printed.contains(&format!("root@127.0.0.1:{}", self.proxy.address().port()));
        ensure!(
            output.success() || (output.stderr.contains("Error: ") && names_the_host),
            "the error doesn't say where:\n{printed}"
        );
        Ok(output)
    }

    /// A plain apply on a good line ends in the full state.
    pub fn converges(&self) -> Result<()> {
        self.take_time()?;
        self.terraform.apply()?;
        self.terraform.assert_plan_is_empty()
    }

    /// Lets everything take its time until the next configuration.
    fn take_time(&self) -> Result<()> {
        let text = self.terraform.configuration()?;
        self.terraform.configure(&text.replace(TIMEOUTS, PATIENT))
    }

    /// The state still has the container and its address.
    pub fn keeps_its_state(&self) -> Result<()> {
        let listed = self.terraform.run(&["state", "list"])?.checked()?;
        ensure!(
            listed.lines().count() == 2,
            "the state has lost something: {listed}"
        );
        Ok(())
    }

    /// What an undisturbed run carries.
    pub fn measure(&self, words: &[&str]) -> Result<Vec<Traffic>> {
        self.take_time()?;
        self.proxy.set(Line::default());
        self.terraform.run(words)?.checked()?;
        Ok(self.proxy.traffic())
    }
}

/// A container and its address, on a host that another state owns.
pub struct Tenant<'a> {
    /// Its server, and its state.
    pub behind: Behind<'a>,
    /// Of the container.
    pub name: String,
    /// Of the container.
    pub address: String,
}

impl<'a> Tenant<'a> {
    /// The one of this number, which nothing is made of yet.
    pub fn new(lab: &Lab, vps: &'a Vps, number: usize) -> Result<Self> {
        let [a, b, c, _] = vps.block().ipv4.octets();
        Ok(Self {
            behind: Behind::new(lab, vps)?,
            name: format!("tenant{number}"),
            address: format!("{a}.{b}.{c}.{}", number + 10),
        })
    }

    /// Asks for both, with more attributes of the container and short timeouts.
    pub fn configure(&self, more: &str) -> Result<()> {
        self.configure_with(more, TIMEOUTS)
    }

    /// The same with these timeouts.
    pub fn configure_with(&self, more: &str, timeouts: &str) -> Result<()> {
        let Self {
            name,
            address,
            behind,
        } = self;
        let host = format!("host = {{\n  {}}}", behind.reach()?);
        behind.terraform.configure(&format!(
            "resource \"nspawn_container\" \"it\" {{\n  {host}\n  name = \"{name}\"\n  image = \"debian\"\n  {more}\n  {timeouts}\n}}\n\
             resource \"nspawn_public_address\" \"it\" {{\n  {host}\n  address = \"{address}\"\n  \
             container = nspawn_container.it.name\n  {timeouts}\n}}\n"
        ))
    }

    /// The container answers at its address.
    pub fn answers(&self, lab: &Lab) -> Result<()> {
        lab.answers_as(&self.address, &self.name)
    }

    /// Nothing of both is on the host, once no agent of another session works at it any more.
    pub fn is_gone(&self) -> Result<()> {
        wait_until("nothing is left over", GONE, || self.has_nothing_left())
    }

    fn has_nothing_left(&self) -> Result<()> {
        let (name, address) = (&self.name, &self.address);
        let found = self.behind.vps.root(&format!(
            "find /etc/nspawn-agent /etc/systemd /run/systemd/system /var/lib/machines -name '*{name}*' -o -name '{address}*' || true
             ip route show {address}; ip neigh show proxy | grep '^{address} ' || true; machinectl --no-legend list | grep '^{name} ' || true"
        ))?;
        ensure!(found.trim().is_empty(), "something is left over:\n{found}");
        Ok(())
    }
}
