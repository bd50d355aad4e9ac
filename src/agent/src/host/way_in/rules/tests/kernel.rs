//! The kernel itself, in a network namespace of a thread of its own.

use std::process::{Command, Output};

use super::*;

const FIREWALL: &str = "table inet operator {
    set banned { type ipv4_addr; elements = { 192.0.2.7 } }
    set offices { type ipv4_addr; }
    chain checks { ip saddr @banned drop; }
    chain in {
        type filter hook input priority 0; policy drop;
        iif lo accept
        jump checks
        ip saddr @offices accept
        tcp dport { 22, 80 } accept
        ip saddr 192.0.2.66 drop
        tcp dport vmap { 443 : accept, 25 : drop }
    }
}
";

#[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
fn on_a_host_of_its_own(test: fn()) {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let thread = std::thread::spawn(move || {
        // SAFETY: CLONE_NEWNET leaves memory and descriptors as they are.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        test();
    });
    thread.join().unwrap();
}

fn nft(arguments: &[&str]) -> Output {
    Command::new("nft").args(arguments).output().unwrap()
}

fn does(command: &str) {
    assert!(nft(&[command]).status.success(), "{command}");
}

fn listed() -> Rules {
    let text = nft(&["-j", "-t", "list", "ruleset"]).stdout;
    Rules::read(&serde_json::from_slice(&text).unwrap())
}

fn expressions(rules: &Rules) -> Vec<Value> {
    let listed = rules.listed.iter();
    listed.map(|rule| rule.expressions.clone()).collect()
}

fn takes(commands: &[Value]) -> bool {
    let text = json!({ "nftables": commands }).to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    nft(&["-j", "-f", path]).status.success()
}

#[test]
fn nft_takes_what_is_put_back() {
    on_a_host_of_its_own(|| {
        does(FIREWALL);
        let before = listed();
        assert_eq!(before.listed.len(), 7);

        does("flush chain inet operator in");
        let steps = plan(&before, &listed(), &way());
        assert_eq!(steps.len(), 1);
        assert!(takes(&steps[0].commands));
        assert_eq!(expressions(&listed()), expressions(&before));

        // What a rule needs is gone: what lets pass comes back alone.
        does("flush chain inet operator in; delete set inet operator offices");
        let steps = plan(&before, &listed(), &way());
        assert!(!takes(&steps[0].commands));
        assert_eq!(listed().listed.len(), 1);
        let single = &steps[0].otherwise;
        let results: Vec<bool> = single.iter().map(|step| takes(&step.commands)).collect();
        assert_eq!(results, [true, true, false, true]);
        let expected = expressions(&before);
        let back = [0, 1, 2, 4].map(|place: usize| expected[place].clone());
        assert_eq!(expressions(&listed()), back);
    });
}

#[test]
fn nft_puts_rules_where_they_stood() {
    on_a_host_of_its_own(|| {
        does(FIREWALL);
        does("add rule inet operator in counter drop");
        let before = listed();
        let expected: Vec<Value> = expressions(&before).iter().map(without_counts).collect();
        for cut in [
            "insert rule inet operator in counter drop",
            &format!("delete rule inet operator in handle {}", before.listed[4].handle),
            "flush chain inet operator in; add rule inet operator in counter drop;
             add rule inet operator in iif lo accept; add rule inet operator in tcp dport { 22, 80 } accept",
        ] {
            does(cut);
            let steps = plan(&before, &listed(), &way());
            assert_eq!(steps.len(), 1, "{cut}");
            assert!(takes(&steps[0].commands), "{cut}");
            let now = listed();
            let found: Vec<Value> = expressions(&now).iter().map(without_counts).collect();
            assert_eq!(found, expected, "{cut}");
            assert!(plan(&before, &now, &way()).is_empty(), "{cut}");
        }
    });
}

#[test]
fn nft_makes_chains_again() {
    const CUT: &str = "flush chain inet operator in; flush chain inet operator checks;
        delete chain inet operator checks; flush chain inet operator admin; delete chain inet operator admin";
    on_a_host_of_its_own(|| {
        does(FIREWALL);
        does("add chain inet operator admin; add rule inet operator admin tcp dport 22 accept");
        does("add rule inet operator checks jump admin");
        let before = listed();
        does(CUT);
        let steps = plan(&before, &listed(), &way());
        assert_eq!(steps.len(), 1);
        assert!(takes(&steps[0].commands));
        let now = listed();
        assert_eq!(now.listed.len(), before.listed.len());
        assert!(plan(&before, &now, &way()).is_empty());

        // What needs nothing that is gone comes back alone, with its chain.
        does(CUT);
        does("delete set inet operator banned");
        let steps = plan(&before, &listed(), &way());
        assert!(!takes(&steps[0].commands));
        for single in &steps[0].otherwise {
            assert!(takes(&single.commands), "{:?}", single.commands);
        }
        let text = String::from_utf8(nft(&["list", "ruleset"]).stdout).unwrap();
        for part in ["jump checks", "jump admin", "tcp dport 22 accept"] {
            assert!(text.contains(part), "{text}");
        }
    });
}
