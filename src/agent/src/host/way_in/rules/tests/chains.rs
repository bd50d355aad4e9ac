//! Chains that are gone.

use super::*;

const BACK: &str = "a rule that was gone from the chain input (table inet filter) is back";

fn jump(target: &str) -> Value {
    json!([{"jump": {"target": target}}])
}

/// A firewall that lets pass in chains of its own.
fn with_services(policy: &str) -> Vec<Value> {
    vec![
        chain("filter", "input", "input", policy),
        chain("filter", "admin", "", ""),
        chain("filter", "refuse", "", ""),
        chain("filter", "services", "", ""),
        rule("filter", "input", 5, &port(80, "accept")),
        rule("filter", "input", 6, &jump("services")),
        rule("filter", "input", 7, &jump("refuse")),
        rule("filter", "services", 8, &jump("admin")),
        rule("filter", "admin", 9, &port(22, "accept")),
        rule("filter", "refuse", 10, &json!([{"drop": null}])),
    ]
}

fn without(objects: &[Value], is_gone: impl Fn(&Value) -> bool) -> Vec<Value> {
    objects
        .iter()
        .filter(|object| !is_gone(object))
        .cloned()
        .collect()
}

/// The chains that commands add, and the rules that they put into chains.
fn added(commands: &[Value]) -> (Vec<&str>, Vec<&str>) {
    let asked = |kind: &'static str, key: &'static str| {
        commands
            .iter()
            .filter_map(move |command| command["add"][kind][key].as_str())
            .collect()
    };
    (asked("chain", "name"), asked("rule", "chain"))
}

#[test]
fn a_chain_that_is_gone_is_back_with_the_rules_that_led_to_it() {
    let before = with_services("drop");
    let now = without(&before, |object| {
        let chain = &object["chain"]["name"];
        let of_rule = &object["rule"]["chain"];
        chain == "services"
            || chain == "admin"
            || of_rule == "services"
            || of_rule == "admin"
            || of_rule == "input"
    });
    let steps = plan(&rules(&before), &rules(&now), &way());
    assert_eq!(steps.len(), 1);
    assert!(steps[0].sentence.contains(BACK));
    assert!(
        steps[0]
            .sentence
            .contains("a rule that was gone from the chain admin (table inet filter) is back")
    );
    let (chains, of_rules) = added(&steps[0].commands);
    assert_eq!(chains, ["services", "admin"]);
    assert_eq!(of_rules, ["input", "input", "input", "admin", "services"]);
    let asked = &steps[0].commands[0]["add"]["chain"];
    assert!(asked["family"] == "inet" && asked["table"] == "filter" && asked["handle"].is_null());
    // Each for itself as well: a chain is added wherever it is asked for.
    let single: Vec<_> = steps[0]
        .otherwise
        .iter()
        .map(|step| added(&step.commands))
        .collect();
    assert_eq!(
        single,
        [
            (vec![], vec!["input"]),
            (vec!["services"], vec!["input"]),
            (vec![], vec!["input"]),
            (vec!["admin"], vec!["admin"]),
            (vec!["admin", "services"], vec!["services"]),
        ]
    );
}

#[test]
fn a_chain_that_nothing_leads_to_stays_gone() {
    let before = with_services("accept");
    // The chain of the hook is gone, with all that drops.
    let open = without(&before, |object| object["chain"]["name"] != "refuse");
    assert_eq!(sentences(&before, &open), Vec::<String>::new());
    // Somebody has opened the firewall for good.
    let open = without(&before, |object| {
        object["chain"]["name"] == "refuse"
            || matches!(object["rule"]["handle"].as_u64(), Some(7 | 10))
    });
    assert_eq!(sentences(&before, &open), Vec::<String>::new());
}

#[test]
fn a_chain_that_is_there_is_not_filled_again_when_what_led_to_it_is_gone() {
    let before = with_services("drop");
    let now = without(&before, |object| object["rule"]["chain"] == "input");
    let steps = plan(&rules(&before), &rules(&now), &way());
    assert_eq!(steps.len(), 1);
    assert_eq!(added(&steps[0].commands), (vec![], vec!["input"; 3]));
}

#[test]
fn what_drops_in_a_chain_that_is_gone_is_back_with_what_lets_pass() {
    let before = with_services("accept");
    let is_of_input =
        |object: &Value| object["rule"]["chain"] == "input" || object["rule"]["chain"] == "refuse";
    let now = without(&before, |object| {
        is_of_input(object) || object["chain"]["name"] == "refuse"
    });
    let steps = plan(&rules(&before), &rules(&now), &way());
    assert_eq!(steps.len(), 1);
    let (chains, of_rules) = added(&steps[0].commands);
    assert_eq!(chains, ["refuse"]);
    assert_eq!(of_rules, ["input", "input", "input", "refuse"]);
    for step in &steps[0].otherwise {
        assert_eq!(added(&step.commands), (vec![], vec!["input"]));
    }
}
