//! The kill sweep: at every step of each operation the agent, the provider or the whole server is ended.
//! Afterwards a plain `terraform apply` converges, and leaves nothing over.
//!
//! The steps are those that an undisturbed run comes by: what is added to the agent or the provider is swept,
//! too, without being named here.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small numbers, none below zero"
)]

#[path = "survives_kills/share.rs"]
mod share;

use std::collections::VecDeque;

use acceptance_tests::{
    Hosts, Lab,
    configuration::{self, address, container, image},
    faults::Point,
    images::Guest,
    promise::{Cases, Effort, Promise},
    sweep::{Fault, Recording, Stage, Sweep},
};
use anyhow::{Result, ensure};

use self::share::Share;

/// Two stages: going from the first to the second is an operation, and going back another.
struct Pair {
    name: &'static str,
    stages: [Stage; 2],
}

/// What the stages are made of.
struct Parts {
    plain: String,
    together: String,
    imaged: String,
    other_image: String,
    web: String,
    db: String,
    v4: String,
    v6: String,
    own: String,
}

impl Parts {
    fn of(lab: &Lab) -> Result<Self> {
        let host = |more: &str| configuration::host(lab.vps1(), more);
        let other = image(Guest::WithoutNetworkd)?.replace(
            "  tarball =",
            "  customize = [\"touch /customized\"]\n  tarball =",
        );
        Ok(Self {
            plain: host(""),
            together: host("  isolation = false"),
            imaged: host("") + &image(Guest::Debian)?,
            other_image: host("") + &other,
            web: container("web", ""),
            db: container("db", ""),
            v4: address("v4", "203.0.113.2", "web"),
            v6: address("v6", "2001:db8:1::2", "web"),
            own: address("own", "203.0.113.3", "db"),
        })
    }
}

fn stage(configuration: &[&str], guests: &[(&'static str, &'static str)]) -> Stage {
    Stage {
        configuration: configuration.concat(),
        guests: guests.to_vec(),
    }
}

fn of_hosts(of: &Parts) -> Vec<Pair> {
    vec![
        Pair {
            name: "host",
            stages: [stage(&[], &[]), stage(&[&of.plain], &[])],
        },
        Pair {
            name: "host's isolation",
            stages: [stage(&[&of.plain], &[]), stage(&[&of.together], &[])],
        },
    ]
}

fn of_images(of: &Parts) -> Vec<Pair> {
    vec![
        Pair {
            name: "image",
            stages: [stage(&[&of.plain], &[]), stage(&[&of.imaged], &[])],
        },
        Pair {
            name: "image's content",
            stages: [stage(&[&of.imaged], &[]), stage(&[&of.other_image], &[])],
        },
    ]
}

fn of_containers(of: &Parts) -> Vec<Pair> {
    let web = [("203.0.113.2", "web")];
    let both = [("203.0.113.2", "web"), ("2001:db8:1::2", "web")];
    let copy = container("web", "  storage = \"copy\"\n  ephemeral = true");
    vec![
        Pair {
            name: "container and addresses",
            stages: [
                stage(&[&of.imaged], &[]),
                stage(&[&of.imaged, &of.web, &of.v4, &of.v6], &both),
            ],
        },
        Pair {
            name: "container's kind of root",
            stages: [
                stage(&[&of.imaged, &of.web, &of.v4], &web),
                stage(&[&of.imaged, &copy, &of.v4], &web),
            ],
        },
        settings_and_address(of),
    ]
}

fn settings_and_address(of: &Parts) -> Pair {
    let changed = container(
        "web",
        "  hostname = \"www\"\n  memory = \"256M\"\n  dns_servers = [\"192.0.2.53\"]\n  \
         root_password_wo = \"secret\"\n  root_password_wo_version = 1",
    );
    let moved = address("v4", "203.0.113.2", "db");
    Pair {
        name: "container's settings and address",
        stages: [
            stage(
                &[&of.imaged, &of.web, &of.db, &of.v4, &of.own],
                &[("203.0.113.2", "web"), ("203.0.113.3", "db")],
            ),
            stage(
                &[&of.imaged, &changed, &of.db, &moved, &of.own],
                &[("203.0.113.2", "db"), ("203.0.113.3", "db")],
            ),
        ],
    }
}

/// What is ended, and where.
type Order = (Fault, Point);

/// So many cases, spread over all; another part of them for each shift, which is below 1.
fn spread<T: Clone>(effort: Effort, all: &[T], quick: usize, shift: f64) -> Vec<T> {
    if effort == Effort::Long || all.len() <= quick {
        return all.to_vec();
    }
    let place =
        |number: usize| ((number as f64 + shift) * all.len() as f64 / quick as f64) as usize;
    (0..quick)
        .map(|number| all[place(number)].clone())
        .collect()
}

/// What is struck in one operation. A quick run takes the provider and the power in turn.
fn orders(effort: Effort, recording: &Recording, shift: f64, turn: usize) -> VecDeque<Order> {
    let mut orders = VecDeque::new();
    let mut add = |faults: &[Fault], points: &[Point], quick| {
        let chosen = spread(effort, points, quick, shift);
        orders.extend(faults.iter().copied().cycle().zip(chosen));
    };
    let mut power = [Fault::Power, Fault::PowerEverywhere];
    power.rotate_left(turn / 2 % 2);
    add(&[Fault::Agent], &recording.agent, 1);
    add(&[Fault::Provider], &recording.provider, turn % 2);
    add(&power, &recording.agent, 1 - turn % 2);
    orders
}

/// The cases so far, and the lab that the next one is tried in.
struct Run {
    cases: Cases,
    sweep: Sweep,
    points: usize,
    unreached: usize,
    /// `NSPAWN_SWEEP`: words of the cases to try, of which all are tried then.
    only: String,
    /// `NSPAWN_SWEEP_SHARE`
    share: Option<Share>,
    effort: Effort,
    /// How many orders there were before the share was taken.
    counted: usize,
}

impl Run {
    fn start() -> Result<Self> {
        let only = std::env::var("NSPAWN_SWEEP").unwrap_or_default();
        let share = std::env::var("NSPAWN_SWEEP_SHARE")
            .ok()
            .map(|text| Share::parse(&text))
            .transpose()?;
        let effort = if only.is_empty() && share.is_none() {
            Effort::of_this_run()
        } else {
            Effort::Long
        };
        Ok(Self {
            cases: Cases::of(Promise::SurvivesKills)?,
            sweep: boot()?,
            points: 0,
            unreached: 0,
            only,
            share,
            effort,
            counted: 0,
        })
    }

    /// Goes there and back until each order was carried out.
    fn try_pair(&mut self, number: usize, pair: &Pair) -> Result<()> {
        // Other places in each operation, so that a quick run comes to all kinds of them.
        let shift = |way: usize| ((number * 2 + way) * 5 % 14) as f64 / 14.0;
        let mut recordings = record(&self.sweep, pair)?;
        for recording in &recordings {
            self.points += recording.agent.len() + recording.provider.len();
        }
        let mut queues = [0, 1].map(|way| {
            let mut orders = orders(self.effort, &recordings[way], shift(way), number + way);
            orders.retain(|order| self.wants(&case_name(pair, way, order)));
            orders
        });
        while queues.iter().any(|queue| !queue.is_empty()) {
            for way in [0, 1] {
                let to = &pair.stages[1 - way];
                let Some(order) = queues[way].pop_front() else {
                    self.sweep.apply(to)?;
                    self.sweep.check(&recordings[way].host)?;
                    continue;
                };
                if !self.try_order(pair, way, &order, &recordings[way]) {
                    self.sweep = boot()?;
                    recordings = record(&self.sweep, pair)?;
                    if way == 0 {
                        self.sweep.apply(to)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether this run is to try a case.
    fn wants(&mut self, name: &str) -> bool {
        self.counted += 1;
        name.contains(&self.only) && self.share.is_none_or(|share| share.has(name))
    }

    /// Carries one order out; whether that held.
    fn try_order(&mut self, pair: &Pair, way: usize, order: &Order, recording: &Recording) -> bool {
        let name = case_name(pair, way, order);
        let sweep = &self.sweep;
        let mut reached = false;
        let (fault, point) = order;
        let points = match (self.effort, fault) {
            // All the others have cases of their own.
            (Effort::Long, _) => vec![point.clone()],
            (Effort::Quick, Fault::Provider) => nearest(&recording.provider, point, 2),
            (Effort::Quick, _) => nearest(&recording.agent, point, 2),
        };
        let held = self.cases.case(&name, || {
            reached = strike(sweep, pair, way, (*fault, &points), recording)?;
            Ok(())
        });
        if held && !reached {
            eprintln!("         but the point was not reached again");
            self.cases.untried(&name);
            self.unreached += 1;
        }
        held
    }
}

fn case_name(pair: &Pair, way: usize, (fault, point): &Order) -> String {
    let way = ["there", "back"][way];
    format!("{} {way}: {fault} {point}", pair.name)
}

fn boot() -> Result<Sweep> {
    Sweep::new(Lab::start(Hosts::one().own_disks())?)
}

/// Goes there and back, undisturbed, and ends at the first stage.
fn record(sweep: &Sweep, pair: &Pair) -> Result<[Recording; 2]> {
    sweep.apply(&pair.stages[0])?;
    let there = sweep.record(&pair.stages[1])?;
    Ok([there, sweep.record(&pair.stages[0])?])
}

/// A point, and so many before and behind it: a quick run strikes there when that one isn't reached again.
fn nearest<T: Clone + PartialEq>(all: &[T], point: &T, reach: usize) -> Vec<T> {
    let Some(place) = all.iter().position(|found| found == point) else {
        return vec![point.clone()];
    };
    let around = (1..=reach).flat_map(|far| [place.checked_add(far), place.checked_sub(far)]);
    std::iter::once(Some(place))
        .chain(around)
        .filter_map(|place| all.get(place?).cloned())
        .collect()
}

/// Goes one way, disturbed at the first of these points that is reached. False when none was in a few tries of each.
fn strike(
    sweep: &Sweep,
    pair: &Pair,
    way: usize,
    (fault, points): (Fault, &[Point]),
    recording: &Recording,
) -> Result<bool> {
    const TRIES: usize = 3;
    let (from, to) = (&pair.stages[way], &pair.stages[1 - way]);
    for (attempt, point) in points.iter().flat_map(|point| [point; TRIES]).enumerate() {
        if attempt > 0 {
            sweep.apply(from)?;
        }
        if attempt == TRIES {
            eprintln!("         the point is not reached again: its neighbours are tried");
        }
        if sweep.strike(fault, point, to, &recording.host)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sweeps pairs in one lab, one after the other; `number` is that of the first among all.
fn sweep(number: usize, pairs: fn(&Parts) -> Vec<Pair>) -> Result<()> {
    let mut run = Run::start()?;
    let pairs = pairs(&Parts::of(run.sweep.lab())?);
    for (place, pair) in pairs.iter().enumerate() {
        run.try_pair(number + place, pair)?;
    }
    let sweep = &run.sweep;
    let last = pairs.last().map_or("", |pair| pair.name);
    run.cases
        .case(format!("{last}: destroy afterwards leaves nothing"), || {
            sweep.destroy()
        });
    eprintln!(
        "{} points, {} cases of which {} were tried; {} didn't come to theirs",
        run.points,
        run.counted,
        run.cases.tried(),
        run.unreached
    );
    ensure!(
        run.unreached * 4 <= run.cases.tried(),
        "too many points are not reached again: {} beside {} cases",
        run.unreached,
        run.cases.tried()
    );
    run.cases.finish()
}

#[test]
fn changes_of_a_host() -> Result<()> {
    sweep(0, of_hosts)
}

#[test]
fn changes_of_an_image() -> Result<()> {
    sweep(2, of_images)
}

#[test]
fn changes_of_containers_and_addresses() -> Result<()> {
    sweep(4, of_containers)
}

#[test]
fn neighbours_stand_in_for_a_point() {
    let all = ["a", "b", "c", "d", "e"];
    assert_eq!(nearest(&all, &"c", 2), ["c", "d", "b", "e", "a"]);
    assert_eq!(nearest(&all, &"a", 2), ["a", "b", "c"]);
    assert_eq!(nearest(&all, &"x", 2), ["x"]);
}
