//! What is struck in each operation, and where.

use std::collections::VecDeque;

use acceptance_tests::{
    faults::Point,
    promise::Effort,
    sweep::{Fault, Recording},
};

use super::pairs::{DEBOOTSTRAP, Pair};

/// What is ended, and where.
pub type Order = (Fault, Point);

pub fn case_name(pair: &Pair, way: usize, (fault, point): &Order) -> String {
    let way = ["there", "back"][way];
    format!("{} {way}: {fault} {point}", pair.name)
}

/// What is struck when a pair, which has this number among all, is gone through this way. `all` or some of each kind.
pub fn orders(
    effort: Effort,
    pair: &Pair,
    (number, way): (usize, usize),
    recording: &Recording,
) -> VecDeque<Order> {
    match effort {
        Effort::Long => all(number, recording),
        Effort::Quick => some(pair, number, way, recording),
    }
}

fn all(number: usize, recording: &Recording) -> VecDeque<Order> {
    let power = [Fault::Power, Fault::PowerEverywhere];
    let kill = |fault, points: &[Point]| -> Vec<Order> {
        points.iter().map(|point| (fault, point.clone())).collect()
    };
    let mut orders = kill(Fault::Agent, &recording.agent);
    orders.extend(kill(Fault::Provider, &recording.provider));
    orders.extend(power.into_iter().cycle().zip(recording.agent.clone()));
    // Elsewhere the provider does the same once more.
    if number == 0 {
        orders.extend(kill(Fault::PowerAtProvider, &recording.provider));
    }
    orders.into()
}

/// One way the agent is killed, and the other way something else is ended; each pair at other places.
fn some(pair: &Pair, number: usize, way: usize, recording: &Recording) -> VecDeque<Order> {
    const OTHERS: [Fault; 3] = [Fault::Provider, Fault::Power, Fault::PowerEverywhere];
    let fault = match number {
        _ if way != number % 2 => Fault::Agent,
        0 => Fault::PowerAtProvider,
        _ => OTHERS[number % 3],
    };
    if fault == Fault::Agent && pair.name == DEBOOTSTRAP {
        return VecDeque::new();
    }
    let points = match fault {
        Fault::Provider | Fault::PowerAtProvider => &recording.provider,
        Fault::Agent | Fault::Power | Fault::PowerEverywhere => &recording.agent,
    };
    let point = points.get(somewhere(number * 2 + way, points.len()));
    // Once a host is removed, Terraform doesn't come back to what is left to be done.
    let last = recording.agent.last();
    let last = last.filter(|_| (number, way) == (0, 1));
    let orders = [(fault, point), (Fault::Agent, last)].into_iter();
    orders
        .filter_map(|(fault, point)| Some((fault, point?.clone())))
        .collect()
}

/// Another place below `count` for each number, far from those of the numbers before it.
pub fn somewhere(number: usize, count: usize) -> usize {
    // The golden ratio's.
    number * 618 % 1000 * count / 1000
}

/// A point, and so many before and behind it: a quick run strikes there when that one isn't reached again.
pub fn nearest<T: Clone + PartialEq>(all: &[T], point: &T, reach: usize) -> Vec<T> {
    let Some(place) = all.iter().position(|found| found == point) else {
        return vec![point.clone()];
    };
    let around = (1..=reach).flat_map(|far| [place.checked_add(far), place.checked_sub(far)]);
    std::iter::once(Some(place))
        .chain(around)
        .filter_map(|place| all.get(place?).cloned())
        .collect()
}

#[test]
fn neighbours_stand_in_for_a_point() {
    let all = ["a", "b", "c", "d", "e"];
    assert_eq!(nearest(&all, &"c", 2), ["c", "d", "b", "e", "a"]);
    assert_eq!(nearest(&all, &"a", 2), ["a", "b", "c"]);
    assert_eq!(nearest(&all, &"x", 2), ["x"]);
}

#[test]
fn places_are_spread() {
    let mut places: Vec<usize> = (0..10).map(|number| somewhere(number, 100)).collect();
    places.sort_unstable();
    let gaps: Vec<usize> = places.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (5..20).contains(gap)), "{places:?}");
    assert!(somewhere(7, 0) == 0 && (0..99).all(|number| somewhere(number, 3) < 3));
}
