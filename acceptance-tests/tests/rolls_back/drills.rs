//! What is done to a host while a change of it waits to be confirmed.

use std::time::Duration;

/// A table that was not there before and lets nobody in.
const CUT: &str = "must nft 'add table inet evil; add chain inet evil in { type filter hook input priority -5; }; \
                   add rule inet evil in tcp dport 22 drop'";

/// The processes of the agent, by what they do.
pub const SERVE: &str = "nspawn-agent-[0-9a-f]* serve";
const RESIDENT: &str = "nspawn-agent resident";

/// How a drill goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The host itself does it.
    OnTheHost(&'static str),
    /// The provider is killed.
    ProviderKilled,
    /// The line carries nothing any more, and stays open.
    Frozen,
    /// The host reboots, cut off.
    Rebooted,
    /// Its power is cut.
    PowerCut,
}

/// What is done to a host while a change of it waits to be confirmed.
#[derive(Debug, Clone, Copy)]
pub struct Drill {
    /// What is done.
    pub name: &'static str,
    /// How.
    pub way: Way,
    /// What the error says was put back.
    pub says: &'static str,
}

pub const fn on_the_host(name: &'static str, script: &'static str, says: &'static str) -> Drill {
    Drill {
        name,
        way: Way::OnTheHost(script),
        says,
    }
}

const fn beside(name: &'static str, way: Way) -> Drill {
    Drill {
        name,
        way,
        says: "",
    }
}

/// The list of the promise; every run of CI tries these.
pub const LIST: [Drill; 7] = [
    on_the_host(
        "the route to the operator is dropped",
        "must ip route del default; must ip -6 route del default",
        "the default route via 172.31.1.1 on eth0 is back",
    ),
    on_the_host(
        "an nft rule cuts port 22",
        CUT,
        "the nftables table inet evil, which had come since, is gone",
    ),
    beside(
        "the provider is killed before it confirms",
        Way::ProviderKilled,
    ),
    beside("the connection is frozen, not closed", Way::Frozen),
    beside(
        "the host is rebooted while a change is pending",
        Way::Rebooted,
    ),
    on_the_host(
        "the agent is killed while a change is pending",
        "CUT; must pkill -KILL -f 'RESIDENT'; must pkill -KILL -f 'SERVE'",
        "the nftables table inet evil",
    ),
    on_the_host(
        "the agent hangs with the host's lock while a change is pending",
        // Stopped before all else: it holds the lock only while it makes the change.
        "must pkill -STOP -f 'SERVE'; must is_locked; CUT",
        "the nftables table inet evil",
    ),
];

/// More of each kind.
pub const MORE: [Drill; 9] = [
    on_the_host(
        "the rules that let the operator in are deleted",
        "must nft flush chain inet operator in",
        "a rule that was gone from the chain in (table inet operator) is back",
    ),
    on_the_host(
        "the uplink loses its addresses",
        "must ip addr flush dev eth0",
        "the address 203.0.113.1/32 is back on eth0",
    ),
    on_the_host(
        "the uplink is set down",
        "must ip link set eth0 down",
        "eth0 is up again",
    ),
    on_the_host(
        "a policy that was there becomes drop",
        "must nft 'add chain inet operator out { policy drop; }'",
        "the policy of the chain out (table inet operator) is accept again",
    ),
    on_the_host(
        "a rule in a chain that was there cuts port 22",
        "must nft 'insert rule inet operator in tcp dport 22 drop'",
        "a rule of the chain in (table inet operator) that keeps packets out",
    ),
    on_the_host(
        "another route leads the operator's packets astray",
        "must ip route add 198.51.100.0/24 dev lo",
        "the route to 198.51.100.0/24, which had come since, is gone",
    ),
    on_the_host(
        "the resident service is killed again and again",
        "CUT; for i in 1 2 3 4 5 6; do killed=$(resident); must kill -KILL $killed; \
         until [ \"$(resident)\" != $killed ] && [ \"$(resident)\" != 0 ]; do sleep 0.02; done; done",
        "the nftables table inet evil",
    ),
    on_the_host(
        "the resident service is told to end by a stray signal",
        "CUT; must pkill -TERM -f 'RESIDENT'",
        "the nftables table inet evil",
    ),
    beside("the power is cut while a change is pending", Way::PowerCut),
];

/// What a firewall that was there before can be made to do. The host undoes each in the same way whatever it changed
/// itself, so that one change is enough.
pub const FIREWALLS: [Drill; 6] = [
    on_the_host(
        "a new jump leads into a chain that drops",
        "must nft 'insert rule inet operator in tcp dport 22 jump refuse'",
        "a rule of the chain in (table inet operator) that keeps packets out",
    ),
    on_the_host(
        "a rule ends the chain before what lets the operator in",
        "must nft 'insert rule inet operator in tcp dport 22 return'",
        "a rule of the chain in (table inet operator) that keeps packets out",
    ),
    on_the_host(
        "a rule drops what comes by a set of interfaces",
        "must nft 'insert rule inet operator in iifname @outside drop'",
        "a rule of the chain in (table inet operator) that keeps packets out",
    ),
    on_the_host(
        "a rule that drops all comes on top, as at the end",
        "must nft 'insert rule inet operator in drop'",
        "a rule of the chain in (table inet operator) that keeps packets out",
    ),
    on_the_host(
        "rules are loaded in another order",
        "must nft 'flush chain inet operator in; add rule inet operator in drop; \
         add rule inet operator in jump services'",
        "the rules of the chain in (table inet operator) are in their former order again",
    ),
    on_the_host(
        "the chain that lets the operator in is deleted",
        "must nft 'flush chain inet operator in; flush chain inet operator services; delete chain inet operator services'",
        "a rule that was gone from the chain services (table inet operator) is back",
    ),
];

/// Notes when the host was struck, and whether that was in time: on the disk, for a reboot may follow at once. A deed
/// that didn't happen is noted as well, for then the drill shows nothing.
const FUNCTIONS: &str = r#"
struck() {
    at=$(date +%s.%N); if [ -e /etc/nspawn-agent/pending.json ]; then when=pending; else when=over; fi
    echo "$at $when" > /var/log/drill
}
must() { "$@" || echo "status $?: $*" >> /var/log/drill-failed; }
is_locked() { ! flock -n /run/nspawn-agent/lock true; }
resident() { systemctl show -p MainPID --value nspawn-agent.service; }
"#;

impl Drill {
    /// `rollback_after` of the change that is struck: that of nspawn_host itself where the host is back before it.
    pub fn rollback_after(&self) -> Duration {
        Duration::from_secs(match self.way {
            Way::Rebooted | Way::PowerCut => 30,
            _ => 5,
        })
    }

    /// What runs on the host as soon as a change is pending; `made` succeeds once the change itself is there.
    pub fn script(&self, made: &str) -> String {
        let script = match self.way {
            Way::OnTheHost(script) => script,
            // It waits in the middle of the change, and then goes on with it.
            Way::ProviderKilled | Way::Frozen => {
                "must pkill -STOP -f 'SERVE'; struck; touch /dev/shm/fired; until [ -e /dev/shm/go ]; do sleep 0.01; done; \
                 pkill -CONT -f 'SERVE'"
            }
            Way::Rebooted => {
                "CUT; until MADE; do sleep 0.01; done; sync -f /; systemctl reboot --force"
            }
            Way::PowerCut => "CUT; until MADE; do sleep 0.01; done; sync -f /",
        };
        let script = script.replace("CUT", &format!("{CUT}; struck"));
        let at_the_end = if script.contains("struck") {
            ""
        } else {
            "\nstruck"
        };
        let words = script
            .replace("MADE", made)
            .replace("SERVE", SERVE)
            .replace("RESIDENT", RESIDENT);
        format!(
            "{FUNCTIONS}\nuntil [ -e /etc/nspawn-agent/pending.json ]; do sleep 0.005; done\n{words}{at_the_end}\n\
             touch /dev/shm/fired\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use acceptance_tests::command::{check, command};

    use super::*;

    #[test]
    fn each_drill_notes_that_it_struck() {
        for drill in LIST.iter().chain(&MORE).chain(&FIREWALLS) {
            let script = drill.script("[ -e /made ]");
            let deeds = script.split_once(FUNCTIONS).unwrap_or_default().1;
            assert!(deeds.contains("must "), "{script}");
            let calls = deeds
                .split([';', '\n'])
                .filter(|part| part.trim() == "struck");
            assert_eq!(calls.count(), 1, "{script}");
            for word in ["CUT", "MADE", "SERVE", "RESIDENT"] {
                assert!(!script.contains(word), "{script}");
            }
            let waits = matches!(drill.way, Way::Rebooted | Way::PowerCut);
            assert_eq!(script.contains("until [ -e /made ]; do"), waits, "{script}");
        }
    }

    #[test]
    fn a_deed_that_did_not_happen_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let functions = FUNCTIONS.replace("/var/log", &folder.path().display().to_string());
        // The pattern doesn't match itself among the shell's arguments.
        let script = format!("{functions}\nmust true; must pkill -f 'nobody[.]is called so'");
        check(&mut command("sh", ["-uc", &script])).unwrap();
        let noted = fs::read_to_string(folder.path().join("drill-failed")).unwrap();
        assert_eq!(noted, "status 1: pkill -f nobody[.]is called so\n");
    }
}
