//! What keeps an operator out, and what only others.

use super::*;

const GONE: &str = "a rule of the chain input (table inet filter) that keeps packets out, which had come since, is gone";

fn on(interface: &str, verdict: &Value) -> Value {
    json!([
        {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": interface}},
        verdict,
    ])
}

/// A firewall that drops by a chain of its own.
fn with_a_chain_that_drops(more: Vec<Value>) -> Vec<Value> {
    let dropping = vec![
        chain("filter", "refuse", "", ""),
        chain("filter", "log_and_refuse", "", ""),
        rule("filter", "refuse", 20, &json!([{"drop": null}])),
        rule("filter", "log_and_refuse", 21, &json!([{"log": null}])),
        rule(
            "filter",
            "log_and_refuse",
            22,
            &json!([{"jump": {"target": "refuse"}}]),
        ),
        rule(
            "filter",
            "input",
            23,
            &json!([{"jump": {"target": "log_and_refuse"}}]),
        ),
    ];
    with(dropping.into_iter().chain(more).collect())
}

#[test]
fn a_new_jump_into_a_chain_that_drops_goes_and_the_chain_stays() {
    let before = with_a_chain_that_drops(vec![]);
    for target in ["refuse", "log_and_refuse"] {
        let jump = |interface: &str| {
            let expressions = on(interface, &json!({"jump": {"target": target}}));
            with_a_chain_that_drops(vec![rule("filter", "input", 30, &expressions)])
        };
        assert_eq!(sentences(&before, &jump("eth0")), [GONE], "{target}");
        assert_eq!(sentences(&before, &jump("docker0")), Vec::<String>::new());
    }
}

#[test]
fn a_chain_of_forwarding_alone_stays_when_somebody_leads_to_it() {
    let dropping = || {
        vec![
            chain("filter", "refuse", "", ""),
            rule("filter", "refuse", 20, &json!([{"drop": null}])),
        ]
    };
    let jump = rule(
        "filter",
        "input",
        30,
        &json!([{"jump": {"target": "refuse"}}]),
    );
    let now = with(dropping().into_iter().chain([jump]).collect());
    // Of what is on nobody's way no rules are kept.
    let before = rules(&with(dropping())).on_the_way();
    let steps = plan(&before, &rules(&now), &way()).into_iter();
    let told: Vec<String> = steps.map(|step| step.sentence).collect();
    assert_eq!(told, [GONE]);
}

#[test]
fn a_set_of_interfaces_may_hold_the_uplink() {
    let cut = |interface: &str| {
        with(vec![rule(
            "filter",
            "input",
            9,
            &on(interface, &json!({"drop": null})),
        )])
    };
    assert_eq!(sentences(&firewall(), &cut("@wan")), [GONE]);
    assert_eq!(sentences(&firewall(), &cut("eth*")), [GONE]);
    assert_eq!(
        sentences(&firewall(), &cut("docker0")),
        Vec::<String>::new()
    );
}

/// A rule that drops what goes to an address.
fn to(address: &Value) -> Value {
    let is_v6 = address.as_str().is_some_and(|text| text.contains(':'));
    let protocol = if is_v6 { "ip6" } else { "ip" };
    json!([
        {"match": {
            "op": "==", "left": {"payload": {"protocol": protocol, "field": "daddr"}}, "right": address,
        }},
        {"drop": null},
    ])
}

#[test]
fn what_goes_to_others_may_be_dropped() {
    let dropping = |address: &Value| with(vec![rule("filter", "input", 9, &to(address))]);
    let prefix = |address: &str, length: u8| json!({"prefix": {"addr": address, "len": length}});
    for others in [
        json!("172.17.0.2"),
        json!("2001:db8::2"),
        prefix("172.17.0.0", 16),
    ] {
        let now = dropping(&others);
        assert_eq!(
            sentences(&firewall(), &now),
            Vec::<String>::new(),
            "{others}"
        );
    }
    for ours in [
        json!("203.0.113.1"),
        json!("198.51.100.2"),
        json!("fe80::1"),
        json!("ff02::1"),
        prefix("203.0.113.0", 24),
        json!("@guests"),
        json!({"set": ["172.17.0.2"]}),
        json!({"range": ["172.17.0.2", "172.17.0.9"]}),
    ] {
        assert_eq!(sentences(&firewall(), &dropping(&ours)), [GONE], "{ours}");
    }
    // Who the operator is, isn't always known.
    let unknown = Way {
        addresses: Vec::new(),
        ..way()
    };
    let now = rules(&dropping(&json!("172.17.0.2")));
    assert_eq!(plan(&rules(&firewall()), &now, &unknown).len(), 1);
}

#[test]
fn a_new_table_goes_as_a_whole_only_when_nothing_else_is_in_it() {
    let guests = || {
        vec![
            chain("raw", "PREROUTING", "prerouting", "accept"),
            rule("raw", "PREROUTING", 2, &to(&json!("172.17.0.2"))),
        ]
    };
    let also = |more: Vec<Value>| with(guests().into_iter().chain(more).collect());
    assert_eq!(sentences(&firewall(), &also(vec![])), Vec::<String>::new());
    let cut = rule("raw", "PREROUTING", 3, &port(22, "drop"));
    assert_eq!(
        sentences(&firewall(), &also(vec![cut])),
        [
            "a rule of the chain PREROUTING (table inet raw) that keeps packets out, which had come since, is gone"
        ]
    );
    let whole = ["the nftables table inet raw, which had come since, is gone"];
    let shut = chain("raw", "INPUT", "input", "drop");
    assert_eq!(sentences(&firewall(), &also(vec![shut])), whole);
    let cut = || {
        vec![
            chain("evil", "in", "input", "accept"),
            chain("evil", "refuse", "", ""),
            rule("evil", "in", 2, &json!([{"goto": {"target": "refuse"}}])),
            rule("evil", "refuse", 3, &json!([{"drop": null}])),
        ]
    };
    let whole = ["the nftables table inet evil, which had come since, is gone"];
    assert_eq!(sentences(&firewall(), &with(cut())), whole);
    let forwards = cut()
        .into_iter()
        .chain([chain("evil", "forward", "forward", "accept")]);
    assert_eq!(sentences(&firewall(), &with(forwards.collect())).len(), 2);
}

#[test]
fn what_ends_a_chain_before_what_lets_pass_goes() {
    let elsewhere = || {
        vec![
            chain("filter", "elsewhere", "", ""),
            chain("filter", "allowed", "", ""),
            rule("filter", "allowed", 31, &port(22, "accept")),
        ]
    };
    let ends = |interface: &str, verdict: &Value, policy: &str, is_first: bool| {
        let new = rule("filter", "input", 30, &on(interface, verdict));
        let mut before = with(elsewhere());
        before[0] = chain("filter", "input", "input", policy);
        let mut now = before.clone();
        now.insert(if is_first { 4 } else { now.len() }, new);
        sentences(&before, &now)
    };
    let leave = json!({"return": null});
    let aside = json!({"goto": {"target": "elsewhere"}});
    for verdict in [&leave, &aside] {
        assert_eq!(ends("eth0", verdict, "drop", true), [GONE], "{verdict}");
        assert!(ends("docker0", verdict, "drop", true).is_empty());
        assert!(ends("eth0", verdict, "accept", true).is_empty());
        assert!(ends("eth0", verdict, "drop", false).is_empty());
    }
    let allowed = json!({"goto": {"target": "allowed"}});
    assert!(ends("eth0", &allowed, "drop", true).is_empty());
    let deeper = |is_first: bool| {
        let mut rules = vec![rule("filter", "banned", 30, &port(22, "accept"))];
        rules.extend(is_first.then(|| rule("filter", "banned", 31, &json!([leave]))));
        rules.reverse();
        with(rules)
    };
    let gone = GONE.replace("input", "banned");
    assert_eq!(sentences(&deeper(false), &deeper(true)), [gone]);
}
