//! What a host prints before the agent speaks: a login shell's noise, and the lines of the script that
//! puts the agent in place.

use protocol::frame::{MAGIC, NOISE_LIMIT};

/// What the script's own lines on stdout begin with; a login shell prints no zero bytes.
const MARKER: &[u8] = b"\0nspawn-agent install ";

/// What the script has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress<'a> {
    /// Nothing that we know yet.
    Waiting,
    /// It wants the program for this architecture; so many bytes are dealt with.
    Need { architecture: &'a str, taken: usize },
    /// It gave up: a word, and more about it.
    Failed(&'a str),
    /// The agent speaks; its frames begin at this byte.
    Serving(usize),
    /// This can't be the script.
    Noise,
}

/// What the host has printed so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// What comes before it is never looked at again, however small the pieces are that come.
    seen: usize,
    /// Where the rest of the script's own line begins.
    line: Option<usize>,
}

impl Output {
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes away all that is dealt with.
    pub(super) fn take(&mut self, count: usize) {
        self.bytes.drain(..count);
        (self.seen, self.line) = (0, None);
    }

    /// What comes after this byte.
    pub(super) fn after(mut self, at: usize) -> Vec<u8> {
        self.bytes.split_off(at)
    }

    /// What it comes to.
    pub(super) fn progress(&mut self) -> Progress<'_> {
        let begin = match self.line {
            Some(begin) => begin,
            None => match self.word() {
                Some(Word::Magic(end)) => return Progress::Serving(end),
                Some(Word::Marker(end)) => end,
                None if self.seen > NOISE_LIMIT => return Progress::Noise,
                None => return Progress::Waiting,
            },
        };
        self.line = Some(begin);
        self.seen = self.seen.max(begin);
        let Some(length) = find(&self.bytes[self.seen..], b'\n') else {
            self.seen = self.bytes.len();
            return if self.seen - begin > NOISE_LIMIT {
                Progress::Noise
            } else {
                Progress::Waiting
            };
        };
        let end = self.seen + length;
        let line = str::from_utf8(&self.bytes[begin..end]).unwrap_or_default();
        match line.split_once(' ') {
            Some(("need", architecture)) => Progress::Need {
                architecture,
                taken: end + 1,
            },
            Some(("fail", reason)) => Progress::Failed(reason),
            _ => Progress::Noise,
        }
    }

    /// The first of the two words that noise doesn't have; both begin with a zero byte.
    fn word(&mut self) -> Option<Word> {
        while let Some(before) = find(&self.bytes[self.seen..], 0) {
            let at = self.seen + before;
            let rest = &self.bytes[at..];
            if rest.starts_with(MAGIC) {
                return Some(Word::Magic(at + MAGIC.len()));
            }
            if rest.starts_with(MARKER) {
                return Some(Word::Marker(at + MARKER.len()));
            }
            if MAGIC.starts_with(rest) || MARKER.starts_with(rest) {
                self.seen = at;
                return None;
            }
            self.seen = at + 1;
        }
        self.seen = self.bytes.len();
        None
    }
}

/// Where one of our own words ends.
enum Word {
    Magic(usize),
    Marker(usize),
}

fn find(bytes: &[u8], what: u8) -> Option<usize> {
    bytes.iter().position(|byte| *byte == what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn output_is_understood_past_noise() {
        let need = b"Welcome!\n\0nspawn-agent install need x86_64\n";
        for (output, expected) in [
            (&b""[..], Progress::Waiting),
            (b"motd\n", Progress::Waiting),
            (b"\0nspawn-agent install need x8", Progress::Waiting),
            (
                need,
                Progress::Need {
                    architecture: "x86_64",
                    taken: need.len(),
                },
            ),
            (
                b"\0nspawn-agent install fail root admin\n",
                Progress::Failed("root admin"),
            ),
            (b"\0nspawn-agent install what\n", Progress::Noise),
            (b"motd\n\0nspawn-agent serve 1\nrest", Progress::Serving(27)),
        ] {
            for size in [1, 7, output.len().max(1)] {
                let mut found = Output::default();
                let mut pieces = output.chunks(size);
                while found.progress() == Progress::Waiting
                    && let Some(piece) = pieces.next()
                {
                    found.extend(piece);
                }
                // What is left came in the same packet.
                pieces.for_each(|piece| found.extend(piece));
                assert_eq!(found.progress(), expected, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn output_without_end_is_noise_also_behind_the_scripts_own_word() {
        for begin in [
            &b""[..],
            b"\0",
            MARKER,
            b"motd\n\0nspawn-agent install need ",
        ] {
            let mut output = Output::default();
            output.extend(begin);
            output.extend(&vec![b'y'; NOISE_LIMIT]);
            output.extend(b"yy");
            assert_eq!(output.progress(), Progress::Noise, "{begin:?}");
        }
    }

    #[test]
    fn what_is_dealt_with_is_not_read_again() {
        let mut output = Output::default();
        output.extend(b"\0nspawn-agent install need x86_64\nnoise");
        let Progress::Need { taken, .. } = output.progress() else {
            panic!("{output:?}");
        };
        output.take(taken);
        assert_eq!(output.progress(), Progress::Waiting);
        output.extend(b"\0nspawn-agent serve 1\nframes");
        let Progress::Serving(at) = output.progress() else {
            panic!("{output:?}");
        };
        assert_eq!(output.after(at), b"frames");
    }

    proptest! {
        #[test]
        fn any_output_is_dealt_with(output: Vec<u8>) {
            let mut found = Output::default();
            found.extend(&output);
            let _ = found.progress();
        }
    }
}
