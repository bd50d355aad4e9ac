//! nspawn_public_address between Terraform and the wire.

use std::net::IpAddr;

use protocol::{
    address,
    desired::Address,
    observed::{AddressState, Observed},
};
use tfplugin::{Diagnostics, Parsed, path};

use super::schema::PublicAddress;
use crate::timeouts;

impl PublicAddress {
    /// As the host keeps it.
    pub fn desired(&self) -> Result<Address, Diagnostics> {
        Ok(Address {
            address: self.address.require(path!("address"))?.value().clone(),
            container: self.container.require(path!("container"))?.value().clone(),
            proxy: *self.proxy.require(path!("proxy"))?,
            uplink: self.uplink.cloned().map(Parsed::into_value),
            timeouts: timeouts::to_desired(&self.timeouts),
        })
    }

    /// What the host says of it.
    pub fn observe(&mut self, observed: &Observed<Address, AddressState>) {
        let Observed {
            desired,
            state,
            drift,
            ..
        } = observed;
        self.address = Parsed::new(desired.address.clone()).into();
        self.container = Parsed::new(desired.container.clone()).into();
        self.proxy = desired.proxy.into();
        self.uplink = desired.uplink.clone().map(Parsed::new).into();
        self.timeouts = timeouts::from_desired(desired.timeouts.as_ref());
        self.family = family(&desired.address).into();
        self.gateway = state.gateway.map(|gateway| gateway.to_string()).into();
        self.attached = state.attached.into();
        self.drift = drift.clone().into();
    }
}

/// "ipv4" or "ipv6"
pub fn family(address: &address::PublicAddress) -> &'static str {
    match address.ip() {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    }
}

#[cfg(test)]
mod tests {
    use protocol::observed::Owner;
    use tfplugin::Attr;

    use super::*;
    use crate::fixture::token;

    #[test]
    fn every_configured_attribute_comes_back_from_the_host() {
        for (text, uplink) in [
            ("203.0.113.2/32", Attr::Null),
            ("2001:DB8::1", Attr::Known("eth1".parse().unwrap())),
        ] {
            let address = PublicAddress {
                address: Attr::Known(text.parse().unwrap()),
                container: Attr::Known("web".parse().unwrap()),
                proxy: false.into(),
                uplink,
                ..PublicAddress::default()
            };
            let mut seen = PublicAddress::default();
            seen.observe(&Observed {
                desired: address.desired().unwrap(),
                owner: Owner {
                    token: token('a'),
                    claimed: true,
                    holder: None,
                },
                state: AddressState {
                    gateway: Some("fe80::1".parse().unwrap()),
                    attached: true,
                },
                drift: vec![],
            });
            let family = if text.contains(':') { "ipv6" } else { "ipv4" };
            let computed = PublicAddress {
                family: family.into(),
                gateway: "fe80::1".into(),
                attached: true.into(),
                drift: vec![].into(),
                ..address
            };
            assert_eq!(seen, computed);
        }
    }
}
