//! A part of the sweep's cases.

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// One of `of` equal parts, so that several runs, one after the other or on several machines, come to all cases. It goes
/// by their names: what runs side by side is recorded in another order each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    part: usize,
    of: usize,
}

impl Share {
    /// "2/8"
    pub fn parse(text: &str) -> Result<Self> {
        let parts = || {
            let (part, of) = text.split_once('/')?;
            Some((part.parse().ok()?, of.parse().ok()?))
        };
        let (part, of) = parts().with_context(|| format!("{text:?} is no share such as 2/8"))?;
        ensure!((1..=of).contains(&part), "there is no share {part} of {of}");
        Ok(Self { part, of })
    }

    /// Whether a case is in this part.
    pub fn has(self, name: &str) -> bool {
        let hash = Sha256::digest(name.as_bytes());
        let number = hash.iter().fold(0, |number, byte| {
            (number * 256 + usize::from(*byte)) % self.of
        });
        number == self.part - 1
    }
}

#[test]
fn shares_have_each_case_once() {
    let share = |text: &str| Share::parse(text).unwrap();
    let mut sizes = [0; 3];
    for number in 0..300 {
        let name = format!("host there: kill serve after: write {number}");
        let having: Vec<usize> = (1..=3)
            .filter(|part| share(&format!("{part}/3")).has(&name))
            .collect();
        assert_eq!(having.len(), 1, "{name}");
        sizes[having[0] - 1] += 1;
    }
    assert!(sizes.iter().all(|size| *size > 70), "{sizes:?}");
    for wrong in ["", "2", "0/3", "4/3", "1/0", "a/b"] {
        assert!(Share::parse(wrong).is_err(), "{wrong}");
    }
}
