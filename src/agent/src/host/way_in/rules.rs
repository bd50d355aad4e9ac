//! The nftables rules of others that decide what the host itself gets and sends: what has come since
//! and drops, and what is gone and let pass. Pure. libnftables-json(5)

mod comparison;
mod plan;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::plan::plan;
use crate::filter;

/// Where a packet to or from the host itself comes by; what it forwards is no way in.
const HOOKS: &[&str] = &[
    "ingress",
    "prerouting",
    "input",
    "output",
    "postrouting",
    "egress",
];

/// Targets of iptables that let nothing pass, which nft(8) shows without their meaning.
const DROPPING_TARGETS: &[&str] = &["DROP", "REJECT", "NFQUEUE", "TARPIT", "STEAL"];

/// How deep chains may be nested: the kernel takes 16. NFT_JUMP_STACK_SIZE
const DEPTH: usize = 16;

/// The rules of others.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rules {
    /// Family and name.
    tables: BTreeSet<(String, String)>,
    chains: Vec<Chain>,
    /// In order.
    listed: Vec<Rule>,
}

/// Family, table and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place(String, String, String);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Chain {
    place: Place,
    hook: Option<String>,
    policy: Option<String>,
    /// As nft lists it.
    listed: Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Rule {
    place: Place,
    handle: u64,
    expressions: Value,
}

/// What the operator comes by; whoever comes by nothing of that may be anybody.
#[derive(Debug, Default)]
pub struct Way<'a> {
    /// The interfaces that lead to the operator and to the world.
    pub interfaces: Vec<&'a str>,
    /// The addresses of the host, of the operator and of the routers between them; none when not all are known.
    pub addresses: Vec<IpAddr>,
}

/// One change of the rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// For nft.
    pub commands: Vec<Value>,
    /// For the operator.
    pub sentence: String,
    /// What to do instead when nft refuses that, each for itself.
    pub otherwise: Vec<Step>,
}

impl Place {
    fn of(object: &Value, name: &str) -> Option<Self> {
        let text = |key: &str| object.get(key)?.as_str().map(str::to_owned);
        let place = Self(text("family")?, text("table")?, text(name)?);
        let ours = filter::FAMILIES.contains(&place.0.as_str()) && place.1 == filter::TABLE;
        (!ours).then_some(place)
    }

    fn table(&self) -> (String, String) {
        (self.0.clone(), self.1.clone())
    }

    fn words(&self) -> String {
        format!("the chain {} (table {} {})", self.2, self.0, self.1)
    }
}

impl Rules {
    /// Out of what `nft -j list ruleset` prints.
    pub fn read(ruleset: &Value) -> Self {
        let objects = || {
            ruleset
                .get("nftables")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        };
        let chains: Vec<Chain> = objects()
            .filter_map(|object| {
                let listed = object.get("chain")?;
                let text = |key: &str| listed.get(key)?.as_str().map(str::to_owned);
                Some(Chain {
                    place: Place::of(listed, "name")?,
                    hook: text("hook"),
                    policy: text("policy"),
                    listed: listed.clone(),
                })
            })
            .collect();
        Self {
            tables: chains.iter().map(|chain| chain.place.table()).collect(),
            listed: objects()
                .filter_map(|object| {
                    let rule = object.get("rule")?;
                    Some(Rule {
                        place: Place::of(rule, "chain")?,
                        handle: rule.get("handle")?.as_u64()?,
                        expressions: rule.get("expr")?.clone(),
                    })
                })
                .collect(),
            chains,
        }
    }

    /// Without the rules that no packet to or from the host can come by.
    pub fn on_the_way(mut self) -> Self {
        let reached = self.reached();
        self.listed.retain(|rule| reached.contains(&rule.place));
        self
    }

    fn chain(&self, place: &Place) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.place == *place)
    }

    fn rules_of<'a>(&'a self, place: &'a Place) -> impl DoubleEndedIterator<Item = &'a Rule> {
        self.listed.iter().filter(move |rule| rule.place == *place)
    }

    /// The chains that a packet to or from the host can come by.
    fn reached(&self) -> BTreeSet<Place> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<Place> = self
            .chains
            .iter()
            .filter(|chain| chain.matters())
            .map(|chain| chain.place.clone())
            .collect();
        while let Some(place) = next.pop() {
            if reached.insert(place.clone()) {
                next.extend(self.rules_of(&place).flat_map(Rule::targets));
            }
        }
        reached
    }

    /// Whether a rule drops what comes this way: itself or where it leads to.
    fn closes(&self, rule: &Rule, way: &Way) -> bool {
        self.leads_to(rule, way, drops, DEPTH)
    }

    /// Whether a rule lets something of that pass.
    fn admits(&self, rule: &Rule, way: &Way) -> bool {
        self.leads_to(rule, way, accepts, DEPTH)
    }

    /// Whether the first of these rules of a chain ends it before one that lets something of that pass. What ends a
    /// chain with a hook is under its policy. nft(8), return, goto
    fn leads_past(&self, place: &Place, rules: &[&Rule], way: &Way) -> bool {
        let Some((first, behind)) = rules.split_first() else {
            return false;
        };
        let is_open = |chain: &Chain| chain.hook.is_some() && !chain.drops();
        ends(&first.expressions)
            && !is_of_another_way(&first.expressions, way)
            && !self.chain(place).is_some_and(is_open)
            && !self.admits(first, way)
            && behind.iter().any(|rule| self.admits(rule, way))
    }

    fn leads_to(&self, rule: &Rule, way: &Way, verdict: fn(&Value) -> bool, depth: usize) -> bool {
        if is_of_another_way(&rule.expressions, way) {
            return false;
        }
        verdict(&rule.expressions)
            || depth > 0
                && rule.targets().iter().any(|target| {
                    self.rules_of(target)
                        .any(|rule| self.leads_to(rule, way, verdict, depth - 1))
                })
    }
}

impl Chain {
    fn drops(&self) -> bool {
        self.policy.as_deref() == Some("drop")
    }

    fn matters(&self) -> bool {
        self.hook
            .as_deref()
            .is_some_and(|hook| HOOKS.contains(&hook))
    }
}

impl Rule {
    /// The chains that it may go on in.
    fn targets(&self) -> Vec<Place> {
        let mut names = Vec::new();
        find(&self.expressions, &mut |key, value| {
            if matches!(key, "jump" | "goto")
                && let Some(name) = value.get("target").and_then(Value::as_str)
            {
                names.push(name.to_owned());
            }
        });
        let Place(family, table, _) = &self.place;
        names
            .into_iter()
            .map(|name| Place(family.clone(), table.clone(), name))
            .collect()
    }
}

/// Visits every named value.
fn find(value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| find(item, visit)),
        Value::Object(fields) => {
            for (key, field) in fields {
                visit(key, field);
                find(field, visit);
            }
        }
        _ => {}
    }
}

fn drops(expressions: &Value) -> bool {
    let mut found = false;
    find(expressions, &mut |key, value| {
        found |= match key {
            // What is led to another port doesn't come in either. Not dnat, by which Docker publishes its guests' ports.
            "drop" | "reject" | "queue" | "redirect" | "tproxy" => true,
            // The verdicts stand elsewhere.
            "vmap" => value.get("data").is_some_and(Value::is_string),
            "xt" => value
                .get("name")
                .and_then(Value::as_str)
                .is_some_and(|name| DROPPING_TARGETS.contains(&name)),
            _ => false,
        };
    });
    found
}

fn accepts(expressions: &Value) -> bool {
    let mut found = false;
    find(expressions, &mut |key, value| {
        // What a map's verdicts are is told elsewhere.
        found |=
            key == "accept" || key == "vmap" && value.get("data").is_some_and(Value::is_string);
    });
    found
}

/// Whether nothing behind a rule is come by any more.
fn ends(expressions: &Value) -> bool {
    let mut found = false;
    find(expressions, &mut |key, _| {
        found |= matches!(key, "return" | "goto");
    });
    found
}

/// Whether a rule asks for another interface or another address than the operator's.
fn is_of_another_way(expressions: &Value, way: &Way) -> bool {
    let matches = expressions.as_array().into_iter().flatten();
    matches
        .filter_map(|expression| expression.get("match"))
        .filter(|found| found.get("op").and_then(Value::as_str) == Some("=="))
        .any(|found| {
            is_another_interface(found, &way.interfaces) == Some(true)
                || is_another_address(found, &way.addresses) == Some(true)
        })
}

/// `iifname "br0"` is nothing to whoever comes in over eth0.
fn is_another_interface(found: &Value, interfaces: &[&str]) -> Option<bool> {
    let key = found.get("left")?.get("meta")?.get("key")?.as_str()?;
    let name = found.get("right")?.as_str()?;
    // A set of names is told by its own: @wan.
    let is_one = !name.starts_with('@') && !name.contains('*');
    let is_interface = matches!(key, "iif" | "iifname" | "oif" | "oifname");
    (is_one && is_interface && !interfaces.is_empty()).then(|| !interfaces.contains(&name))
}

/// `ip daddr 172.17.0.2` is nothing to whoever speaks with 203.0.113.1.
fn is_another_address(found: &Value, addresses: &[IpAddr]) -> Option<bool> {
    let asked = found.get("left")?.get("payload")?;
    let is_destination = ["ip", "ip6"]
        .into_iter()
        .any(|protocol| *asked == json!({"protocol": protocol, "field": "daddr"}));
    let right = found.get("right")?;
    let net = match right.get("prefix") {
        Some(prefix) => {
            let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
            IpNet::new(prefix.get("addr")?.as_str()?.parse().ok()?, length).ok()?
        }
        None => IpNet::from(right.as_str()?.parse::<IpAddr>().ok()?),
    };
    // Neighbours are found by multicast, RFC 4861, and leases by broadcast.
    let is_for_all = match net.addr() {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    (is_destination && !is_for_all && !addresses.is_empty())
        .then(|| !addresses.iter().any(|address| net.contains(address)))
}

/// A rule is the same whatever it has counted.
fn without_counts(expressions: &Value) -> Value {
    match expressions {
        Value::Array(items) => items.iter().map(without_counts).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, field)| {
                let field = match key.as_str() {
                    "counter" | "used" => Value::Null,
                    _ => without_counts(field),
                };
                (key.clone(), field)
            })
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
