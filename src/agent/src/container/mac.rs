//! The address of a guest's host0, known before its first start.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// CONTAINER_HASH_KEY of systemd's src/nspawn/nspawn-network.c
const CONTAINER_HASH_KEY: [u8; 16] = [
    0xc3, 0xc4, 0xf9, 0x19, 0xb5, 0x57, 0xb2, 0x1c, 0xe6, 0xcf, 0x14, 0x27, 0x03, 0x9c, 0xee, 0xa2,
];

/// The MAC address that systemd-nspawn gives to this machine's host0.
///
/// net_generate_mac() of systemd's src/shared/netif-util.c
pub fn mac_address(machine_id: [u8; 16], name: &str) -> [u8; 6] {
    let mut hasher = SipHasher24::new_with_key(&CONTAINER_HASH_KEY);
    hasher.write(&machine_id);
    hasher.write(name.as_bytes());
    let [b0, b1, b2, b3, b4, b5, ..] = hasher.finish().to_le_bytes();
    // ether_addr_mark_random(): unicast, locally administered.
    [(b0 & 0xfe) | 0x02, b1, b2, b3, b4, b5]
}

/// Reads machine-id(5)'s text.
pub fn parse_machine_id(text: &str) -> Option<[u8; 16]> {
    let text = text.trim_end();
    let hexadecimal = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok()?;
    hexadecimal.then(|| number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_locally_administered_and_depends_on_host_and_name() {
        let id = parse_machine_id("0123456789abcdef0123456789abcdef\n").unwrap();
        let mac = mac_address(id, "web");
        assert_eq!(mac[0] & 0x03, 0x02);
        assert_ne!(mac, mac_address(id, "web2"));
        assert_ne!(mac, mac_address([0; 16], "web"));
    }

    #[test]
    fn what_is_no_machine_id() {
        for text in [
            "",
            "uninitialized",
            "+123456789abcdef0123456789abcdef",
            "00",
        ] {
            assert_eq!(parse_machine_id(text), None, "{text}");
        }
    }
}
