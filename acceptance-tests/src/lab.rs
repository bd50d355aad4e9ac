//! The lab as a whole.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{Output, check, command, run, wait_until},
    hosts::Hosts,
    images,
    instance::{Instance, Registration},
    namespace::Namespace,
    network::{CLIENT_IPV4, Network},
    provider, requirements,
    servers::{HTTP_PORT, Servers},
    terraform::Terraform,
    vps::Vps,
};

/// Where Terraform takes the provider from; `dev_overrides` puts the new binary in its place.
const VERSIONS: &str = "\
terraform {
  required_providers {
    nspawn = {
      source = \"nspawn/nspawn\"
    }
  }
}
";

/// How long anything may take to answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running lab; all of it is gone when this is dropped, and at Ctrl-C.
#[derive(Debug)]
pub struct Lab {
    servers: Vec<Vps>,
    _services: Servers,
    network: Arc<Network>,
    // The last field: what is removed here is used by the others.
    registration: Registration,
}

impl Lab {
    /// Builds the network, boots the servers and waits until they are up.
    pub fn start(hosts: Hosts) -> Result<Self> {
        let lab = Self::prepare(hosts)?;
        for vps in &lab.servers {
            vps.power_on()?;
        }
        for vps in &lab.servers {
            vps.wait_until_up()?;
        }
        Ok(lab)
    }

    /// Builds the network and the servers, and leaves the servers off.
    pub fn prepare(hosts: Hosts) -> Result<Self> {
        requirements::check()?;
        let registration = Instance::register()?;
        let instance = &registration.instance;
        let network = Arc::new(Network::create(instance)?);
        let key = instance.folder().join("id_ed25519");
        check(
            command(
                "ssh-keygen",
                ["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"],
            )
            .arg(key),
        )?;
        let servers = hosts
            .0
            .into_iter()
            .enumerate()
            .map(|(index, options)| Vps::create(index, options, instance, &network))
            .collect::<Result<Vec<_>>>()?;
        let files = instance.folder().join("files");
        fs::create_dir(&files)?;
        let services = Servers::start(&network.client, images::mirror()?, files)?;
        let lab = Self {
            servers,
            _services: services,
            network,
            registration,
        };
        lab.write_ssh_files()?;
        Ok(lab)
    }

    /// Returns the id that tells this lab from others.
    pub fn id(&self) -> &str {
        self.registration.instance.id()
    }

    /// Returns the folder with the lab's files.
    pub fn folder(&self) -> &Path {
        self.registration.instance.folder()
    }

    /// Returns the operator's namespace.
    pub fn client(&self) -> &Namespace {
        &self.network.client
    }

    /// Returns the router's namespace; its link to a server has the server's name.
    pub fn router(&self) -> &Namespace {
        &self.network.router
    }

    /// Returns the servers.
    pub fn servers(&self) -> &[Vps] {
        &self.servers
    }

    /// Returns the first server.
    ///
    /// # Panics
    /// When the lab was made without servers.
    pub fn vps1(&self) -> &Vps {
        &self.servers[0]
    }

    /// Returns the second server.
    ///
    /// # Panics
    /// When the lab was made with fewer than two servers.
    pub fn vps2(&self) -> &Vps {
        &self.servers[1]
    }

    /// Returns the private key that the servers let in.
    pub fn private_key(&self) -> PathBuf {
        self.folder().join("id_ed25519")
    }

    /// Returns the file with the servers' host keys.
    pub fn known_hosts(&self) -> PathBuf {
        self.folder().join("known_hosts")
    }

    /// Returns the folder that the operator's machine serves as [`Lab::file_url`].
    pub fn files(&self) -> PathBuf {
        self.folder().join("files")
    }

    /// Returns where a file of [`Lab::files`] is downloaded from.
    pub fn file_url(&self, name: &str) -> String {
        format!("http://{CLIENT_IPV4}:{HTTP_PORT}/files/{name}")
    }

    /// Returns the Debian mirror, for apt and for debootstrap.
    pub fn mirror_url(&self) -> String {
        format!("http://{CLIENT_IPV4}:{HTTP_PORT}/debian")
    }

    /// Makes a working directory for Terraform with a configuration; the provider's own block is added.
    pub fn terraform(&self, configuration: &str) -> Result<Terraform> {
        self.terraform_with(&provider::under_test()?, configuration)
    }

    /// Makes the same with another build of the provider.
    pub fn terraform_with(&self, provider: &Path, configuration: &str) -> Result<Terraform> {
        let terraform = self.working_directory(provider, configuration)?;
        let block = format!(
            "provider \"nspawn\" {{\n  private_key_file = \"{}\"\n  known_hosts_file = \"{}\"\n}}\n",
            self.private_key().display(),
            self.known_hosts().display()
        );
        terraform.write("provider.tf", &block)?;
        Ok(terraform)
    }

    /// Makes a working directory for Terraform with a configuration that has the provider's block itself.
    pub fn terraform_without_provider_block(&self, configuration: &str) -> Result<Terraform> {
        self.working_directory(&provider::under_test()?, configuration)
    }

    fn working_directory(&self, provider: &Path, configuration: &str) -> Result<Terraform> {
        let terraform = Terraform::create(self.folder(), self.client(), provider)?;
        terraform.write("versions.tf", VERSIONS)?;
        terraform.configure(configuration)?;
        Ok(terraform)
    }

    /// Sends a further network to a server's link, as a cloud does for addresses that are bought later.
    pub fn route_to(&self, vps: &Vps, network: &str) -> Result<()> {
        let name = vps.name();
        let router = &self.network.router;
        router
            .ip(&format!("route replace {network} dev {name}"))
            .map(drop)
    }

    /// Runs a shell command on the operator's machine, whatever its exit status.
    pub fn run(&self, script: &str) -> Result<Output> {
        let mut shell = self.client().command("sh");
        run(shell.args(["-euc", script]), Duration::from_mins(2))
    }

    /// Pings an address from the operator's machine until it answers, for half a minute at most.
    pub fn ping(&self, address: &str) -> Result<()> {
        let address: IpAddr = address
            .parse()
            .with_context(|| format!("{address:?} is no address"))?;
        wait_until(&format!("{address} answers a ping"), PATIENCE, || {
            self.client().ping(address, Duration::from_secs(1))
        })
    }

    /// Connects from the operator's machine and returns the first line that the other side says.
    pub fn tcp(&self, address: &str, port: u16) -> Result<String> {
        let address: IpAddr = address
            .parse()
            .with_context(|| format!("{address:?} is no address"))?;
        wait_until(
            &format!("{address} answers on port {port}"),
            PATIENCE,
            || {
                self.client()
                    .banner(SocketAddr::new(address, port), Duration::from_secs(2))
            },
        )
    }

    /// Waits until the guest of this name answers on its port 7777; another one, or one that is just ending, won't do.
    pub fn answers_as(&self, address: &str, name: &str) -> Result<()> {
        let what = format!("{address} answers as {name}");
        wait_until(&what, PATIENCE, || {
            let banner = self.tcp(address, 7777)?;
            ensure!(banner.split(' ').next() == Some(name), "it says {banner:?}");
            Ok(())
        })
    }

    /// Asserts that an address answers a ping from the operator's machine.
    ///
    /// # Panics
    /// When it doesn't within half a minute.
    pub fn assert_ping(&self, address: &str) {
        let answer = self.ping(address);
        assert!(answer.is_ok(), "{answer:?}");
    }

    fn write_ssh_files(&self) -> Result<()> {
        let (mut config, mut known) = (String::new(), String::new());
        for vps in &self.servers {
            let block = vps.block();
            writeln!(known, "{},{} {}", block.ipv4, block.ipv6, vps.host_key()?)?;
            writeln!(
                config,
                "Host {}\n  HostName {}\n  User {}\n",
                vps.name(),
                block.ipv4,
                vps.options().user.name()
            )?;
        }
        write!(
            config,
            "Host *\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  BatchMode yes\n  \
             LogLevel ERROR\n  ConnectTimeout 5\n  ServerAliveInterval 5\n",
            self.private_key().display(),
            self.known_hosts().display()
        )?;
        fs::write(self.folder().join("ssh_config"), config)?;
        fs::write(self.known_hosts(), known)?;
        Ok(())
    }
}
