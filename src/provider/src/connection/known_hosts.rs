//! known_hosts files on the operator's machine; what stands in them is read by [`texts::known_hosts`].

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use texts::{
    host_key::PublicKey,
    known_hosts::{KnownHosts, written_name},
};

/// Adds a line to the file, which is made if it isn't there.
pub fn append(path: &Path, host: &str, port: u16, key: &PublicKey) -> io::Result<()> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        && !folder.exists()
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let mut line = format!("{} {key}\n", written_name(&host.to_ascii_lowercase(), port));
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            line.insert(0, '\n');
        }
    }
    file.write_all(line.as_bytes())
}

/// Reads a file; one that isn't there knows nobody.
pub fn read(path: &Path) -> io::Result<KnownHosts> {
    match fs::read(path) {
        Ok(bytes) => Ok(KnownHosts::parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(KnownHosts::default()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn key(number: u8) -> PublicKey {
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend([number; 32]);
        PublicKey::new(blob)
    }

    fn keys(known: &KnownHosts, host: &str, port: u16) -> Vec<PublicKey> {
        known.lookup(host, port).keys
    }

    #[test]
    fn an_appended_line_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ssh/known_hosts");
        append(&path, "VPS.example", 22, &key(1)).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap().trim_end()).unwrap();
        append(&path, "2001:db8::1", 2222, &key(2)).unwrap();
        let known = read(&path).unwrap();
        assert_eq!(keys(&known, "vps.example", 22), [key(1)]);
        assert_eq!(keys(&known, "2001:db8::1", 2222), [key(2)]);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
