mod chains;
mod cuts;
mod kernel;
mod order;

use super::*;

fn chain(table: &str, name: &str, hook: &str, policy: &str) -> Value {
    let mut chain = json!({"family": "inet", "table": table, "name": name, "handle": 1});
    if !hook.is_empty() {
        chain["type"] = json!("filter");
        chain["hook"] = json!(hook);
        chain["prio"] = json!(0);
        chain["policy"] = json!(policy);
    }
    json!({ "chain": chain })
}

fn rule(table: &str, chain: &str, handle: u64, expressions: &Value) -> Value {
    json!({"rule": {
        "family": "inet", "table": table, "chain": chain, "handle": handle, "expr": expressions,
    }})
}

fn port(port: u16, verdict: &str) -> Value {
    json!([
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": port}},
        {"counter": {"packets": port, "bytes": 2}},
        {verdict: null},
    ])
}

fn rules(objects: &[Value]) -> Rules {
    Rules::read(&json!({ "nftables": objects }))
}

/// A host with a firewall that drops what it doesn't know.
fn firewall() -> Vec<Value> {
    vec![
        chain("filter", "input", "input", "drop"),
        chain("filter", "forward", "forward", "accept"),
        chain("filter", "banned", "", ""),
        rule(
            "filter",
            "input",
            5,
            &json!([{"jump": {"target": "banned"}}]),
        ),
        rule("filter", "input", 6, &port(22, "accept")),
        rule("filter", "input", 7, &port(80, "accept")),
    ]
}

/// How the operator comes in.
fn way() -> Way<'static> {
    let addresses = [
        "203.0.113.1",
        "2001:db8::1",
        "fe80::1",
        "198.51.100.2",
        "172.31.1.1",
    ];
    Way {
        interfaces: vec!["eth0"],
        addresses: addresses.map(|text| text.parse().unwrap()).to_vec(),
    }
}

fn sentences(before: &[Value], now: &[Value]) -> Vec<String> {
    plan(&rules(before), &rules(now), &way())
        .into_iter()
        .map(|step| step.sentence)
        .collect()
}

fn with(more: Vec<Value>) -> Vec<Value> {
    firewall().into_iter().chain(more).collect()
}

#[test]
fn what_can_not_cut_is_left_alone() {
    let mut counted = firewall();
    counted[4] = rule("filter", "input", 60, &port(22, "accept"));
    counted[4]["rule"]["expr"][1]["counter"]["packets"] = json!(99);
    assert!(sentences(&firewall(), &counted).is_empty());
    for more in [
        rule("filter", "forward", 9, &port(22, "drop")),
        rule("filter", "input", 9, &json!([{"accept": null}])),
        rule(
            "filter",
            "input",
            9,
            &json!([
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "docker0"}},
                {"drop": null},
            ]),
        ),
        chain("docker", "DOCKER-FORWARD", "forward", "drop"),
    ] {
        assert_eq!(
            sentences(&firewall(), &with(vec![more])),
            Vec::<String>::new()
        );
    }
}

#[test]
fn our_own_tables_are_none_of_theirs() {
    let object = |family: &str, table: &str| {
        json!({"chain": {
            "family": family, "table": table, "name": "a", "hook": "input", "policy": "drop",
        }})
    };
    let ours = filter::FAMILIES.map(|family| object(family, filter::TABLE));
    assert_eq!(rules(&ours), Rules::default());
    for (family, table) in [("ip", filter::TABLE), ("inet", "filter")] {
        assert_ne!(rules(&[object(family, table)]), Rules::default());
    }
}

#[test]
fn what_has_come_since_and_drops_goes() {
    let evil = |hook: &str| {
        with(vec![
            chain("evil", "in", hook, "accept"),
            rule("evil", "in", 2, &port(22, "drop")),
        ])
    };
    let gone = ["the nftables table inet evil, which had come since, is gone"];
    for verdict in [
        json!([{"redirect": {"port": 9}}]),
        json!([{"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": "@verdicts"}}]),
    ] {
        let astray = with(vec![
            chain("evil", "in", "prerouting", "accept"),
            rule("evil", "in", 2, &verdict),
        ]);
        assert_eq!(sentences(&firewall(), &astray), gone, "{verdict}");
    }
    for hook in ["input", "prerouting", "output"] {
        assert_eq!(sentences(&firewall(), &evil(hook)), gone, "{hook}");
    }
    assert_eq!(
        sentences(
            &firewall(),
            &with(vec![chain("evil", "in", "input", "drop")])
        ),
        gone
    );
    let in_a_chain_that_was_there = with(vec![rule("filter", "banned", 9, &port(22, "reject"))]);
    assert_eq!(
        sentences(&firewall(), &in_a_chain_that_was_there),
        [
            "a rule of the chain banned (table inet filter) that keeps packets out, which had come since, is gone"
        ]
    );
    let through_a_new_chain = with(vec![
        chain("filter", "evil", "", ""),
        rule("filter", "evil", 10, &port(22, "drop")),
        rule(
            "filter",
            "input",
            11,
            &json!([{"goto": {"target": "evil"}}]),
        ),
    ]);
    assert_eq!(sentences(&firewall(), &through_a_new_chain).len(), 2);
}

#[test]
fn a_policy_is_as_before() {
    let mut before = firewall();
    before[0] = chain("filter", "input", "input", "accept");
    let steps = plan(&rules(&before), &rules(&firewall()), &way());
    assert_eq!(steps.len(), 1);
    assert_eq!(
        steps[0].sentence,
        "the policy of the chain input (table inet filter) is accept again, not drop"
    );
    let asked = &steps[0].commands[0]["add"]["chain"];
    assert!(asked["policy"] == "accept" && asked["hook"] == "input" && asked["handle"].is_null());
}

#[test]
fn a_policy_that_lets_pass_or_forwards_stays() {
    let mut opened = firewall();
    opened[0] = chain("filter", "input", "input", "accept");
    assert_eq!(sentences(&firewall(), &opened), Vec::<String>::new());
    let mut forwarding = firewall();
    forwarding[1] = chain("filter", "forward", "forward", "drop");
    assert_eq!(sentences(&firewall(), &forwarding), Vec::<String>::new());
}

#[test]
fn what_drops_is_back_with_all_that_lets_pass_or_not_at_all() {
    let handles = |step: &Step| -> Vec<u64> {
        let commands = step.commands.iter();
        commands
            .map(|command| {
                let expressions = &command["add"]["rule"]["expr"];
                let rules = rules(&with(vec![rule("filter", "input", 8, &port(25, "drop"))]));
                let found = rules
                    .listed
                    .iter()
                    .find(|rule| rule.expressions == *expressions);
                found.unwrap().handle
            })
            .collect()
    };
    for (policy, jump) in [("drop", vec![5]), ("accept", vec![])] {
        let mut before = with(vec![
            rule("filter", "input", 8, &port(25, "drop")),
            rule("filter", "banned", 9, &port(26, "drop")),
        ]);
        before[0] = chain("filter", "input", "input", policy);
        let is_in_input = |object: &Value| object["rule"]["chain"] == "input";
        let emptied: Vec<Value> = before
            .iter()
            .filter(|object| !is_in_input(object))
            .cloned()
            .collect();
        let steps = plan(&rules(&before), &rules(&emptied), &way());
        assert_eq!(steps.len(), 1);
        assert_eq!(handles(&steps[0]), [5, 6, 7, 8]);
        let single: Vec<u64> = steps[0].otherwise.iter().flat_map(handles).collect();
        assert_eq!(single, [jump, vec![6, 7]].concat(), "{policy}");
    }
}

#[test]
fn a_rule_that_let_pass_is_back_in_its_place() {
    let now: Vec<Value> = firewall()
        .into_iter()
        .filter(|object| !matches!(object["rule"]["handle"].as_u64(), Some(5 | 6)))
        .collect();
    let steps = plan(&rules(&firewall()), &rules(&now), &way());
    assert_eq!(steps.len(), 1);
    let asked: Vec<&Value> = steps[0]
        .commands
        .iter()
        .map(|command| &command["insert"]["rule"])
        .collect();
    assert_eq!(asked.len(), 2);
    // Both before the same neighbour: the first one first.
    assert!(asked[0]["expr"][0]["jump"].is_object() && asked[0]["handle"] == 7);
    assert!(asked[1]["expr"] == port(22, "accept") && asked[1]["handle"] == 7);
}

#[test]
fn a_rule_that_dropped_is_back_only_where_the_chain_was_emptied() {
    let before = with(vec![rule("filter", "input", 8, &port(25, "drop"))]);
    assert_eq!(sentences(&before, &firewall()), Vec::<String>::new());
    let emptied = &firewall()[..3];
    let back = "a rule that was gone from the chain input (table inet filter) is back";
    assert_eq!(sentences(&before, emptied), [back]);
}

#[test]
fn what_drops_waits_for_the_chains_that_let_pass_before_it() {
    let chains = vec![
        chain("filter", "input", "input", "accept"),
        chain("filter", "allowed", "", ""),
    ];
    let jump = json!([{"jump": {"target": "allowed"}}]);
    let mut before = chains.clone();
    before.extend([
        rule("filter", "input", 5, &jump),
        rule("filter", "input", 6, &json!([{"drop": null}])),
        rule("filter", "allowed", 7, &port(22, "accept")),
    ]);
    let steps = plan(&rules(&before), &rules(&chains), &way());
    assert_eq!(steps.len(), 1);
    assert_eq!((steps[0].commands.len(), steps[0].otherwise.len()), (3, 2));
}
