//! A chain's rules are a sequence.

use super::*;

const GONE: &str = "a rule of the chain input (table inet filter) that keeps packets out, which had come since, is gone";
const ORDERED: &str =
    "the rules of the chain input (table inet filter) are in their former order again";
const BACK: &str = "a rule that was gone from the chain input (table inet filter) is back";

/// A chain with a rule for each letter: `d` drops all, `b` somebody, others let a port pass.
fn chain_of(letters: &str) -> Vec<Value> {
    let listed = letters.chars().zip(10..).map(|(letter, handle)| {
        let expressions = match letter {
            'd' => json!([{"counter": {"packets": handle}}, {"drop": null}]),
            'b' => json!([{"match": "somebody"}, {"drop": null}]),
            'i' => json!([
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "docker0"}},
                {"drop": null},
            ]),
            _ => port(letter as u16, "accept"),
        };
        rule("filter", "input", handle, &expressions)
    });
    [chain("filter", "input", "input", "accept")]
        .into_iter()
        .chain(listed)
        .collect()
}

/// The chain's letters once a step is done.
fn after(letters: &str, steps: &[Step]) -> String {
    let letter_of = |expressions: &Value| {
        let same = |letter: &char| {
            let known = rules(&chain_of(&letter.to_string()));
            without_counts(&known.listed[0].expressions) == without_counts(expressions)
        };
        ('a'..='z').find(same).unwrap()
    };
    let mut listed: Vec<(u64, char)> = (10..).zip(letters.chars()).collect();
    for command in steps.iter().flat_map(|step| &step.commands) {
        let (verb, rule) = ["delete", "add", "insert"]
            .into_iter()
            .find_map(|verb| Some((verb, command.get(verb)?.get("rule")?)))
            .unwrap();
        let place = listed
            .iter()
            .position(|(handle, _)| Some(*handle) == rule["handle"].as_u64());
        match verb {
            "delete" => drop(listed.remove(place.unwrap())),
            "insert" => listed.insert(place.unwrap(), (0, letter_of(&rule["expr"]))),
            _ => listed.push((0, letter_of(&rule["expr"]))),
        }
    }
    listed.into_iter().map(|(_, letter)| letter).collect()
}

#[test]
fn a_second_rule_that_drops_like_one_that_was_there_goes() {
    for (before, now) in [
        ("sd", "dsd"),
        ("sd", "ddsd"),
        ("bsd", "bdsd"),
        ("sd", "sdd"),
    ] {
        let steps = plan(&rules(&chain_of(before)), &rules(&chain_of(now)), &way());
        let sentences: Vec<&str> = steps.iter().map(|step| step.sentence.as_str()).collect();
        assert_eq!(sentences, vec![GONE; now.len() - before.len()], "{now}");
        assert_eq!(after(now, &steps), before);
    }
    // Not the one that was there first: it drops what must not pass.
    let steps = plan(&rules(&chain_of("bs")), &rules(&chain_of("bsb")), &way());
    assert_eq!(after("bsb", &steps), "bs");
}

#[test]
fn what_drops_comes_to_stand_behind_what_lets_pass_again() {
    for (before, now) in [
        ("sd", "ds"),
        ("stud", "dstu"),
        ("bsd", "dbs"),
        ("bsd", "dsb"),
        ("sbtd", "btds"),
        ("sbt", "bts"),
    ] {
        let steps = plan(&rules(&chain_of(before)), &rules(&chain_of(now)), &way());
        assert_eq!(steps.len(), 1, "{before} {now}");
        assert_eq!(steps[0].sentence, ORDERED);
        assert_eq!(after(now, &steps), before, "{now}");
        for single in &steps[0].otherwise {
            assert!(single.commands[0].get("delete").is_some(), "{now}");
        }
    }
}

#[test]
fn what_is_gone_and_what_stands_elsewhere_come_back_at_once() {
    for now in ["ds", "dts", "dus"] {
        let steps = plan(&rules(&chain_of("sbtud")), &rules(&chain_of(now)), &way());
        assert_eq!(steps.len(), 1);
        for part in [BACK, ORDERED] {
            assert!(steps[0].sentence.contains(part), "{now}");
        }
        assert_eq!(after(now, &steps), "sbtud", "{now}");
    }
}

#[test]
fn another_order_that_cuts_nobody_off_is_left_alone() {
    for (before, now) in [
        ("std", "tsd"),
        ("bds", "dbs"),
        ("bsd", "sbd"),
        ("si", "is"),
        ("sd", "xsyd"),
        ("sd", "s"),
    ] {
        let (before, now) = (chain_of(before), chain_of(now));
        assert_eq!(sentences(&before, &now), Vec::<String>::new(), "{now:?}");
    }
}

#[test]
fn of_two_equal_rules_that_let_pass_both_come_back() {
    let steps = plan(&rules(&chain_of("sds")), &rules(&chain_of("ds")), &way());
    assert_eq!(after("ds", &steps), "sds");
}

#[test]
fn a_rule_that_drops_and_lets_pass_is_back_and_one_that_leads_only_to_drops_is_not() {
    let vmap = json!([{"vmap": {"key": "state", "data": {"set": [
        ["invalid", {"drop": null}], ["established", {"accept": null}],
    ]}}}]);
    let more = |expressions: &Value| {
        with(vec![
            rule("filter", "banned", 20, &json!([{"drop": null}])),
            rule("filter", "input", 21, expressions),
        ])
    };
    let now = with(vec![rule("filter", "banned", 20, &json!([{"drop": null}]))]);
    assert_eq!(sentences(&more(&vmap), &now), [BACK]);
    let jump = json!([{"counter": null}, {"goto": {"target": "banned"}}]);
    assert_eq!(sentences(&more(&jump), &now), Vec::<String>::new());
}
