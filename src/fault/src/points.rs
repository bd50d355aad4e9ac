//! What a test build does at each point.
//!
//! The folder holds what the sweep wants: `record` gets a line for each point that is reached; `armed` says at
//! which point, the how manieth time, the process is to be killed or frozen. It is `reached` from then on, so
//! that the retry isn't killed, too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::process::{Signal, getpid, kill_process};

/// What this process is, and its folder; nothing happens before that is told.
static WATCHED: OnceLock<(String, PathBuf)> = OnceLock::new();

/// Says what kind of process this is, and where the sweep says what is to happen to it.
pub fn watch(kind: &str, folder: Option<&str>) {
    if let Some(folder) = folder {
        // A process is of one kind.
        let _ = WATCHED.set((kind.to_owned(), PathBuf::from(folder)));
    }
}

/// A place between two changes, named by what has just been done or is about to be.
pub fn point<S: Into<String>>(name: impl FnOnce() -> S) {
    if let Some((kind, folder)) = WATCHED.get() {
        let line = format!("{kind}\t{}", steady(&name().into()));
        // Without a folder there is no sweep; what else fails shows as a point that is never reached.
        if let Ok(Some(signal)) = reached(folder, &line) {
            end(signal, folder);
        }
    }
}

/// A deed as errors call it, which has just been done: a point, unless it begins with a word for looking.
pub fn done<S: Into<String>>(deed: impl FnOnce() -> S) {
    if WATCHED.get().is_some() {
        let deed = deed().into();
        if changes(&deed) {
            point(|| format!("after: {deed}"));
        }
    }
}

/// An operation of Terraform, "before: Applying x" or "after: Applying x": a point, but not after one that only looks,
/// for then nothing has happened since the point before it.
pub fn operation(name: &str) {
    if !is_over_and_only_looked(name) {
        point(|| name);
    }
}

fn is_over_and_only_looked(operation: &str) -> bool {
    const LOOKING: [&str; 6] = [
        "Building",
        "Configuring",
        "Planning",
        "Reading",
        "Upgrading",
        "Validating",
    ];
    let over = operation.strip_prefix("after: ").unwrap_or_default();
    LOOKING.iter().any(|word| over.starts_with(word))
}

/// Whether a deed changes something. Any other word than these does, so that no new one is forgotten.
fn changes(deed: &str) -> bool {
    const LOOKING: [&str; 14] = [
        "ask", "connect", "encode", "enter", "find", "listen", "list", "look", "note", "open",
        "reach", "read", "watch", // Its own steps have points.
        "work",
    ];
    let verb = deed.split(' ').next().unwrap_or_default();
    !LOOKING.contains(&verb)
}

/// Ends or freezes this process. Frozen and woken, it goes on once the sweep has taken `reached` away: this thread
/// may be the last that the signal stops.
fn end(signal: Signal, folder: &Path) {
    let _ = kill_process(getpid(), signal);
    while signal == Signal::KILL || folder.join("reached").exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Notes that a point was reached; the signal that the sweep wants there.
fn reached(folder: &Path, line: &str) -> io::Result<Option<Signal>> {
    if let Ok(mut record) = OpenOptions::new().append(true).open(folder.join("record")) {
        record.write_all(format!("{line}\n").as_bytes())?;
    }
    let armed = folder.join("armed");
    let mut file = OpenOptions::new().read(true).write(true).open(&armed)?;
    file.lock()?;
    let mut order = String::new();
    file.read_to_string(&mut order)?;
    let mut words = order.splitn(3, '\t');
    let (Some(action), Some(left), Some(wanted)) = (words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    if wanted != line {
        return Ok(None);
    }
    match left.parse::<u32>().unwrap_or(0) {
        // Another process was there first, and has renamed the file since it was opened.
        0 => Ok(None),
        1 => {
            rewrite(&mut file, &format!("{action}\t0\t{line}"))?;
            fs::rename(&armed, folder.join("reached"))?;
            Ok(Some(if action == "freeze" {
                Signal::STOP
            } else {
                Signal::KILL
            }))
        }
        left => {
            rewrite(&mut file, &format!("{action}\t{}\t{line}", left - 1))?;
            Ok(None)
        }
    }
}

fn rewrite(file: &mut File, text: &str) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

/// The same name in each run: numbers of processes, links and files, and random ids, differ.
fn steady(name: &str) -> String {
    const RANDOM: usize = 24;
    let is_word = |letter: char| letter.is_ascii_alphanumeric();
    let mut text = String::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|letter| is_word(letter) != is_word(first));
        let (word, left) = rest.split_at(length.unwrap_or(rest.len()));
        rest = left;
        if word.len() >= RANDOM && word.chars().all(|letter| letter.is_ascii_hexdigit()) {
            text.push('@');
            continue;
        }
        for letter in word.chars() {
            match letter {
                '0'..='9' if text.ends_with('#') => {}
                '0'..='9' => text.push('#'),
                '\n' | '\t' => text.push(' '),
                other => text.push(other),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_each_run() {
        let hash = "0a".repeat(32);
        for (name, expected) in [
            (
                "write /a/.incoming-4711-0/tar",
                "write /a/.incoming-#-#/tar",
            ),
            (&format!("remove /run/{hash}\n"), "remove /run/@ "),
            ("add 203.0.113.2 é", "add #.#.#.# é"),
        ] {
            assert_eq!(steady(name), expected);
        }
    }

    #[test]
    fn to_look_is_no_change() {
        for (deed, expected) in [
            ("read /etc/hosts", false),
            ("measure /tree", true),
            ("readdress eth0", true),
            ("", true),
        ] {
            assert_eq!(changes(deed), expected, "{deed}");
        }
    }

    #[test]
    fn what_only_looked_has_no_point_after_it() {
        for (operation, expected) in [
            ("before: Reading nspawn_host", false),
            ("after: Reading nspawn_host", true),
            ("after: Applying nspawn_host", false),
        ] {
            assert_eq!(is_over_and_only_looked(operation), expected, "{operation}");
        }
    }

    #[test]
    fn a_point_is_recorded_and_its_time_comes_once() {
        let folder = tempfile::tempdir().unwrap();
        let reached =
            |name: &str| reached(folder.path(), &format!("serve\t{name}")).unwrap_or(None);
        assert_eq!(reached("a"), None);
        fs::write(folder.path().join("record"), "").unwrap();
        fs::write(folder.path().join("armed"), "kill\t2\tserve\ta").unwrap();
        assert_eq!(reached("a"), None);
        assert_eq!(reached("b"), None);
        assert_eq!(reached("a"), Some(Signal::KILL));
        assert_eq!(reached("a"), None);
        let lines = fs::read_to_string(folder.path().join("record")).unwrap();
        assert_eq!(lines, "serve\ta\nserve\tb\nserve\ta\nserve\ta\n");
        assert!(folder.path().join("reached").exists());
    }
}
