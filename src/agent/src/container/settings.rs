//! The container's systemd.nspawn(5) file.

use std::path::Path;

use protocol::{
    Failure, FailureKind,
    desired::Container,
    name::{InterfaceName, MachineName},
};
use texts::nspawn::{self, File};

use super::{Assigned, user_ids::COUNT};
use crate::system::files::{self, HEADER, OwnFile};

/// Refuses raw settings that are none, or that the agent writes itself.
pub fn check(container: &Container) -> Result<(), Failure> {
    let refuse = |text: String| Failure::new(FailureKind::Invalid, text).at("nspawn_config");
    if let Some(settings) = &container.nspawn_config {
        nspawn::check(settings).map_err(refuse)?;
    }
    if container.dns_servers.is_some() && has(container, "Exec", "ResolvConf") {
        return Err(refuse(
            "Exec.ResolvConf in nspawn_config is off because dns_servers is set".to_owned(),
        ));
    }
    Ok(())
}

/// The whole file.
pub fn render(container: &Container, assigned: &Assigned, bridge: &InterfaceName) -> String {
    let mut file = File::default();
    let users = match assigned.uid_base {
        0 => "no".to_owned(),
        base => format!("{base}:{COUNT}"),
    };
    file.add("Exec", "PrivateUsers", users);
    file.add("Exec", "Hostname", container.hostname.to_string());
    file.add("Exec", "NotifyReady", yes_or_no(container.wait_for.boot));
    if container.dns_servers.is_some() {
        file.add("Exec", "ResolvConf", "off".to_owned());
    }
    // Its link in the host's /var/log/journal would outlive the container.
    if !has(container, "Exec", "LinkJournal") {
        file.add("Exec", "LinkJournal", "no".to_owned());
    }
    file.add("Files", "PrivateUsersOwnership", "off".to_owned());
    // systemd-nspawn 252 would make the folders above the next mount the host's root's, where the
    // guest may write nothing: its PID 1 then fails. A file system of the guest's own has no such parents.
    file.add(
        "Files",
        "TemporaryFileSystem",
        "/run/systemd:mode=0755,size=64M,nr_inodes=64k".to_owned(),
    );
    file.add("Files", "BindReadOnly", network_files(&container.name));
    file.add("Network", "Bridge", bridge.to_string());
    if let Some(settings) = &container.nspawn_config {
        file.add_settings(settings);
    }
    file.text(HEADER)
}

/// Writes the file. A user's Environment= may hold what isn't every user's business.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    files::write_own(path, text, 0o600)
}

/// The same at a start, which is none of somebody else's file's business.
pub fn bring_up_to_date(path: &Path, text: &str) -> Result<(), Failure> {
    match files::compare(path, text)? {
        OwnFile::Same | OwnFile::Foreign => Ok(()),
        OwnFile::Differs | OwnFile::Missing => write(path, text),
    }
}

fn has(container: &Container, section: &str, key: &str) -> bool {
    let keys = container
        .nspawn_config
        .as_ref()
        .and_then(|config| config.get(section));
    keys.is_some_and(|keys| keys.contains_key(key))
}

/// The guest's network files, shown live; systemd-networkd reads them before /etc.
fn network_files(name: &MachineName) -> String {
    format!("/run/nspawn-agent/network/{name}:/run/systemd/network")
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::container::tests::container;

    fn config(section: &str, key: &str, values: &[&str]) -> Container {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let keys = BTreeMap::from([(key.to_owned(), values)]);
        Container {
            nspawn_config: Some(BTreeMap::from([(section.to_owned(), keys)])),
            ..container("web")
        }
    }

    fn rendered(container: &Container, uid_base: u32) -> String {
        let assigned = Assigned {
            uid_base,
            image_digest: String::new(),
        };
        render(container, &assigned, &"br0".parse().unwrap())
    }

    #[test]
    fn the_whole_file() {
        let mut desired = config("Exec", "Environment", &["A=1", "B=2"]);
        desired.dns_servers = Some(Vec::new());
        let text = rendered(&desired, 524_288);
        let expected = "
[Exec]
PrivateUsers=524288:65536
Hostname=web
NotifyReady=yes
ResolvConf=off
LinkJournal=no
Environment=A=1
Environment=B=2

[Files]
PrivateUsersOwnership=off
TemporaryFileSystem=/run/systemd:mode=0755,size=64M,nr_inodes=64k
BindReadOnly=/run/nspawn-agent/network/web:/run/systemd/network

[Network]
Bridge=br0
";
        assert_eq!(text, format!("{HEADER}{expected}"));
    }

    #[test]
    fn what_differs() {
        let mut desired = config("Exec", "LinkJournal", &["try-guest"]);
        desired.wait_for.boot = false;
        let text = rendered(&desired, 0);
        for line in [
            "PrivateUsers=no\n",
            "NotifyReady=no\n",
            "LinkJournal=try-guest\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("LinkJournal=no"), "{text}");
        assert!(!text.contains("ResolvConf"), "{text}");
    }

    #[test]
    fn a_start_brings_our_file_up_to_date_and_leaves_anothers() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("nspawn/web.nspawn");
        let text = |body: &str| format!("{HEADER}{body}");
        let read = || std::fs::read_to_string(&path).unwrap();
        // Missing, of before an update, and as it should be.
        for body in ["[Exec]\n", "[Exec]\nHostname=new\n"].repeat(2) {
            bring_up_to_date(&path, &text(body)).unwrap();
            bring_up_to_date(&path, &text(body)).unwrap();
            assert_eq!(read(), text(body));
        }
        std::fs::write(&path, "[Exec]\nBoot=no\n").unwrap();
        bring_up_to_date(&path, &text("[Exec]\n")).unwrap();
        assert_eq!(read(), "[Exec]\nBoot=no\n");
    }

    #[test]
    fn what_is_refused_names_the_key() {
        check(&config("Files", "Bind", &["/srv:/srv", "/data"])).unwrap();
        for (section, key, value, part) in [
            ("Network", "Bridge", "br1", "Network.Bridge"),
            ("Exec", "ResolvConf", "off", "Exec.ResolvConf"),
            ("Exec", "Environment", "A=1\nBoot=no", "Exec.Environment"),
        ] {
            let mut desired = config(section, key, &[value]);
            desired.dns_servers = Some(Vec::new());
            let failure = check(&desired).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid);
            assert!(failure.message.contains(part), "{failure}");
        }
    }
}
