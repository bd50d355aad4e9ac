//! What opens the way again: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Chain, Place, Rule, Rules, Step, comparison::Comparison, drops};

/// What has come since and cuts, what is gone and let pass.
pub fn plan(before: &Rules, now: &Rules, interfaces: &[&str]) -> Vec<Step> {
    let mut steps = Vec::new();
    let listed = before.listed.iter().chain(&now.listed);
    let places: BTreeSet<&Place> = listed.map(|rule| &rule.place).collect();
    let comparisons: BTreeMap<&Place, Comparison> = places
        .into_iter()
        .map(|place| (place, Comparison::of(place, before, now)))
        .collect();
    // Where it leads to may have been there.
    let cutting: Vec<&Rule> = comparisons
        .values()
        .flat_map(|chain| chain.new.iter().map(|place| chain.now[*place]))
        .filter(|rule| now.closes(rule, interfaces))
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
    let mut returning: BTreeMap<(String, String), Vec<Returning>> = BTreeMap::new();
    for (place, comparison) in &comparisons {
        if let Some(chain) = now.chain(place) {
            let rules = returning_to(chain, comparison, before, now, interfaces);
            returning.entry(place.table()).or_default().extend(rules);
        }
    }
    steps.extend(returning.values().filter_map(|rules| put_back(rules)));
    steps
}

/// A rule that comes back to its place.
struct Returning {
    commands: Vec<Value>,
    sentence: String,
    /// Whether it may come without the others: it keeps nothing from passing that passes now.
    alone: bool,
}

/// What comes back to a chain, in its order.
fn returning_to(
    chain: &Chain,
    comparison: &Comparison,
    before: &Rules,
    now: &Rules,
    interfaces: &[&str],
) -> Vec<Returning> {
    let words = chain.place.words();
    let lost = lost(comparison, before).iter().map(|was| {
        let rule = comparison.before[*was];
        // A chain that drops by its policy can't be closed further.
        let is_closed = chain.drops() && !drops(&rule.expressions);
        let returning = Returning {
            commands: vec![put_rule(*was, comparison)],
            sentence: format!("a rule that was gone from {words} is back"),
            alone: is_closed || !before.closes(rule, &[]),
        };
        (*was, returning)
    });
    let is_upside_down = comparison.is_upside_down(before, now, interfaces);
    let moved = comparison.moved.iter().filter(|_| is_upside_down);
    let moved = moved.map(|(was, is)| {
        let returning = Returning {
            commands: vec![delete_rule(comparison.now[*is]), put_rule(*was, comparison)],
            sentence: format!("the rules of {words} are in their former order again"),
            alone: true,
        };
        (*was, returning)
    });
    let mut returning: Vec<(usize, Returning)> = lost.chain(moved).collect();
    returning.sort_by_key(|(was, _)| *was);
    returning
        .into_iter()
        .map(|(_, returning)| returning)
        .collect()
}

/// What is gone of a chain and comes back.
fn lost<'a>(comparison: &'a Comparison, before: &Rules) -> &'a [usize] {
    let only_drops = |was: &usize| {
        let rule = comparison.before[*was];
        before.closes(rule, &[]) && !before.admits(rule, &[])
    };
    // A rule that dropped may have been taken back for good; where those that let pass are gone as
    // well, the chain was emptied.
    if comparison.lost.iter().all(only_drops) {
        return &[];
    }
    &comparison.lost
}

/// Puts all back that is gone of a table, as one: rules that drop must not be there without those that let pass, which
/// may stand in other chains.
fn put_back(rules: &[Returning]) -> Option<Step> {
    let step = |commands: Vec<Value>, sentence: String, otherwise: Vec<Step>| Step {
        commands,
        sentence,
        otherwise,
    };
    let commands: Vec<Value> = rules
        .iter()
        .flat_map(|rule| rule.commands.clone())
        .collect();
    let mut sentences: Vec<&str> = Vec::new();
    for rule in rules {
        if !sentences.contains(&rule.sentence.as_str()) {
            sentences.push(&rule.sentence);
        }
    }
    let alone = rules.iter().filter(|rule| rule.alone && rules.len() > 1);
    let alone = alone.map(|rule| step(rule.commands.clone(), rule.sentence.clone(), Vec::new()));
    (!rules.is_empty()).then(|| step(commands, sentences.join(", and "), alone.collect()))
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
    Step {
        commands: vec![delete_rule(rule)],
        sentence: format!(
            "a rule of {} that drops packets, which had come since, is gone",
            rule.place.words()
        ),
        otherwise: Vec::new(),
    }
}

fn delete_rule(rule: &Rule) -> Value {
    let Place(family, table, chain) = &rule.place;
    json!({"delete": {"rule": {
        "family": family, "table": table, "chain": chain, "handle": rule.handle,
    }}})
}

/// Before the nearest rule behind it that is still in its place; without one, at the end. Only `insert` can be told a
/// place: nft 1.0.6 reads no handle in an `add`, json_parse_cmd_add_rule().
fn put_rule(was: usize, comparison: &Comparison) -> Value {
    let rule = comparison.before[was];
    let Place(family, table, chain) = &rule.place;
    let mut asked = json!({
        "family": family, "table": table, "chain": chain, "expr": rule.expressions,
    });
    match comparison.kept.iter().find(|(other, _)| *other > was) {
        Some((_, is)) => {
            asked["handle"] = comparison.now[*is].handle.into();
            json!({"insert": {"rule": asked}})
        }
        None => json!({"add": {"rule": asked}}),
    }
}
