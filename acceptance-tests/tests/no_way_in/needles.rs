//! Texts that must not be found, and where they are looked for.

use std::{fs, time::Duration};

use acceptance_tests::{
    Lab,
    command::{Process, command},
};
use anyhow::{Result, ensure};

/// Texts that must not be found, and what they are.
#[derive(Clone, Default)]
pub struct Needles(Vec<(String, String)>);

impl Needles {
    /// Fails when one of them is there.
    pub fn assert_not_in(&self, place: &str, text: &str) -> Result<()> {
        for (what, needle) in &self.0 {
            ensure!(!text.contains(needle.as_str()), "{what} is in {place}");
        }
        Ok(())
    }

    /// Adds a text as it is.
    pub fn add(&mut self, what: &str, needle: &str) {
        self.0.push((what.to_owned(), needle.to_owned()));
    }

    /// A text as it is, and within base64 at each of its three offsets.
    pub fn add_text(&mut self, what: &str, text: &str) {
        self.add(what, text);
        for offset in 0..3 {
            let encoded = base64_within(text, offset);
            self.add(&format!("{what} in base64"), &encoded);
        }
    }
}

/// The part of a text's base64 that doesn't depend on what stands around it.
fn base64_within(text: &str, offset: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = text.bytes().skip(offset).collect();
    let mut encoded = String::new();
    for group in bytes.as_chunks::<3>().0 {
        let number = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for shift in [18, 12, 6, 0] {
            encoded.push(char::from(DIGITS[(number >> shift) as usize & 63]));
        }
    }
    encoded
}

/// Looks for secrets in the arguments and environment of every process, here and on the host, until it is stopped.
pub struct ProcessWatch<'a> {
    lab: &'a Lab,
    here: Process,
}

/// $1: the secrets, one a line; $2: where what was found goes; $3: which files of a process; $4: the end.
const WATCH: &str = "while [ ! -e \"$4\" ]; do echo looked; grep -alFf \"$1\" $3 2>/dev/null || true; sleep 0.02; done > \"$2\"";

impl<'a> ProcessWatch<'a> {
    /// Begins.
    pub fn start(lab: &'a Lab, needles: &Needles) -> Result<Self> {
        let lines: Vec<&str> = needles
            .0
            .iter()
            .map(|(_, needle)| needle.as_str())
            .collect();
        let text = lines.join("\n") + "\n";
        fs::write(lab.folder().join("needles"), &text)?;
        fs::write(lab.vps1().root_folder().join("root/needles"), &text)?;
        lab.vps1().root(&format!(
            "setsid sh -c '{WATCH}' sh /root/needles /root/found '/proc/[0-9]*/cmdline /proc/[0-9]*/environ' /root/end > /dev/null 2>&1 < /dev/null &"
        ))?;
        // Terraform gets its variables by the environment, as its user's choice; arguments are everybody's.
        let path = |name: &str| lab.folder().join(name);
        let mut here = command("sh", ["-c", WATCH, "sh"]);
        here.args([path("needles"), path("found")])
            .arg("/proc/[0-9]*/cmdline")
            .arg(path("end"));
        let here = Process::spawn(&mut here)?;
        Ok(Self { lab, here })
    }

    /// Stops, and fails when anything was found.
    pub fn end(self) -> Result<()> {
        fs::write(self.lab.folder().join("end"), "")?;
        self.here.wait(Duration::from_mins(1))?.checked()?;
        let here = fs::read_to_string(self.lab.folder().join("found"))?;
        let there = self.lab.vps1().root("touch /root/end; cat /root/found")?;
        for (place, found) in [("here", here), ("on the host", there)] {
            let looks = found.lines().filter(|line| *line == "looked").count();
            eprintln!("{looks} looks at all processes {place}");
            ensure!(looks > 10, "only {looks} looks");
            let files: Vec<&str> = found.lines().filter(|line| *line != "looked").collect();
            ensure!(files.is_empty(), "a secret was in {files:?} {place}");
        }
        Ok(())
    }
}
