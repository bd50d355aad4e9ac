//! Units that somebody has kept from being started, with `systemctl mask`.

use std::{fs, path::Path};

use protocol::{Failure, FailureKind};

/// Where `systemctl mask` puts its links, for good and until the next boot. systemctl(1)
const FOLDERS: [&str; 2] = ["/etc/systemd/system", "/run/systemd/system"];

/// Whether a unit is masked, without asking systemd.
pub fn is_masked(unit: &str) -> bool {
    is_masked_in(&FOLDERS.map(Path::new), unit)
}

/// What counts is the first of these folders that knows the unit. systemd.unit(5)
fn is_masked_in(folders: &[&Path], unit: &str) -> bool {
    let mut paths = folders.iter().map(|folder| folder.join(unit));
    paths
        .find(|path| fs::symlink_metadata(path).is_ok())
        .is_some_and(|path| is_mask(&path))
}

/// Whether this is what `systemctl mask` makes.
pub fn is_mask(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null"))
}

/// Says so.
pub fn masked(unit: &str) -> Failure {
    Failure::new(
        FailureKind::Conflict,
        format!(
            "{unit} is masked, so that systemd doesn't start it: somebody has done that on the host"
        ),
    )
    .help(format!("Undo that on the host: systemctl unmask {unit}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_first_folder_that_knows_a_unit_says_whether_it_is_masked() {
        let top = tempfile::tempdir().unwrap();
        let (etc, run) = (top.path().join("etc"), top.path().join("run"));
        for folder in [&etc, &run] {
            fs::create_dir(folder).unwrap();
        }
        let is_masked = |unit: &str| is_masked_in(&[&etc, &run], unit);
        symlink("/dev/null", run.join("a")).unwrap();
        symlink("/dev/null", etc.join("b")).unwrap();
        symlink("/dev/null", run.join("c")).unwrap();
        fs::write(etc.join("c"), "[Unit]").unwrap();
        symlink("/elsewhere", etc.join("d")).unwrap();
        let found = ["a", "b", "c", "d", "e"].map(is_masked);
        assert_eq!(found, [true, true, false, false, false]);
    }
}
