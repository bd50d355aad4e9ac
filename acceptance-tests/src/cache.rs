//! Files that take long to make, kept outside the checkout and keyed by the recipe that made them.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::command::command;

/// Returns the folder of the cache: `NSPAWN_LAB_CACHE`, or /var/cache/nspawn-lab.
pub fn folder() -> PathBuf {
    std::env::var_os("NSPAWN_LAB_CACHE")
        .map_or_else(|| "/var/cache/nspawn-lab".into(), PathBuf::from)
}

/// A shell script and its arguments, which make a folder.
#[derive(Debug)]
pub struct Recipe {
    /// What is made, as a file name.
    pub name: &'static str,
    /// The script; its first argument is the folder to fill.
    pub script: &'static str,
    /// The further arguments.
    pub arguments: Vec<String>,
}

impl Recipe {
    /// Returns the folder that the recipe makes, and makes it when it isn't there.
    ///
    /// A half-made folder never gets the final name, and two processes never make the same one at once.
    pub fn ensure(&self) -> Result<PathBuf> {
        let target = folder().join(format!("{}-{}", self.name, self.key()));
        if target.exists() {
            return Ok(target);
        }
        fs::create_dir_all(folder()).with_context(|| format!("create {}", folder().display()))?;
        let _lock = lock(&folder().join(format!("{}.lock", self.name)))?;
        if !target.exists() {
            self.build(&target)?;
        }
        Ok(target)
    }

    fn key(&self) -> String {
        let mut hash = Sha256::new();
        for part in std::iter::once(self.script).chain(self.arguments.iter().map(String::as_str)) {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let digest = hash.finalize();
        let start = digest
            .iter()
            .take(6)
            .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        format!("{start:012x}")
    }

    fn build(&self, target: &Path) -> Result<()> {
        let start = Instant::now();
        eprintln!(
            "lab: making {} (once, in {})",
            self.name,
            folder().display()
        );
        let unfinished = folder().join(format!(".making-{}", self.name));
        *UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner) = Some(unfinished.clone());
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)
                .with_context(|| format!("remove {}", unfinished.display()))?;
        }
        fs::create_dir(&unfinished)?;
        let output = unfinished.join("out");
        fs::create_dir(&output)?;
        fs::set_permissions(&output, fs::Permissions::from_mode(0o755))?;
        let log = folder().join(format!("{}.log", self.name));
        let file = File::create(&log)?;
        // Namespaces of its own: what debootstrap mounts and starts ends with it, however it ends.
        let isolated = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let status = command("setpriv", ["--pdeathsig", "KILL", "unshare"])
            .args(isolated)
            .args(["sh", "-euc", self.script, self.name])
            .arg(&output)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("run sh")?;
        if !status.success() {
            remove_unfinished();
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            bail!(
                "making {} failed ({status}); the end of {}:\n{tail}",
                self.name,
                log.display()
            );
        }
        fs::rename(&output, target)?;
        fs::remove_dir(&unfinished)?;
        eprintln!(
            "lab: made {} in {:.0} s",
            self.name,
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }
}

/// What this process is making; a signal or a failure removes it.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Removes what this process has begun to make and will not finish.
pub(crate) fn remove_unfinished() {
    // Held to the end, so that neither of two threads that come here leaves before all is gone.
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = unfinished.take() {
        // The next process that makes the same removes it, if this can't.
        let _ = fs::remove_dir_all(path);
    }
}

/// Takes a lock that ends with the returned file, whatever ends the process.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}
