//! What listens inside a guest, by the kernel's tables of its network.

use std::{fs, io::Read as _};

/// Whether a program listens on a TCP port in the network of this process.
pub fn are_on(process: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let table = start_of(&format!("/proc/{process}/net/{table}"));
        table.is_ok_and(|table| is_listening(&table, port))
    })
}

/// The kernel lists listeners first; a guest may have a million connections behind them.
fn start_of(table: &str) -> std::io::Result<String> {
    const ENOUGH: u64 = 1 << 20;
    let mut text = String::new();
    fs::File::open(table)?
        .take(ENOUGH)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Whether a table of /proc/PID/net/tcp has a listener on this port.
fn is_listening(table: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().and_then(|local| local.rsplit_once(':'));
        let local = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        local == Some(port) && fields.nth(1) == Some(LISTEN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn listeners() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
            0: 00000000:1E61 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
            1: 0100007F:0016 00000000:0000 01 00000000:00000000 00:00000000 00000000     0\n";
        assert!(is_listening(table, 7777));
        assert!(!is_listening(table, 22), "a connection is no listener");
        assert!(!is_listening(table, 80));
        let six = "  sl  local_address remote_address st\n   \
            0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0\n";
        assert!(is_listening(six, 80));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[ -~\n]{0,200}") {
            is_listening(&text, 80);
        }
    }
}
