//! What the files of sysctl.d(5) ask for by name, which the next boot sets.

use std::{collections::BTreeMap, path::Path};

use crate::system::files;

/// A file in one of these hides those of its name in the folders behind. sysctl.d(5)
const FOLDERS: [&str; 4] = [
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
];

/// Values by key.
pub type Asked = BTreeMap<String, String>;

/// What others' files ask for.
pub fn by_others() -> Asked {
    in_folders(&FOLDERS.map(Path::new))
}

/// What can't be read asks for nothing.
fn in_folders(folders: &[&Path]) -> Asked {
    let mut places = BTreeMap::new();
    for folder in folders {
        for name in files::names(folder).unwrap_or_default() {
            if name.strip_suffix(".conf").is_some() {
                places
                    .entry(name)
                    .or_insert_with_key(|name| folder.join(name));
            }
        }
    }
    let mut asked = Asked::new();
    // In the order of their names, whatever the folder; the last one counts.
    for path in places.values() {
        // Often a link, such as 99-sysctl.conf to sysctl.conf.
        let text = path.canonicalize().ok().map(|path| files::read(&path));
        if let Some(Ok(Some(text))) = text
            && !files::is_ours(&text)
        {
            asked.extend(settings(&String::from_utf8_lossy(&text)));
        }
    }
    asked
}

/// The settings of one file, but for patterns: those are for whatever there may be, as in the distribution's own file.
fn settings(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        let key = key.trim();
        let is_comment = key.starts_with(['#', ';']);
        let key = key.strip_prefix('-').unwrap_or(key).trim();
        (!is_comment).then(|| (with_slashes(key), value.trim().to_owned()))
    })
}

/// Where the first separator is a dot, dots and slashes change places. sysctl.d(5)
fn with_slashes(key: &str) -> String {
    let slashed = match key.find(['.', '/']) {
        Some(place) if key[place..].starts_with('.') => key
            .chars()
            .map(|character| match character {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    };
    // Two names of one setting. ip-sysctl.rst, ip_forward
    if slashed == "net/ipv4/conf/all/forwarding" {
        "net/ipv4/ip_forward".to_owned()
    } else {
        slashed
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::system::files::HEADER;

    #[test]
    fn the_last_file_by_name_counts_and_hides_those_of_its_name_behind() {
        let top = tempfile::tempdir().unwrap();
        let folders = ["etc", "run", "lib"].map(|name| top.path().join(name));
        for (folder, name, text) in [
            (
                0,
                "50-a.conf",
                "# vm.a = 9\n; vm.a = 9\n-vm.a=1\nvm/b = 1\n nonsense\n",
            ),
            (1, "60-b.conf", "vm.b = 2"),
            (2, "60-b.conf", "vm.b = 3\nvm.c = 3"),
            (
                2,
                "10-c.conf",
                "vm.b = 4\nnet.ipv4.conf.eth0/1.forwarding = 1",
            ),
            (2, "20-d.conf", "net.ipv4.conf.all.forwarding = 1\n"),
            (0, "99-e.txt", "vm.a = 5"),
            (0, "90-nspawn-agent.conf", &format!("{HEADER}-vm/a = 6\n")),
        ] {
            fs::create_dir_all(&folders[folder]).unwrap();
            fs::write(folders[folder].join(name), text).unwrap();
        }
        fs::write(top.path().join("sysctl.conf"), "vm.d = 7").unwrap();
        std::os::unix::fs::symlink("../sysctl.conf", folders[0].join("99-f.conf")).unwrap();
        let missing = top.path().join("missing");
        let [etc, run, lib] = &folders;
        let asked = in_folders(&[etc, run, &missing, lib]);
        let expected = [
            ("net/ipv4/conf/eth0.1/forwarding", "1"),
            ("net/ipv4/ip_forward", "1"),
            ("vm/a", "1"),
            ("vm/b", "2"),
            ("vm/d", "7"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(asked, Asked::from(expected));
    }
}
