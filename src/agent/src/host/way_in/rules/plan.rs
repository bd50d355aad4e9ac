//! What opens the way again: pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Chain, Place, Rule, Rules, Step, drops, without_counts};

/// How deep chains may be nested: the kernel takes 16. NFT_JUMP_STACK_SIZE
const DEPTH: usize = 16;

/// What has come since and cuts, what is gone and let pass.
pub fn plan(before: &Rules, now: &Rules, interfaces: &[&str]) -> Vec<Step> {
    let mut steps = Vec::new();
    let cutting: Vec<&Rule> = now
        .listed
        .iter()
        .filter(|rule| now.cuts(rule, before, interfaces, DEPTH))
        .collect();
    let closed = |chain: &&Chain| chain.matters() && chain.drops();
    let is_new = |table: &(String, String)| !before.tables.contains(table);
    // What came as a whole goes as a whole.
    let mut tables: Vec<(String, String)> = cutting
        .iter()
        .map(|rule| rule.place.table())
        .chain(
            now.chains
                .iter()
                .filter(closed)
                .map(|chain| chain.place.table()),
        )
        .filter(is_new)
        .collect();
    tables.sort();
    tables.dedup();
    steps.extend(tables.iter().map(remove_table));
    // A policy that lets pass now is no matter of getting in, whatever it was before.
    let was_open = |chain: &&Chain| {
        let known = before.chain(&chain.place);
        known.is_none_or(|known| !known.drops()) && !is_new(&chain.place.table())
    };
    let to_open = now.chains.iter().filter(closed).filter(was_open);
    steps.extend(to_open.filter_map(open));
    steps.extend(
        cutting
            .iter()
            .filter(|rule| !is_new(&rule.place.table()))
            .map(|rule| remove_rule(rule)),
    );
    let tables: BTreeSet<(String, String)> = before
        .listed
        .iter()
        .map(|rule| rule.place.table())
        .collect();
    let put_back = |table| put_back(&table, before, now);
    steps.extend(tables.into_iter().filter_map(put_back));
    steps
}

/// Puts all back that is gone of a table, as one: rules that drop must not be there without those that let pass, which
/// may stand in other chains.
fn put_back(table: &(String, String), before: &Rules, now: &Rules) -> Option<Step> {
    let places: BTreeSet<&Place> = before.listed.iter().map(|rule| &rule.place).collect();
    let (mut commands, mut otherwise, mut sentences) = (Vec::new(), Vec::new(), Vec::new());
    for place in places.into_iter().filter(|place| place.table() == *table) {
        let Some(chain) = now.chain(place) else {
            continue;
        };
        let lost = lost(place, before, now);
        if lost.is_empty() {
            continue;
        }
        let sentence = format!("a rule that was gone from {} is back", place.words());
        for rule in lost {
            let command = put_rule(rule, before, now);
            // A chain that drops by its policy can't be closed further.
            let is_closed = chain.drops() && !drops(&rule.expressions);
            if is_closed || !before.closes(rule, &[], DEPTH) {
                otherwise.push(Step {
                    commands: vec![command.clone()],
                    sentence: sentence.clone(),
                    otherwise: Vec::new(),
                });
            }
            commands.push(command);
        }
        sentences.push(sentence);
    }
    if commands.len() < 2 {
        otherwise.clear();
    }
    (!commands.is_empty()).then(|| Step {
        commands,
        sentence: sentences.join(", and "),
        otherwise,
    })
}

/// What is gone of a chain, from the last to the first, so that each finds the one before it in its place.
fn lost<'a>(place: &'a Place, before: &'a Rules, now: &Rules) -> Vec<&'a Rule> {
    let lost: Vec<&Rule> = before
        .rules_of(place)
        .rev()
        .filter(|rule| !now.has(rule))
        .collect();
    // A rule that dropped may have been taken back for good; where those that let pass are gone as
    // well, the chain was emptied.
    if lost.iter().all(|rule| drops(&rule.expressions)) {
        return Vec::new();
    }
    lost
}

fn remove_table((family, name): &(String, String)) -> Step {
    Step {
        commands: vec![json!({"delete": {"table": {"family": family, "name": name}}})],
        sentence: format!("the nftables table {family} {name}, which had come since, is gone"),
        otherwise: Vec::new(),
    }
}

fn open(chain: &Chain) -> Option<Step> {
    let mut asked = chain.listed.clone();
    let fields = asked.as_object_mut()?;
    fields.remove("handle");
    fields.insert("policy".to_owned(), "accept".into());
    Some(Step {
        commands: vec![json!({"add": {"chain": asked}})],
        sentence: format!(
            "the policy of {} is accept again, not drop",
            chain.place.words()
        ),
        otherwise: Vec::new(),
    })
}

fn remove_rule(rule: &Rule) -> Step {
    let Place(family, table, chain) = &rule.place;
    Step {
        commands: vec![json!({"delete": {"rule": {
            "family": family, "table": table, "chain": chain, "handle": rule.handle,
        }}})],
        sentence: format!(
            "a rule of {} that drops packets, which had come since, is gone",
            rule.place.words()
        ),
        otherwise: Vec::new(),
    }
}

/// After the nearest rule before it that is still there; without one, at the beginning.
fn put_rule(rule: &Rule, before: &Rules, now: &Rules) -> Value {
    let Place(family, table, chain) = &rule.place;
    let mut asked = json!({
        "family": family, "table": table, "chain": chain, "expr": rule.expressions,
    });
    let neighbour = before
        .rules_of(&rule.place)
        .rev()
        .skip_while(|other| other.handle != rule.handle)
        .skip(1)
        .find_map(|other| {
            let same = |found: &&Rule| {
                without_counts(&found.expressions) == without_counts(&other.expressions)
            };
            now.rules_of(&rule.place).find(same)
        });
    match neighbour {
        Some(neighbour) => {
            asked["handle"] = neighbour.handle.into();
            json!({"add": {"rule": asked}})
        }
        None => json!({"insert": {"rule": asked}}),
    }
}
