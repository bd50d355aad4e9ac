//! Where a line is broken: places derived from what an undisturbed run has carried.

use std::{collections::BTreeSet, fmt};

use crate::proxy::{Fault, Line, Traffic, Way};

/// An upward turn of at least so many bytes is a part of an upload: a script or a request is shorter.
const BULK: u64 = 4096;

/// What a connection does at some byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// TCP and SSH, until both sides have keys.
    Handshake,
    /// From the login to the first request.
    Login,
    /// The program on its way to the host.
    Upload,
    /// Requests and answers.
    Requests,
}

/// A place where a line can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which connection, counted from 1.
    pub connection: usize,
    /// Which direction.
    pub way: Way,
    /// After how many bytes.
    pub at: u64,
    /// Of how many that an undisturbed run has carried.
    pub of: u64,
    /// What the connection does then.
    pub phase: Phase,
}

/// A line that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Where.
    pub place: Place,
    /// What happens.
    pub fault: Fault,
    /// Whether every later connection breaks at the same byte, too, until the line is healed.
    pub lasting: bool,
}

impl Cut {
    /// The line that breaks there.
    pub fn line(&self) -> Line {
        let broken = Some((self.place.at, self.fault));
        Line {
            upwards: broken.filter(|_| self.place.way == Way::Up),
            downwards: broken.filter(|_| self.place.way == Way::Down),
            only: (!self.lasting).then_some(self.place.connection),
            ..Line::default()
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            fault,
            lasting,
        } = self;
        let Place {
            connection,
            way,
            at,
            of,
            phase,
        } = place;
        let (way, how) = (
            if *way == Way::Up { "up" } else { "down" },
            if *lasting { "again and again" } else { "once" },
        );
        write!(
            formatter,
            "connection {connection}, {phase:?}, {way}, byte {at} of {of}: {fault:?} {how}"
        )
    }
}

/// All places worth trying of a run's connections.
pub fn sweep(connections: &[Traffic]) -> Vec<Place> {
    let mut all = Vec::new();
    for (index, traffic) in connections.iter().enumerate() {
        for way in [Way::Up, Way::Down] {
            for at in places(traffic, way) {
                all.push(Place {
                    connection: index + 1,
                    way,
                    at,
                    of: traffic.bytes(way),
                    phase: phase(traffic, way, at),
                });
            }
        }
    }
    all
}

/// One place of each phase, connection and direction, in the middle of those; of the requests also one further on,
/// where a connection has its confirmation, and what comes before that may be the login.
pub fn one_of_each(places: &[Place]) -> Vec<Place> {
    let kind = |place: &Place| (place.connection, place.way, place.phase);
    let groups = places.chunk_by(|one, next| kind(one) == kind(next));
    groups
        .flat_map(|group| {
            let late = (group[0].phase == Phase::Requests).then(|| group[group.len() * 3 / 4]);
            std::iter::once(group[group.len() / 2]).chain(late)
        })
        .collect()
}

impl Place {
    /// Breaks the line here, in the one of the ways that has its turn.
    pub fn cut(self, turn: usize) -> Cut {
        Cut {
            place: self,
            fault: match turn % 7 {
                0 | 3 => Fault::Reset,
                1 | 4 => Fault::Stall,
                2 | 5 => Fault::Close,
                // So slow that the rest takes some seconds.
                _ => Fault::Trickle(trickle(self.of)),
            },
            lasting: turn % 2 == 1,
        }
    }
}

/// How many bytes at once let a whole connection take about four seconds.
fn trickle(bytes: u64) -> usize {
    usize::try_from(bytes / 4000).unwrap_or(usize::MAX).max(1)
}

/// The bytes on both sides of each border, and some between the borders.
fn places(traffic: &Traffic, way: Way) -> BTreeSet<u64> {
    let total = traffic.bytes(way);
    // Within an upload, windows are adjusted all the time: those are no borders.
    let bulk = bulk(traffic);
    let inside =
        |turn: (u64, u64)| bulk.is_some_and(|(start, end)| turn.0 > start.0 && turn.0 < end.0);
    let outside = traffic.turns.iter().filter(|turn| !inside(**turn));
    let mut borders: BTreeSet<u64> = outside.map(|turn| side(*turn, way)).collect();
    borders.extend(traffic.handshake(way));
    let mut between = BTreeSet::new();
    for (start, end) in [0].iter().chain(&borders).zip(&borders) {
        let pieces = if end - start >= BULK { 24 } else { 2 };
        between.extend((1..pieces).map(|piece| start + (end - start) * piece / pieces));
    }
    borders
        .iter()
        .flat_map(|border| [border.saturating_sub(1), *border, border + 1])
        .chain(between)
        .filter(|at| (1..total).contains(at))
        .collect()
}

fn phase(traffic: &Traffic, way: Way, at: u64) -> Phase {
    let before = |border: Option<u64>| border.is_some_and(|border| at <= border);
    if before(traffic.handshake(way)) {
        return Phase::Handshake;
    }
    let bulk = bulk(traffic);
    if before(bulk.map(|(start, _)| side(start, way))) {
        Phase::Login
    } else if before(bulk.map(|(_, end)| side(end, way))) {
        Phase::Upload
    } else {
        Phase::Requests
    }
}

/// Where the upload begins and ends.
fn bulk(traffic: &Traffic) -> Option<((u64, u64), (u64, u64))> {
    let steps = || {
        traffic
            .turns
            .windows(2)
            .filter(|pair| pair[1].0 - pair[0].0 >= BULK)
    };
    Some((steps().next()?[0], steps().next_back()?[1]))
}

fn side(turn: (u64, u64), way: Way) -> u64 {
    match way {
        Way::Up => turn.0,
        Way::Down => turn.1,
    }
}
