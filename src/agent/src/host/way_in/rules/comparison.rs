//! What has become of a chain's rules, as a sequence: a rule may occur twice, and what drops must not come to stand
//! before what lets pass. Pure.

use std::collections::BTreeMap;

use super::{Place, Rule, Rules, Way, without_counts};

/// The place of a rule before, and that of the same one now.
type Pair = (usize, usize);

/// What has become of a chain's rules, by their places, in order.
#[derive(Debug)]
pub struct Comparison<'a> {
    /// All that were there.
    pub before: Vec<&'a Rule>,
    /// All that are there.
    pub now: Vec<&'a Rule>,
    /// Those that are in the same order, as many as can be.
    pub kept: Vec<Pair>,
    /// Those that stand elsewhere.
    pub moved: Vec<Pair>,
    /// Those that are gone.
    pub lost: Vec<usize>,
    /// Those that have come.
    pub new: Vec<usize>,
}

impl<'a> Comparison<'a> {
    /// Compares a chain's rules.
    pub fn of(place: &'a Place, before: &'a Rules, now: &'a Rules) -> Self {
        let listed = |rules: &'a Rules| -> (Vec<&'a Rule>, Vec<String>) {
            rules
                .rules_of(place)
                .map(|rule| (rule, without_counts(&rule.expressions).to_string()))
                .unzip()
        };
        let (before, texts_before) = listed(before);
        let (now, texts_now) = listed(now);
        let kept = common(&texts_before, &texts_now);
        let (mut moved, mut lost) = (Vec::new(), Vec::new());
        let mut left = places_of(&texts_now);
        for (was, is) in &kept {
            left.entry(&texts_before[*was])
                .or_default()
                .retain(|place| place != is);
        }
        for (was, text) in texts_before.iter().enumerate() {
            if kept.binary_search_by_key(&was, |(kept, _)| *kept).is_ok() {
                continue;
            }
            match left.get_mut(text.as_str()).and_then(Vec::pop) {
                Some(is) => moved.push((was, is)),
                None => lost.push(was),
            }
        }
        let mut new: Vec<usize> = left.into_values().flatten().collect();
        new.sort_unstable();
        Self {
            before,
            now,
            kept,
            moved,
            lost,
            new,
        }
    }

    /// Whether what drops has come to stand before what lets pass, and stood behind it.
    pub fn is_upside_down(&self, before: &Rules, now: &Rules, way: &Way) -> bool {
        if self.moved.is_empty() {
            return false;
        }
        let mut pairs = [&self.kept[..], &self.moved[..]].concat();
        pairs.sort_unstable_by_key(|(_, is)| *is);
        let mut dropped_by = None;
        pairs.into_iter().any(|(was, is)| {
            let is_cut = dropped_by > Some(was) && before.admits(self.before[was], way);
            if now.closes(self.now[is], way) {
                dropped_by = dropped_by.max(Some(was));
            }
            is_cut
        })
    }
}

fn places_of(texts: &[String]) -> BTreeMap<&str, Vec<usize>> {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, text) in texts.iter().enumerate() {
        places.entry(text).or_default().push(place);
    }
    places
}

/// The longest sequence that both have, of equal ones the last: what cuts comes on top mostly. Hunt and Szymanski, "A
/// fast algorithm for computing longest common subsequences", 1977; from the end.
fn common(before: &[String], now: &[String]) -> Vec<Pair> {
    // What has not changed at the end costs nothing, however often it occurs.
    let same = before.iter().rev().zip(now.iter().rev());
    let same = same.take_while(|(was, is)| was == is).count();
    let before = &before[..before.len() - same];
    let now = &now[..now.len() - same];
    let places = places_of(now);
    // Each pair, and the one that follows it; for each length the sequence of it that begins last.
    let mut links: Vec<(Pair, Option<usize>)> = Vec::new();
    let mut begins: Vec<usize> = Vec::new();
    for (was, text) in before.iter().enumerate().rev() {
        for is in places.get(text.as_str()).into_iter().flatten() {
            let length = begins.partition_point(|link| links[*link].0.1 > *is);
            let next = length.checked_sub(1).map(|shorter| begins[shorter]);
            match begins.get_mut(length) {
                Some(begin) if links[*begin].0.1 == *is => continue,
                Some(begin) => *begin = links.len(),
                None => begins.push(links.len()),
            }
            links.push(((was, *is), next));
        }
    }
    let first = begins.last().map(|link| links[*link]);
    let changed = std::iter::successors(first, |(_, next)| next.map(|link| links[link]));
    let unchanged = (0..same).map(|place| (before.len() + place, now.len() + place));
    changed.map(|(pair, _)| pair).chain(unchanged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        text.chars().map(|letter| letter.to_string()).collect()
    }

    #[test]
    fn as_many_as_can_be_are_kept() {
        for (before, now, kept) in [
            ("", "ad", vec![]),
            ("ad", "", vec![]),
            ("ad", "ad", vec![(0, 0), (1, 1)]),
            ("ad", "dad", vec![(0, 1), (1, 2)]),
            ("da", "dad", vec![(0, 0), (1, 1)]),
            ("d", "dd", vec![(0, 1)]),
            ("abcd", "dabc", vec![(0, 1), (1, 2), (2, 3)]),
        ] {
            assert_eq!(common(&texts(before), &texts(now)), kept, "{before} {now}");
        }
    }

    /// Against every subsequence there is.
    #[test]
    fn no_longer_sequence_is_common_to_both() {
        let words = |length: u32| {
            (0..3_u32.pow(length)).map(move |number| {
                let letter = |place: u32| number / 3_u32.pow(place) % 3;
                (0..length)
                    .map(letter)
                    .map(|letter| letter.to_string())
                    .collect::<Vec<_>>()
            })
        };
        let parts = |word: &[String]| -> Vec<Vec<String>> {
            (0..1 << word.len())
                .map(|bits: usize| {
                    let taken = word
                        .iter()
                        .enumerate()
                        .filter(|(place, _)| bits >> place & 1 == 1);
                    taken.map(|(_, letter)| letter.clone()).collect()
                })
                .collect()
        };
        for before in words(4) {
            for now in words(4) {
                let of_now = parts(&now);
                let longest = parts(&before)
                    .iter()
                    .filter(|part| of_now.contains(part))
                    .map(Vec::len)
                    .max();
                let kept = common(&before, &now);
                assert_eq!(Some(kept.len()), longest, "{before:?} {now:?}");
                assert!(kept.iter().all(|(was, is)| before[*was] == now[*is]));
                assert!(kept.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1));
            }
        }
    }
}
