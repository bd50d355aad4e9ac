//! Whether the agent's program is still what was uploaded: its name tells its content.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::{LazyLock, Mutex, PoisonError},
};

use protocol::{Failure, FailureKind};
use sha2::{Digest as _, Sha256};

use crate::{
    failure::Context as _,
    system::{files, netlink::hexadecimal},
};

/// How the file of a program begins; the SHA-256 of its content follows.
const PREFIX: &str = "nspawn-agent-";
/// The running program, also when its file is gone. proc_pid_exe(5)
const RUNNING: &str = "/proc/self/exe";
const EXECUTABLE: u32 = 0o111;

/// What tells a file from what it was: a change of its content changes one of these.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// The file that was found whole last. At first it is the running one, which the provider looks at before it runs it.
static WHOLE: LazyLock<Mutex<Option<Stamp>>> =
    LazyLock::new(|| Mutex::new(fs::metadata(RUNNING).ok().as_ref().map(stamp)));

/// The SHA-256 that a program's name promises.
pub fn promised(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
        .filter(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether a link leads units to a program of this folder that holds what its name promises, and that only root may
/// change. It is read as a whole after a change alone.
pub fn is_whole_behind(link: &Path, folder: &Path) -> bool {
    fs::read_link(link).is_ok_and(|target| {
        let program = folder.join(target);
        program.parent() == Some(folder) && is_whole(&program)
    })
}

/// The same of a program itself.
pub fn is_whole(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let Some(hash) = promised(&name) else {
        return false;
    };
    fs::symlink_metadata(program).is_ok_and(|found| {
        found.is_file()
            && !files::is_open_to_others(&found)
            && found.permissions().mode() & EXECUTABLE == EXECUTABLE
            && holds(program, &stamp(&found), hash)
    })
}

/// The running program's content, unless that isn't what its name promises: where it is written to while it runs, as
/// some kernels allow.
pub fn running(name: &str) -> Result<Vec<u8>, Failure> {
    let program = fs::read(RUNNING).doing(|| "read the agent's own program")?;
    let found = hexadecimal(&Sha256::digest(&program));
    match promised(name) {
        Some(hash) if hash != found => Err(Failure::new(
            FailureKind::System,
            format!(
                "somebody overwrote the agent's program {name} while it ran, so that it can't be put back"
            ),
        )
        .help("Apply again: the provider brings it anew.")),
        _ => Ok(program),
    }
}

fn stamp(found: &Metadata) -> Stamp {
    let times = (
        (found.mtime(), found.mtime_nsec()),
        (found.ctime(), found.ctime_nsec()),
    );
    (found.dev(), found.ino(), found.size(), times.0, times.1)
}

fn holds(program: &Path, stamp: &Stamp, hash: &str) -> bool {
    let mut whole = WHOLE.lock().unwrap_or_else(PoisonError::into_inner);
    if whole.as_ref() == Some(stamp) {
        return true;
    }
    let holds = hash_of(program).is_ok_and(|found| found == hash);
    if holds {
        *whole = Some(*stamp);
    }
    holds
}

fn hash_of(program: &Path) -> io::Result<String> {
    let mut file = File::open(program)?;
    let (mut hasher, mut part) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            length => hasher.update(&part[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_program_that_is_no_more_what_its_name_promises_is_noticed() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path();
        let name = format!("{PREFIX}{}", hexadecimal(&Sha256::digest(b"agent")));
        let (program, link) = (folder.join(&name), folder.join("nspawn-agent"));
        let is_whole = || is_whole_behind(&link, folder);
        let write = |text: &str| files::replace(&program, text.as_bytes(), 0o755).unwrap();
        assert!(!is_whole(), "nothing is there");
        symlink(&name, &link).unwrap();
        assert!(!is_whole(), "the program is missing");
        write("agent");
        assert!(is_whole() && is_whole());
        for (overwritten, replaced) in [("", "tnega"), ("another one", "")] {
            fs::write(&program, overwritten).unwrap();
            assert!(!is_whole(), "it was overwritten with {overwritten:?}");
            write(replaced);
            assert!(!is_whole(), "it was replaced by {replaced:?}");
            write("agent");
            assert!(is_whole(), "it was put back");
        }
        for mode in [0o775, 0o757, 0o644] {
            fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
            assert!(!is_whole(), "{mode:o}");
        }
        write("agent");
        for elsewhere in ["/bin/true", "nspawn-agent-1", "../nspawn-agent"] {
            fs::remove_file(&link).unwrap();
            symlink(elsewhere, &link).unwrap();
            assert!(!is_whole(), "the link leads to {elsewhere}");
        }
        fs::remove_file(&link).unwrap();
        fs::write(&link, "agent").unwrap();
        assert!(!is_whole(), "a file is in the link's place");
    }

    #[test]
    fn a_program_that_does_not_hold_what_it_promises_is_not_put_back() {
        let running_is = fs::read(RUNNING).unwrap();
        let own = hexadecimal(&Sha256::digest(&running_is));
        assert!(running(&format!("{PREFIX}{own}")).unwrap() == running_is);
        let failure = running(&format!("{PREFIX}{}", "0".repeat(64))).unwrap_err();
        assert!(failure.message.contains("overwrote"), "{failure}");
    }
}
