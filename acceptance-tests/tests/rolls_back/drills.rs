//! What is done to a host while a change of it waits to be confirmed.

/// A table that was not there before and lets nobody in.
const CUT: &str = "nft 'add table inet evil; add chain inet evil in { type filter hook input priority -5; }; \
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
        "ip route del default; ip -6 route del default",
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
        "CUT; pkill -KILL -f 'RESIDENT'; pkill -KILL -f 'SERVE'",
        "the nftables table inet evil",
    ),
    on_the_host(
        "the agent hangs with the host's lock while a change is pending",
        "CUT; pkill -STOP -f 'SERVE'",
        "the nftables table inet evil",
    ),
];

/// More of each kind.
pub const MORE: [Drill; 9] = [
    on_the_host(
        "the rules that let the operator in are deleted",
        "nft flush chain inet operator in",
        "a rule that was gone from the chain in (table inet operator) is back",
    ),
    on_the_host(
        "the uplink loses its addresses",
        "ip addr flush dev eth0",
        "the address 203.0.113.1/32 is back on eth0",
    ),
    on_the_host(
        "the uplink is set down",
        "ip link set eth0 down",
        "eth0 is up again",
    ),
    on_the_host(
        "a policy that was there becomes drop",
        "nft 'add chain inet operator out { policy drop; }'",
        "the policy of the chain out (table inet operator) is accept again",
    ),
    on_the_host(
        "a rule in a chain that was there cuts port 22",
        "nft 'insert rule inet operator in tcp dport 22 drop'",
        "a rule of the chain in (table inet operator) that drops packets",
    ),
    on_the_host(
        "another route leads the operator's packets astray",
        "ip route add 198.51.100.0/24 dev lo",
        "the route to 198.51.100.0/24, which had come since, is gone",
    ),
    on_the_host(
        "the resident service is killed again and again",
        "CUT; for i in 1 2 3 4 5 6; do pkill -KILL -f 'RESIDENT' || true; sleep 0.3; done",
        "the nftables table inet evil",
    ),
    on_the_host(
        "the resident service is told to end by a stray signal",
        "CUT; pkill -TERM -f 'RESIDENT'",
        "the nftables table inet evil",
    ),
    beside("the power is cut while a change is pending", Way::PowerCut),
];

/// Notes when the host was struck, and whether that was in time: on the disk, for a reboot may follow at once.
const STRUCK: &str = "struck() { at=$(date +%s.%N); if [ -e /etc/nspawn-agent/pending.json ]; then when=pending; \
                      else when=over; fi; echo \"$at $when\" > /var/log/drill; }";

impl Drill {
    /// What runs on the host as soon as a change is pending; `made` succeeds once the change itself is there.
    pub fn script(&self, made: &str) -> String {
        let script = match self.way {
            Way::OnTheHost(script) => script,
            // It waits in the middle of the change, and then goes on with it.
            Way::ProviderKilled | Way::Frozen => {
                "pkill -STOP -f 'SERVE'; struck; touch /dev/shm/fired; until [ -e /dev/shm/go ]; do sleep 0.01; done; \
                 pkill -CONT -f 'SERVE'"
            }
            Way::Rebooted => "CUT; until MADE; do sleep 0.01; done; sync; systemctl reboot --force",
            Way::PowerCut => "CUT; until MADE; do sleep 0.01; done; sync",
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
            "{STRUCK}\nuntil [ -e /etc/nspawn-agent/pending.json ]; do sleep 0.005; done\n{words}{at_the_end}\n\
             touch /dev/shm/fired\n"
        )
    }
}

#[test]
fn each_drill_notes_that_it_struck() {
    for drill in LIST.iter().chain(&MORE) {
        let script = drill.script("[ -e /made ]");
        let calls = script
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
