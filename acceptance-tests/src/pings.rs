//! What `ping` says when it is ended by SIGINT.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};

/// So many of the last pings may still be under way; all that came before them has arrived or never will.
const UNDER_WAY: usize = 10;

/// How many answers there were; fails when a ping was lost, or when too few were sent to tell.
pub fn answers(printed: &str) -> Result<usize> {
    let numbers: BTreeSet<usize> = printed
        .lines()
        .filter_map(|line| {
            line.split_once("icmp_seq=")?
                .1
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .collect();
    let sent: usize = printed
        .lines()
        .find_map(|line| line.split_once(" packets transmitted")?.0.parse().ok())
        .with_context(|| format!("ping says nothing:\n{printed}"))?;
    let last = numbers.last().copied().unwrap_or_default();
    let missing: Vec<usize> = (1..=sent)
        .filter(|number| *number < last || number + UNDER_WAY <= sent)
        .filter(|number| !numbers.contains(number))
        .collect();
    ensure!(
        missing.is_empty(),
        "of {sent} pings these were lost: {missing:?}\n{printed}"
    );
    ensure!(numbers.len() > 10, "only {sent} pings were tried");
    Ok(numbers.len())
}

/// The longest time without an answer, from the first one on; of `ping -D`, which tells when each came.
pub fn longest_gap(printed: &str, until: SystemTime) -> Result<Duration> {
    let answer = |line: &str| {
        let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
        // A router's word that nobody is there is none.
        let is_answer = rest.contains(" bytes from ");
        let time: f64 = time.parse().ok().filter(|_| is_answer)?;
        Some(Duration::from_secs_f64(time))
    };
    let mut moments: Vec<Duration> = printed.lines().filter_map(answer).collect();
    ensure!(
        moments.len() > 10,
        "only {} came:\n{printed}",
        moments.len()
    );
    moments.push(until.duration_since(UNIX_EPOCH)?);
    let gaps = moments
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]));
    gaps.max().context("there is no answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_may_be_the_last() {
        let answer = |number: u32| {
            format!("[1000.{number}0000] 64 bytes from 203.0.113.2: icmp_seq={number} ttl=63\n")
        };
        let unreachable =
            "[1000.400000] From 203.0.113.1 icmp_seq=40 Destination Host Unreachable\n";
        let lines: Vec<String> = (10..30).chain(60..90).map(answer).collect();
        let printed = lines.concat() + unreachable;
        let gap = |until: f64| {
            let until = UNIX_EPOCH + Duration::from_secs_f64(until);
            longest_gap(&printed, until).unwrap().as_millis()
        };
        assert_eq!(gap(1000.9), 310);
        assert_eq!(gap(1002.89), 2000);
        assert!(longest_gap(unreachable, SystemTime::now()).is_err());
    }

    fn printed(answered: impl Iterator<Item = usize>, sent: usize) -> String {
        let lines: Vec<String> = answered
            .map(|number| {
                format!("64 bytes from 203.0.113.2: icmp_seq={number} ttl=63 time=0.05 ms\n")
            })
            .collect();
        format!(
            "{}\n--- 203.0.113.2 ping statistics ---\n{sent} packets transmitted, 9 received\n",
            lines.concat()
        )
    }

    #[test]
    fn what_was_under_way_is_not_lost() {
        assert_eq!(answers(&printed(1..=30, 30)).unwrap(), 30);
        assert_eq!(answers(&printed(1..=28, 30)).unwrap(), 28);
        let lost = answers(&printed((1..=30).filter(|number| *number != 27), 30));
        assert!(lost.unwrap_err().to_string().contains("[27]"));
        let dark_at_the_end = answers(&printed(1..=60, 80));
        assert!(dark_at_the_end.unwrap_err().to_string().contains("[61, "));
        assert!(answers(&printed(1..=5, 5)).is_err());
        assert!(answers("").is_err());
    }
}
