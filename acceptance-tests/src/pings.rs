//! What `ping` says when it is ended by SIGINT.

use std::collections::BTreeSet;

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

#[cfg(test)]
mod tests {
    use super::*;

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
