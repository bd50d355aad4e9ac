//! The kill sweep: at every step of each operation the agent, the provider or the whole server is ended.
//! Afterwards a plain `terraform apply` converges, and leaves nothing over.
//!
//! The steps are those that an undisturbed run comes by: what is added to the agent or the provider is swept,
//! too, without being named here.

#[path = "survives_kills/orders.rs"]
mod orders;
#[path = "survives_kills/pairs.rs"]
mod pairs;
#[path = "survives_kills/share.rs"]
mod share;

use std::collections::VecDeque;

use acceptance_tests::{
    Hosts, Lab,
    faults::Point,
    promise::{Cases, Effort, Promise},
    sweep::{Deed, Fault, Recording, Stage, Strike, Sweep},
};
use anyhow::{Result, ensure};

use self::{
    orders::{Order, case_name, nearest, orders, somewhere},
    pairs::{Pair, Parts},
    share::Share,
};

/// How often each point of the resident service is tried: what it does at once comes by in another order each time.
const TRIES: usize = 3;
/// How many points of a hundred may not be reached again: of 415, four weren't.
const UNREACHED: usize = 5;

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
        let mut recordings = record(&self.sweep, pair)?;
        for recording in &recordings {
            self.points += recording.agent.len() + recording.provider.len();
        }
        let mut queues = [0, 1].map(|way| {
            let mut orders = orders(self.effort, pair, (number, way), &recordings[way]);
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
                if !self.try_order(pair, way, &order, &recordings) {
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

    /// Whether this run is to try any case of a pair: not when it is to try those of another one.
    fn concerns(&self, pair: &Pair, pairs: &[Pair]) -> bool {
        let names = |pair: &Pair| {
            let ways = ["there", "back"];
            ways.iter()
                .any(|way| self.only.starts_with(&format!("{} {way}: ", pair.name)))
        };
        names(pair) || !pairs.iter().any(names)
    }

    /// Whether this run is to try a case.
    fn wants(&mut self, name: &str) -> bool {
        self.counted += 1;
        name.contains(&self.only) && self.share.is_none_or(|share| share.has(name))
    }

    /// Carries one order out; whether that held.
    fn try_order(
        &mut self,
        pair: &Pair,
        way: usize,
        order: &Order,
        recordings: &[Recording; 2],
    ) -> bool {
        let (name, recording) = (case_name(pair, way, order), &recordings[way]);
        let (fault, point) = order;
        let points = match (self.effort, fault) {
            // All the others have cases of their own.
            (Effort::Long, _) => vec![point.clone()],
            (Effort::Quick, Fault::Provider | Fault::PowerAtProvider) => {
                nearest(&recording.provider, point, 2)
            }
            (Effort::Quick, _) => nearest(&recording.agent, point, 2),
        };
        let sweep = &self.sweep;
        let is_regretted = self.is_regretted(way);
        let mut reached = None;
        let held = self.cases.case(&name, || {
            reached = strike(
                sweep,
                pair,
                way,
                (*fault, &points),
                recordings,
                is_regretted,
            )?;
            Ok(())
        });
        self.tell_where(point, reached.as_ref(), held, |point| {
            case_name(pair, way, &(*fault, point.clone()))
        });
        held
    }

    /// Whether what was before is applied first after this one. What a create has made when the provider is killed
    /// stands in no state, so that only the same configuration takes it up.
    fn is_regretted(&self, way: usize) -> bool {
        way == 1 && (self.effort == Effort::Quick || (self.cases.tried() / 2).is_multiple_of(2))
    }

    /// Removes everything, and sums up.
    fn finish(mut self, last: &str) -> Result<()> {
        let sweep = &self.sweep;
        let name = format!("{last}: destroy afterwards leaves nothing");
        self.cases.case(name, || sweep.destroy());
        eprintln!(
            "{} points, {} cases of which {} were tried; {} didn't come to theirs",
            self.points,
            self.counted,
            self.cases.tried(),
            self.unreached
        );
        let allowed = (self.cases.tried() * UNREACHED / 100).max(2);
        ensure!(
            self.unreached <= allowed,
            "too many points are not reached again: {} beside {} cases",
            self.unreached,
            self.cases.tried()
        );
        self.cases.finish()
    }

    /// Has the resident service do each of these at a stage, and kills it meanwhile.
    fn try_deeds(&mut self, (stage, deeds): &(Stage, [Deed; 3])) -> Result<()> {
        let mut host = self.sweep.record(stage)?.host;
        for (number, deed) in deeds.iter().enumerate() {
            let all = self.sweep.record_deed(deed, stage, &host)?;
            self.points += all.len();
            let mut points = all.clone();
            if self.effort == Effort::Quick {
                let some = points.get(somewhere(number + 1, points.len()));
                points = some.cloned().into_iter().collect();
            }
            let name_of = |point: &Point| format!("{deed}: kill {point}");
            points.retain(|point| self.wants(&name_of(point)));
            for point in points {
                let stand_ins = match self.effort {
                    Effort::Long => vec![point.clone()],
                    Effort::Quick => nearest(&all, &point, 2),
                };
                let (sweep, name) = (&self.sweep, name_of(&point));
                let mut reached = None;
                let held = self.cases.case(&name, || {
                    for point in stand_ins.iter().cycle().take(stand_ins.len() * TRIES) {
                        if sweep.strike_deed(deed, point, stage, &host)? {
                            reached = Some(point.clone());
                            break;
                        }
                    }
                    Ok(())
                });
                self.tell_where(&point, reached.as_ref(), held, name_of);
                if !held {
                    self.sweep = boot()?;
                    host = self.sweep.record(stage)?.host;
                }
            }
        }
        Ok(())
    }

    /// Says where it was that something was struck.
    fn tell_where(
        &mut self,
        wanted: &Point,
        reached: Option<&Point>,
        held: bool,
        name_of: impl Fn(&Point) -> String,
    ) {
        match reached {
            Some(reached) if reached != wanted => {
                self.cases.tried_instead(name_of(wanted), name_of(reached));
            }
            None if held => {
                eprintln!("         but the point was not reached again");
                self.cases.untried(name_of(wanted));
                self.unreached += 1;
            }
            _ => {}
        }
    }
}

fn boot() -> Result<Sweep> {
    let lab = Lab::start(Hosts::one().own_disks())?;
    pairs::serve(&lab)?;
    Sweep::new(lab)
}

/// Goes there and back, undisturbed, and ends at the first stage.
fn record(sweep: &Sweep, pair: &Pair) -> Result<[Recording; 2]> {
    sweep.apply(&pair.stages[0])?;
    let there = sweep.record(&pair.stages[1])?;
    Ok([there, sweep.record(&pair.stages[0])?])
}

/// Goes one way, disturbed at the first of these points that is reached, and tells which. None when none was in some
/// tries of each, of which the last takes one resource after the other.
fn strike(
    sweep: &Sweep,
    pair: &Pair,
    way: usize,
    (fault, points): (Fault, &[Point]),
    recordings: &[Recording; 2],
    is_regretted: bool,
) -> Result<Option<Point>> {
    let tries: VecDeque<bool> = match points.len() {
        1 => [false, false, false, true].into(),
        _ => [false, false, true].into(),
    };
    let (from, to) = (&pair.stages[way], &pair.stages[1 - way]);
    for (place, point) in points.iter().enumerate() {
        for (attempt, in_turn) in tries.iter().copied().enumerate() {
            if (place, attempt) != (0, 0) {
                sweep.apply(from)?;
            }
            let strike = Strike {
                fault,
                point,
                in_turn,
                regretted: is_regretted.then_some((from, &recordings[1 - way].host)),
            };
            if sweep.strike(&strike, to, &recordings[way].host)? {
                return Ok(Some(point.clone()));
            }
        }
    }
    Ok(None)
}

/// Sweeps pairs in one lab, one after the other; `number` is that of the first among all.
fn sweep(number: usize, pairs: fn(&Parts) -> Vec<Pair>) -> Result<()> {
    let mut run = Run::start()?;
    let pairs = pairs(&Parts::of(run.sweep.lab())?);
    for (place, pair) in pairs.iter().enumerate() {
        if run.concerns(pair, &pairs) {
            run.try_pair(number + place, pair)?;
        }
    }
    run.finish(pairs.last().map_or("", |pair| pair.name))
}

#[test]
fn changes_of_a_host() -> Result<()> {
    sweep(0, pairs::of_hosts)
}

#[test]
fn changes_of_an_image() -> Result<()> {
    sweep(3, pairs::of_images)
}

#[test]
fn changes_of_containers_and_addresses() -> Result<()> {
    sweep(6, pairs::of_containers)
}

#[test]
fn what_the_resident_service_does_by_itself() -> Result<()> {
    let mut run = Run::start()?;
    let deeds = pairs::of_the_resident(&Parts::of(run.sweep.lab())?);
    run.try_deeds(&deeds)?;
    run.finish("the resident service")
}
