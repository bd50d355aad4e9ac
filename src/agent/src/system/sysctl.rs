//! Sysctls: read and written below /proc/sys.

#![expect(
    clippy::disallowed_methods,
    reason = "what the kernel shows as files is set at once"
)]

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use protocol::Failure;

use super::files;
use crate::failure::Context as _;

/// Where the kernel's settings are.
fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

/// A setting's value, in the kernel's own words; none where the kernel doesn't have it.
/// The key is written with slashes, because names of interfaces hold dots. sysctl.d(5)
pub fn read(key: &str) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path(key)) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read the sysctl {key}")),
    }
}

/// What has settings of its own below this, such as each interface.
pub fn names(folder: &str) -> Result<Vec<String>, Failure> {
    files::names(&path(folder))
}

/// Sets a value; nothing happens where the kernel doesn't have the setting any more.
pub fn write(key: &str, value: &str) -> Result<(), Failure> {
    match fs::write(path(key), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("set the sysctl {key} to {value}")),
    }
}
