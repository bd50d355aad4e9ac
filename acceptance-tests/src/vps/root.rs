//! What is written into the copy of a root before it boots, as a cloud's installer would.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};

use super::{Vps, disk};
use crate::{
    command::{check, command},
    hosts::{Block, Flavour, User},
    images,
    network::CLIENT_IPV4,
    servers::HTTP_PORT,
};

impl Vps {
    pub(super) fn prepare_root(&self) -> Result<()> {
        let root = self.root_folder();
        let image = images::root(self.options.flavour)?;
        if self.options.own_disk {
            disk::make(&self.disk(), &root)?;
        }
        check(
            command("cp", ["-a", "--reflink=auto", "-T"])
                .arg(&image)
                .arg(&root),
        )?;
        self.write("etc/hostname", &format!("{}\n", self.name))?;
        self.write(
            "etc/hosts",
            &format!(
                "127.0.0.1 localhost\n127.0.1.1 {}\n::1 localhost\n",
                self.name
            ),
        )?;
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.replace('-', "");
        self.write("etc/machine-id", &id)?;
        self.write_network()?;
        self.write_sources()?;
        for kind in ["ed25519", "ecdsa"] {
            let key = root.join(format!("etc/ssh/ssh_host_{kind}_key"));
            check(
                command(
                    "ssh-keygen",
                    ["-q", "-N", "", "-C", &self.name, "-t", kind, "-f"],
                )
                .arg(key),
            )?;
        }
        self.admit_user()?;
        if self.options.own_disk {
            disk::sync(&root)?;
        }
        Ok(())
    }

    fn write_network(&self) -> Result<()> {
        let Block { ipv4, ipv6 } = self.block;
        let text = format!(
            "[Match]\nName={}\n\n[Network]\nAddress={ipv4}/32\nAddress={ipv6}/64\nIPv6AcceptRA=no\n\n\
             [Route]\nGateway=172.31.1.1\nGatewayOnLink=yes\n\n[Route]\nGateway=fe80::1\n",
            self.options.uplink
        );
        self.write("etc/systemd/network/10-uplink.network", &text)
    }

    /// Points apt at the lab's mirror; its key joins Debian's, because debootstrap looks there.
    fn write_sources(&self) -> Result<()> {
        let own = fs::read(images::mirror_keyring(&images::mirror()?))?;
        let keyring = self
            .root_folder()
            .join("usr/share/keyrings/debian-archive-keyring.gpg");
        let mut keys = fs::read(&keyring).with_context(|| format!("read {}", keyring.display()))?;
        keys.extend(&own);
        // The file may be a link to another name of it.
        fs::write(fs::canonicalize(&keyring)?, keys)?;
        self.write("etc/resolv.conf", "# The lab has no name server.\n")?;
        if self.options.flavour == Flavour::Bookworm {
            return self.write(
                "etc/apt/sources.list",
                "# The lab's mirror has no packages of Debian 12.\n",
            );
        }
        let source = format!(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://{CLIENT_IPV4}:{HTTP_PORT}/debian trixie main\n"
        );
        self.write("etc/apt/sources.list", &source)
    }

    fn admit_user(&self) -> Result<()> {
        let root = self.root_folder();
        let user = self.options.user;
        let inside = |script: &str| {
            check(command("chroot", [root.as_os_str()]).args(["sh", "-euc", script]))
        };
        let home = match user {
            User::Root => "root",
            User::Admin | User::AdminWithPassword => {
                inside("useradd -m -s /bin/bash admin; echo admin:admin | chpasswd")?;
                "home/admin"
            }
        };
        match user {
            User::Root => {}
            User::Admin => self.write("etc/sudoers.d/admin", "admin ALL=(ALL) NOPASSWD: ALL\n")?,
            User::AdminWithPassword => {
                self.write("etc/sudoers.d/admin", "admin ALL=(ALL) ALL\n")?;
            }
        }
        let key = fs::read_to_string(self.instance.folder().join("id_ed25519.pub"))?;
        self.write(&format!("{home}/.ssh/authorized_keys"), &key)?;
        fs::set_permissions(
            root.join(home).join(".ssh"),
            fs::Permissions::from_mode(0o700),
        )?;
        inside(&format!("chown -R {0}: /{home}/.ssh", user.name())).map(drop)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.root_folder().join(path);
        let folder = file.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    }
}
