//! Which of the host's user ids a guest gets: 65536 of its own, because guests that share a range
//! also share the kernel's inotify and keyring quotas.

use std::ops::Range;

/// How many ids a guest has.
pub const COUNT: u32 = 0x1_0000;

/// systemd's range for containers (<https://systemd.io/UIDS-GIDS>), above what useradd(8) hands out to users later
/// (login.defs(5), SUB_UID_MAX is 600100000): they could send signals to a guest whose ids they have, too.
const CONTAINERS: Range<u32> = 0x2400_0000..0x6fff_0000;

/// The lowest range that none of the ranges in use touches.
pub fn allocate(in_use: &[Range<u32>]) -> Option<u32> {
    let mut in_use: Vec<_> = in_use.iter().filter(|range| !range.is_empty()).collect();
    in_use.sort_by_key(|range| range.start);
    let mut base = CONTAINERS.start;
    for range in in_use {
        if u64::from(range.start) >= u64::from(base) + u64::from(COUNT) {
            break;
        }
        if range.end > base {
            base = range.end.checked_next_multiple_of(COUNT)?;
        }
    }
    (base < CONTAINERS.end).then_some(base)
}

/// The ranges of a subuid(5) or subgid(5) file; lines that aren't ranges are passed over.
pub fn parse_subordinate_ids(text: &str) -> Vec<Range<u32>> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':').skip(1);
            let start: u32 = fields.next()?.trim().parse().ok()?;
            let count: u32 = fields.next()?.trim().parse().ok()?;
            Some(start..start.saturating_add(count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: u32 = CONTAINERS.start;

    #[test]
    #[allow(
        clippy::single_range_in_vec_init,
        reason = "one range is one of the cases"
    )]
    fn the_lowest_free_range() {
        for (in_use, base) in [
            (vec![], Some(FIRST)),
            (vec![100_000..165_536], Some(FIRST)),
            (vec![FIRST..FIRST + COUNT], Some(FIRST + COUNT)),
            (vec![FIRST + COUNT..FIRST + 2 * COUNT], Some(FIRST)),
            (vec![FIRST + 1..FIRST + 2], Some(FIRST + COUNT)),
            (vec![0..FIRST + 1], Some(FIRST + COUNT)),
            (
                vec![FIRST..FIRST + COUNT, FIRST + 2 * COUNT..FIRST + 3 * COUNT],
                Some(FIRST + COUNT),
            ),
            (vec![0..0x6fff_0000], None),
            (vec![0..u32::MAX], None),
        ] {
            assert_eq!(allocate(&in_use), base, "{in_use:?}");
        }
    }

    #[test]
    fn ranges_of_others() {
        assert_eq!(
            parse_subordinate_ids("root:100000:65536\nbad\nx:a:b\nuser:5:4294967295\n"),
            [100_000..165_536, 5..u32::MAX]
        );
    }

    proptest! {
        #[test]
        fn never_one_in_use(in_use in prop::collection::vec((0..0x0100_0000_u32, 0..0x2_0000_u32), 0..30)) {
            let in_use: Vec<_> = in_use.into_iter().map(|(start, count)| start..start + count).collect();
            let base = allocate(&in_use).unwrap();
            prop_assert_eq!(base % COUNT, 0);
            for range in in_use {
                prop_assert!(range.is_empty() || range.end <= base || range.start >= base + COUNT);
            }
        }

        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            let _ = parse_subordinate_ids(&text);
        }
    }
}
