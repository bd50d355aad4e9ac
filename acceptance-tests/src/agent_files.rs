//! Watches the agent's folder on a server: a file with a whole agent's name is a whole agent.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use sha2::{Digest, Sha256};

use crate::vps::Vps;

const FOLDER: &str = "usr/local/lib/nspawn-agent";

/// A watch that runs until it is finished.
#[derive(Debug)]
pub struct AgentFiles {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Watch>,
}

#[derive(Debug, Default)]
struct Watch {
    /// The files that were read, by what changes with them.
    seen: HashSet<(PathBuf, u64, i64, i64, u64)>,
    wrong: Vec<String>,
}

impl AgentFiles {
    /// Looks into a server's folder all the time, past SSH.
    pub fn watch(vps: &Vps) -> Self {
        let folder = vps.root_folder().join(FOLDER);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut watch = Watch::default();
            while !stopped.load(Ordering::Relaxed) {
                // A folder or a file that is gone again.
                let _ = watch.look(&folder);
                std::thread::sleep(Duration::from_millis(2));
            }
            watch
        });
        Self { stop, thread }
    }

    /// Ends the watch: fails when any file's contents did not fit its name, or when none was seen.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let watch = self
            .thread
            .join()
            .map_err(|_| anyhow!("the watch panicked"))?;
        ensure!(watch.wrong.is_empty(), "{}", watch.wrong.join("\n"));
        ensure!(!watch.seen.is_empty(), "no agent was seen");
        Ok(())
    }
}

impl Watch {
    fn look(&mut self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(hash) = name.strip_prefix("nspawn-agent-").map(str::to_owned) else {
                continue;
            };
            let metadata = fs::metadata(&path)?;
            let state = (
                path.clone(),
                metadata.ino(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.size(),
            );
            if !self.seen.insert(state) {
                continue;
            }
            let digest = Sha256::digest(fs::read(&path)?);
            let mut found = String::new();
            for byte in digest {
                // Writing to a string can't fail.
                let _ = write!(found, "{byte:02x}");
            }
            if found != hash {
                let wrong = format!("{} hashes to {found}", path.display());
                self.wrong.push(wrong);
            }
        }
        Ok(())
    }
}
