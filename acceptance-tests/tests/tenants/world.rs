//! The guests, their host and what they know of each other.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use acceptance_tests::{Lab, Vps, configuration, frames::Mac, images::Guest as Image};
use anyhow::{Context, Result};

/// What sends and shows frames.
pub const FRAMES: &str = env!("CARGO_BIN_EXE_frames");
/// Where it is in the attacking guest.
const INSIDE: &str = "/usr/local/bin/frames";

/// A running guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The container.
    pub name: &'static str,
    /// The address of its host0.
    pub mac: Mac,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Its network.
    pub namespace: PathBuf,
}

impl Guest {
    /// Whether an address is its own.
    pub fn has(&self, address: IpAddr) -> bool {
        let text = address.to_string();
        let routed = [PREFIX_V4, PREFIX_V6]
            .iter()
            .any(|prefix| text.starts_with(prefix.start));
        let prefix = self.name == "attacker" && routed;
        prefix || address == self.v4 || address == self.v6 || address == self.link_local()
    }

    /// The address that the kernel makes from the MAC address. RFC 4291, appendix A
    pub fn link_local(&self) -> Ipv6Addr {
        let mac = self.mac.map(u16::from);
        let parts = [
            mac[0] ^ 2,
            mac[1],
            mac[2],
            0xff,
            0xfe,
            mac[3],
            mac[4],
            mac[5],
        ];
        let pair = |place: usize| parts[place] << 8 | parts[place + 1];
        Ipv6Addr::new(0xfe80, 0, 0, 0, pair(0), pair(2), pair(4), pair(6))
    }
}

/// Everybody.
#[derive(Debug)]
pub struct World<'a> {
    /// Where they are.
    pub lab: &'a Lab,
    /// The guest that attacks.
    pub attacker: Guest,
    /// The guest that is attacked.
    pub victim: Guest,
    /// A guest in whose name the victim is attacked.
    pub bystander: Guest,
    /// The address of the bridge.
    pub bridge: Mac,
    /// The address of the host's uplink.
    pub uplink: Mac,
    /// The host's own address, which is the guests' gateway.
    pub gateway_v4: Ipv4Addr,
    /// The guests' gateway.
    pub gateway_v6: Ipv6Addr,
    /// The host's own addresses.
    pub host_v4: IpAddr,
    /// The host's own addresses.
    pub host_v6: IpAddr,
    /// The operator's addresses: the outside.
    pub client_v4: IpAddr,
    /// The operator's addresses: the outside.
    pub client_v6: IpAddr,
    /// An address of the host's block that is attached to nobody.
    pub unattached_v4: Ipv4Addr,
}

/// A prefix that is routed to the attacker.
pub struct Prefix {
    /// The prefix.
    pub net: &'static str,
    /// What its addresses begin with.
    pub start: &'static str,
}

/// Of IPv4.
pub const PREFIX_V4: Prefix = Prefix {
    net: "192.0.2.0/24",
    start: "192.0.2.",
};

/// Of IPv6.
pub const PREFIX_V6: Prefix = Prefix {
    net: "2001:db8:1:0:5::/80",
    start: "2001:db8:1:0:5:",
};

/// Three guests with addresses of both families.
pub fn configuration(vps: &Vps, more: &str) -> Result<String> {
    let mut text = configuration::host(vps, more) + &configuration::image(Image::Debian)?;
    for (number, name) in [(11, "attacker"), (12, "victim"), (13, "bystander")] {
        text += &configuration::container(name, "");
        text += &configuration::address(&format!("{name}4"), &format!("203.0.113.{number}"), name);
        text +=
            &configuration::address(&format!("{name}6"), &format!("2001:db8:1::{number}"), name);
    }
    for (label, prefix) in [("block4", PREFIX_V4), ("block6", PREFIX_V6)] {
        let routed = "  proxy = false";
        text += &configuration::address_with(label, prefix.net, "attacker", routed);
    }
    Ok(text)
}

fn guest(vps: &Vps, name: &'static str, number: u8) -> Result<Guest> {
    Ok(Guest {
        name,
        mac: mac(&vps.guest(name, "cat /sys/class/net/host0/address")?)?,
        v4: Ipv4Addr::new(203, 0, 113, number),
        v6: format!("2001:db8:1::{number}").parse()?,
        namespace: vps.guest_namespace(name)?,
    })
}

/// Reads a MAC address.
pub fn mac(text: &str) -> Result<Mac> {
    let text = text.trim();
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .with_context(|| format!("{text:?} is no MAC address"))
}

impl<'a> World<'a> {
    /// Looks at running guests, and gives the attacker its tool.
    pub fn look(lab: &'a Lab) -> Result<Self> {
        let vps = lab.vps1();
        let leader = vps.root("machinectl show --value -p Leader attacker")?;
        fs::copy(FRAMES, vps.root_folder().join("root/frames"))?;
        let tool = format!("/proc/{}/root{INSIDE}", leader.trim());
        vps.root(&format!("cp /root/frames {tool} && chmod 755 {tool}"))?;
        let link = |name: &str| vps.root(&format!("cat /sys/class/net/{name}/address"));
        Ok(Self {
            lab,
            attacker: guest(vps, "attacker", 11)?,
            victim: guest(vps, "victim", 12)?,
            bystander: guest(vps, "bystander", 13)?,
            bridge: mac(&link("br0")?)?,
            uplink: mac(&link(&vps.options().uplink)?)?,
            gateway_v4: vps.block().ipv4,
            gateway_v6: "fe80::1".parse()?,
            host_v4: vps.block().ipv4.into(),
            host_v6: vps.block().ipv6.into(),
            client_v4: "198.51.100.2".parse()?,
            client_v6: "2001:db8:ffff::2".parse()?,
            unattached_v4: "203.0.113.99".parse()?,
        })
    }

    /// The guests.
    pub fn guests(&self) -> [&Guest; 3] {
        [&self.attacker, &self.victim, &self.bystander]
    }

    /// Sends frames from inside the attacker, as its root.
    pub fn send(&self, frames: &[Vec<u8>], times: u32) -> Result<()> {
        let frames: Vec<String> = frames
            .iter()
            .map(|frame| acceptance_tests::frames::to_hex(frame))
            .collect();
        let script = format!("{INSIDE} send host0 --times {times} {}", frames.join(" "));
        self.lab.vps1().guest("attacker", &script).map(drop)
    }
}
