//! The attributes of nspawn_container.

use std::{collections::BTreeMap, net::IpAddr};

use protocol::{
    name::{HostName, ImageName, MachineName},
    text::{Size, TimeSpan},
    value,
};
use tfplugin::{
    Attr, Parsed, Secret,
    schema::validators::{between, one_of},
};

use crate::{host_reference::HostReference, timeouts::Timeouts};

tfplugin::model! {
    /// A container: a machine of systemd-nspawn(1) on a host, made from an image within milliseconds.
    /// It gets its public addresses from `nspawn_public_address` resources, while it runs. On its host,
    /// `machinectl`, `systemctl` and `journalctl -M` work with it as with any other machine.
    ///
    /// A change of `hostname`, `ephemeral` or `nspawn_config` restarts the guest, and the plan warns.
    ///
    /// Time limits where `timeouts` is silent: create and update 5 minutes, read 2 minutes, delete 5
    /// minutes.
    pub struct Container {
        /// How the host is reached: `nspawn_host.x`, or an object. A change is made in place as long as it leads to the same machine; another machine that the plan has seen is a replacement, and one that it has not seen is refused in the apply.
        host: Attr<HostReference> => required(),
        /// Name of the machine on the host.
        name: Attr<Parsed<MachineName>> => required().replace(),
        /// Name of the image to make it from: `nspawn_image.x.name`.
        image: Attr<Parsed<ImageName>> => required().replace(),
        /// Host name inside the guest. Without it, the container's name. A change restarts the guest.
        hostname: Attr<Parsed<HostName>> => optional().computed(),
        /// Whether the guest runs. A change starts or stops it.
        running: Attr<bool> => optional().default(true),
        /// Whether the guest starts with its host.
        autostart: Attr<bool> => optional().default(true),
        /// Whether everything that the guest writes to its root is thrown away at every stop. A change restarts the guest.
        ephemeral: Attr<bool> => optional().default(false),
        /// How the root is made: `overlay` shares the image's tree, `copy` is a tree of its own, for hosts with a kernel before 5.19.
        storage: Attr<String> => optional().default("overlay").validate(one_of(&["overlay", "copy"])).replace(),
        /// Whether the guest has user ids of its own, so that its root is nobody on the host.
        private_users: Attr<bool> => optional().default(true).replace(),
        /// Processor time, in processors: `1.5` is one and a half. Without it, no limit. A change is live.
        cpus: Attr<f64> => optional().validate(|count: &f64| value::processors(*count)),
        /// Memory, such as `512M` or `2G`, in binary units. Without it, no limit. A change is live.
        memory: Attr<Parsed<Size>> => optional().same_when(same_size).validate(enough),
        /// Swap, such as `512M`; `0` for none. Without it, no limit. A change is live.
        memory_swap: Attr<Parsed<Size>> => optional().same_when(same_size),
        /// Number of tasks (processes and threads). Without it, the host's default. A change is live.
        tasks: Attr<i64> => optional().validate(between(1..=4_194_304)),
        /// What creating, starting and changing the container waits for.
        wait_for: Attr<WaitFor> => optional().default_object(),
        /// Password of the guest's root. Never stored in the plan or state; on the host, only its hash is kept. It is set when the container is made, and whenever `root_password_wo_version` changes.
        root_password_wo: Attr<Secret> => optional().write_only().sensitive(),
        /// Goes with `root_password_wo`: change it to have the password set anew.
        root_password_wo_version: Attr<i64> => optional(),
        /// Lines of the guest's /root/.ssh/authorized_keys. Without it, the file is left alone. A change is live.
        ssh_authorized_keys: Attr<Vec<String>> => optional().validate(value::key_lines),
        /// IP addresses of the guest's name servers. Without it, systemd-nspawn's own way. A change is live.
        dns_servers: Attr<Vec<Parsed<IpAddr>>> => optional().same_when(|left, right| same_addresses(left, right)),
        /// Whether destroying or replacing the container is refused.
        delete_protection: Attr<bool> => optional().default(false),
        /// Notes of your own; kept on the host.
        labels: Attr<BTreeMap<String, String>> => optional().validate(value::labels),
        /// Further settings of systemd.nspawn(5): a map of section (`Exec`, `Files`, `Network`) to a map of key to a list of values. Keys that the provider sets itself are refused. A change restarts the guest.
        nspawn_config: Attr<BTreeMap<String, BTreeMap<String, Vec<String>>>> => optional().validate(texts::nspawn::check),
        /// How long each operation may take.
        timeouts: Attr<Timeouts> => optional(),
        /// The host's id and the container's name: `root@203.0.113.1:22/web`.
        id: Attr<String> => computed(),
        /// What the guest is doing: `running`, `stopped`, `failed` or `degraded` (running, with failed units inside).
        status: Attr<String> => computed(),
        /// Digest of the image's tree that it was made from. The plan warns when the image of that name has moved on.
        image_digest: Attr<String> => computed(),
        /// MAC address of the guest's network interface.
        mac_address: Attr<String> => computed(),
        /// User id on the host that is root inside; 0 without `private_users`.
        uid_base: Attr<i64> => computed(),
        /// What deviates on the host and was not healed, a sentence each; empty when all is well. The next apply mends it.
        drift: Attr<Vec<String>> => computed().planned_empty(),
    }

    /// What creating, starting and changing the container waits for.
    pub struct WaitFor {
        /// Whether to wait until the guest's own service manager says that it has booted.
        boot: Attr<bool> => optional().default(true),
        /// TCP port to wait for, seen inside the guest: something listens on it.
        port: Attr<i64> => optional().validate(between(1..=65535)),
        /// How long to wait.
        timeout: Attr<Parsed<TimeSpan>> => optional().default("2m"),
    }
}

/// The kernel kills a guest at once that can't have this much.
const LEAST_MEMORY: u64 = 16 << 20;

fn enough(memory: &Size) -> Result<(), String> {
    if memory.bytes() >= LEAST_MEMORY {
        return Ok(());
    }
    Err(format!(
        "{memory} ({} bytes) is too little for a guest to boot: write 16M or more, with its unit, such as \"512M\"",
        memory.bytes()
    ))
}

fn same_size(left: &Parsed<Size>, right: &Parsed<Size>) -> bool {
    left.value().bytes() == right.value().bytes()
}

fn same_addresses(left: &[Parsed<IpAddr>], right: &[Parsed<IpAddr>]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .all(|(left, right)| left.value() == right.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let size = |text: &str| text.parse::<Size>().unwrap();
        assert!(enough(&size("16M")).is_ok() && enough(&size("512")).is_err());
    }

    #[test]
    fn two_spellings_of_one_value_are_the_same() {
        let size = |text: &str| text.parse::<Parsed<Size>>().unwrap();
        assert!(same_size(&size("2048M"), &size("2G")) && !same_size(&size("2M"), &size("2G")));
        let servers = |text: &str| vec![text.parse::<Parsed<IpAddr>>().unwrap()];
        assert!(same_addresses(
            &servers("2001:db8:0::1"),
            &servers("2001:db8::1")
        ));
    }
}
