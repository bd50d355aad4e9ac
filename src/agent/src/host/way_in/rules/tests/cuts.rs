//! What keeps an operator out, and what only others.

use super::*;

const GONE: &str = "a rule of the chain input (table inet filter) that drops packets, which had come since, is gone";

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
