//! What opens the way again: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Chain, Place, Rule, Rules, Step, Way, comparison::Comparison, drops};

/// Family and name.
type Table = (String, String);

/// What has come since and cuts, what is gone and let pass.
pub fn plan(before: &Rules, now: &Rules, way: &Way) -> Vec<Step> {
    // What led to a chain may be gone, and its rules be there still.
    let (reached, reached_now) = (before.reached(), now.reached());
    // What somebody leads to another's chain goes, and that chain stays as it is.
    let is_others = |place: &Place| before.chain(place).is_some() && !reached.contains(place);
    let places = &reached | &reached_now;
    let comparisons: BTreeMap<&Place, Comparison> = places
        .iter()
        .map(|place| (place, Comparison::of(place, before, now)))
        .collect();
    // Where it leads to may have been there.
    let cutting: Vec<&Rule> = comparisons
        .iter()
        .filter(|(place, _)| !is_others(place))
        .flat_map(|(place, chain)| {
            let leaves = |at: &usize| now.leads_past(place, &chain.now[*at..], way);
            let cuts = move |at: &&usize| now.closes(chain.now[**at], way) || leaves(at);
            chain.new.iter().filter(cuts).map(|at| chain.now[*at])
        })
        .collect();
    let mut steps = going(&cutting, before, now);
    let mut returning: BTreeMap<Table, Vec<Returning>> = BTreeMap::new();
    for rule in all_returning(&comparisons, before, now, way) {
        let of_table = returning.entry(rule.rule.place.table()).or_default();
        of_table.push(rule);
    }
    steps.extend(returning.values().filter_map(|rules| put_back(rules)));
    steps
}

/// What goes: tables, policies and rules that have come since and cut.
fn going(cutting: &[&Rule], before: &Rules, now: &Rules) -> Vec<Step> {
    let closed: Vec<&Chain> = now
        .chains
        .iter()
        .filter(|chain| chain.matters() && chain.drops())
        .collect();
    let closed_tables: BTreeSet<Table> = closed.iter().map(|chain| chain.place.table()).collect();
    let mut tables = closed_tables.clone();
    tables.extend(cutting.iter().map(|rule| rule.place.table()));
    tables.retain(|table| {
        let is_new = !before.tables.contains(table);
        is_new && (closed_tables.contains(table) || only_cuts(table, cutting, now))
    });
    let mut steps: Vec<Step> = tables.iter().map(remove_table).collect();
    // A policy that lets pass now is no matter of getting in, whatever it was before.
    let was_open = |chain: &&Chain| {
        let known = before.chain(&chain.place);
        known.is_none_or(|known| !known.drops()) && !tables.contains(&chain.place.table())
    };
    steps.extend(closed.into_iter().filter(was_open).filter_map(open));
    let single = cutting
        .iter()
        .filter(|rule| !tables.contains(&rule.place.table()));
    steps.extend(single.map(|rule| remove_rule(rule)));
    steps
}

/// Whether nothing is in a table but what cuts: Docker's may have rules about its guests beside.
fn only_cuts(table: &Table, cutting: &[&Rule], now: &Rules) -> bool {
    let is_in = |rule: &Rule| rule.place.table() == *table;
    let all = now.listed.iter().filter(|rule| is_in(rule)).count();
    let is_of_the_way = |chain: &Chain| chain.hook.is_none() || chain.matters();
    let mut chains = now.chains.iter();
    all == cutting.iter().filter(|rule| is_in(rule)).count()
        && chains.all(|chain| chain.place.table() != *table || is_of_the_way(chain))
}

/// A rule that comes back to its place.
struct Returning<'a> {
    rule: &'a Rule,
    /// The chains that it needs and that are gone.
    chains: Vec<Value>,
    commands: Vec<Value>,
    sentence: String,
    /// Whether it may come without the others: it keeps nothing from passing that passes now.
    alone: bool,
}

/// What comes back to the chains that are there, and to those that are gone and that this leads to.
fn all_returning<'a>(
    comparisons: &BTreeMap<&Place, Comparison<'a>>,
    before: &Rules,
    now: &Rules,
    way: &Way,
) -> Vec<Returning<'a>> {
    let mut returning = Vec::new();
    for (place, comparison) in comparisons {
        if now.chain(place).is_some() {
            returning.extend(returning_to(place, comparison, before, now, way));
        }
    }
    let gone = gone(&returning, before, now);
    for place in &gone {
        if let Some(comparison) = comparisons.get(place) {
            returning.extend(returning_to(place, comparison, before, now, way));
        }
    }
    for rule in &mut returning {
        let mut needed = rule.rule.targets();
        needed.push(rule.rule.place.clone());
        let chains = needed.iter().filter(|place| gone.contains(place));
        let chains = chains.filter_map(|place| before.chain(place));
        rule.chains = chains.filter_map(add_chain).collect();
    }
    returning
}

/// The chains that are gone and that these rules lead to, or that one of those leads to.
fn gone(rules: &[Returning], before: &Rules, now: &Rules) -> BTreeSet<Place> {
    let mut gone = BTreeSet::new();
    let mut next: Vec<Place> = rules.iter().flat_map(|rule| rule.rule.targets()).collect();
    while let Some(place) = next.pop() {
        if now.chain(&place).is_none() && gone.insert(place.clone()) {
            next.extend(before.rules_of(&place).flat_map(Rule::targets));
        }
    }
    gone
}

/// What comes back to a chain, in its order.
fn returning_to<'a>(
    place: &Place,
    comparison: &Comparison<'a>,
    before: &Rules,
    now: &Rules,
    way: &Way,
) -> Vec<Returning<'a>> {
    let chain = now.chain(place);
    let returning = |was: usize, commands: Vec<Value>, sentence: String, alone: bool| {
        let returning = Returning {
            rule: comparison.before[was],
            chains: Vec::new(),
            commands,
            sentence,
            alone,
        };
        (was, returning)
    };
    // What leads to a chain that is gone means all of it.
    let lost = chain.map_or(&comparison.lost[..], |_| lost(comparison, before));
    let lost = lost.iter().map(|was| {
        let rule = comparison.before[*was];
        let sentence = format!("a rule that was gone from {} is back", place.words());
        // A chain that drops by its policy can't be closed further.
        let is_closed = chain.is_some_and(Chain::drops) && !drops(&rule.expressions);
        let alone = is_closed || !before.closes(rule, &Way::default());
        returning(*was, vec![put_rule(*was, comparison)], sentence, alone)
    });
    let is_upside_down = comparison.is_upside_down(before, now, way);
    let moved = comparison.moved.iter().filter(|_| is_upside_down);
    let moved = moved.map(|(was, is)| {
        let sentence = format!(
            "the rules of {} are in their former order again",
            place.words()
        );
        let commands = vec![delete_rule(comparison.now[*is]), put_rule(*was, comparison)];
        returning(*was, commands, sentence, true)
    });
    let mut all: Vec<(usize, Returning)> = lost.chain(moved).collect();
    all.sort_by_key(|(was, _)| *was);
    all.into_iter().map(|(_, returning)| returning).collect()
}

/// What is gone of a chain and comes back.
fn lost<'a>(comparison: &'a Comparison, before: &Rules) -> &'a [usize] {
    let only_drops = |was: &usize| {
        let rule = comparison.before[*was];
        before.closes(rule, &Way::default()) && !before.admits(rule, &Way::default())
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
    let step = |rules: &[&Returning], otherwise: Vec<Step>| {
        let (mut commands, mut sentences) = (Vec::new(), Vec::new());
        for chain in rules.iter().flat_map(|rule| &rule.chains) {
            if !commands.contains(chain) {
                commands.push(chain.clone());
            }
        }
        for rule in rules {
            commands.extend(rule.commands.iter().cloned());
            if !sentences.contains(&rule.sentence.as_str()) {
                sentences.push(&rule.sentence);
            }
        }
        Step {
            commands,
            sentence: sentences.join(", and "),
            otherwise,
        }
    };
    let rules: Vec<&Returning> = rules.iter().collect();
    let alone = rules.iter().filter(|rule| rule.alone && rules.len() > 1);
    let otherwise = alone.map(|rule| step(&[rule], Vec::new())).collect();
    (!rules.is_empty()).then(|| step(&rules, otherwise))
}

fn remove_table((family, name): &Table) -> Step {
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

fn add_chain(chain: &Chain) -> Option<Value> {
    let mut asked = chain.listed.clone();
    asked.as_object_mut()?.remove("handle");
    Some(json!({"add": {"chain": asked}}))
}

fn remove_rule(rule: &Rule) -> Step {
    Step {
        commands: vec![delete_rule(rule)],
        sentence: format!(
            "a rule of {} that keeps packets out, which had come since, is gone",
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
