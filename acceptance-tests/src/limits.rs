//! The machine's limits, which all labs on it share.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context, Result};

/// What a host needs at the least, whatever it had before. systemd#17992, nixpkgs#36214, lxd#2252
///
/// gc_thresh of the neighbour tables is the machine's: a network namespace, which a server of the lab
/// is, has no such setting. A unit test of the agent (host/sysctls.rs) sees to it. What
/// nesting asks of keys is what the kernel has by itself.
pub const LIMITS: [(&str, u64); 4] = [
    ("fs/inotify/max_user_instances", 8192),
    ("fs/inotify/max_user_watches", 524_288),
    ("kernel/keys/maxkeys", 20_000),
    ("kernel/keys/maxbytes", 2_000_000),
];

/// Raises them further than any host asks for, and leaves them so: a host that found less would put that back when it is
/// destroyed, while other labs need more.
pub(crate) fn raise() -> Result<()> {
    raise_below(Path::new("/proc/sys"))
}

fn raise_below(folder: &Path) -> Result<()> {
    for (key, least) in LIMITS {
        let now = match fs::read_to_string(folder.join(key)) {
            // The kernel was built without it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            text => text.with_context(|| format!("read {key}"))?,
        };
        let now: u64 = now.trim().parse().context(key)?;
        if now <= least {
            fs::write(folder.join(key), (least + 1).to_string())
                .with_context(|| format!("raise {key}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_more_than_a_host_asks_for() {
        let folder = tempfile::tempdir().unwrap();
        for (key, now, raised) in [
            ("fs/inotify/max_user_instances", "128\n", "8193"),
            ("fs/inotify/max_user_watches", "524288\n", "524289"),
            ("kernel/keys/maxkeys", "30000\n", "30000\n"),
        ] {
            let file = folder.path().join(key);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, now).unwrap();
            raise_below(folder.path()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), raised, "{key}");
        }
        assert!(!folder.path().join("kernel/keys/maxbytes").exists());
    }
}
