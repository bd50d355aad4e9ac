//! The values from before, and how they come back.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{Failure, desired::Host};
use serde::{Deserialize, Serialize};

use super::{
    Wanted, Wishes,
    asked::{self, Asked},
    density, nesting,
};
use crate::{store::Store, system::sysctl};

const FILE: &str = "former-sysctls.json";

/// Switches that the kernel takes for every interface, and where those have their own ones. ip-sysctl.rst, ip_forward
const SWITCHES: [(&str, &str); 2] = [
    ("net/ipv4/ip_forward", "net/ipv4/conf"),
    ("net/ipv6/conf/all/forwarding", "net/ipv6/conf"),
];

/// What inet_forward_change() of the kernel turns the other way round.
const REDIRECTS: &str = "net/ipv4/conf/all/accept_redirects";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Former {
    /// Also of those that held already: somebody may change them, and have them set then.
    values: BTreeMap<String, String>,
    /// The order in which they were set, to go back the other way round.
    order: Vec<String>,
    /// What the kernel sets along with a switch.
    #[serde(default)]
    along: BTreeMap<String, BTreeMap<String, String>>,
}

fn read(store: &Store) -> Result<Former, Failure> {
    Ok(store.get_beside(FILE)?.unwrap_or_default())
}

/// What was set.
pub fn keys(store: &Store) -> Result<Vec<String>, Failure> {
    Ok(read(store)?.order)
}

impl Former {
    /// What a sysctl was before the first change: also where a switch has set it along.
    fn value_of(&self, key: &str) -> Option<&String> {
        let along = || self.along.values().find_map(|along| along.get(key));
        self.values.get(key).or_else(along)
    }

    /// Keeps what a sysctl is, and what goes along with it, unless that is known.
    fn keep(&mut self, key: &str, now: &str) -> Result<(), Failure> {
        if !self.values.contains_key(key) {
            let before = self.value_of(key).map_or(now, String::as_str).to_owned();
            self.values.insert(key.to_owned(), before);
            self.along.insert(key.to_owned(), along(key)?);
        }
        Ok(())
    }
}

/// What is wished for, holds already, and isn't known to have been so before.
pub fn unnoted(
    store: &Store,
    bridge: &str,
    wishes: &Wishes,
    values: &BTreeMap<String, String>,
) -> Result<Vec<String>, Failure> {
    let former = read(store)?;
    let unnoted = wishes.iter().filter(|(key, wanted)| {
        values.get(key).is_some_and(|value| wanted.holds(value))
            && former.value_of(key).is_none()
            && !is_of(bridge, key)
    });
    Ok(unnoted.map(|(key, _)| key.clone()).collect())
}

/// Keeps the values of what holds already.
pub fn note(store: &Store, keys: &[String]) -> Result<(), Failure> {
    let mut former = read(store)?;
    for key in keys {
        if let Some(now) = sysctl::read(key)? {
            former.keep(key, &now)?;
        }
    }
    store.put_beside(FILE, &former)
}

/// Sets one, keeping its former value first, unless that is known. One that a switch has set along by now has its own with the switch's.
pub fn set(store: &Store, key: &str, value: u64) -> Result<(), Failure> {
    let (value, before) = (value.to_string(), sysctl::read(key)?);
    if before.as_ref() == Some(&value) {
        return Ok(());
    }
    let mut former = read(store)?;
    let has_note = former.order.iter().any(|set| set == key) || is_of_bridge(store, key)?;
    let Some(before) = before.filter(|_| !has_note) else {
        return sysctl::write(key, &value);
    };
    let is_known = former.value_of(key).is_some();
    former.keep(key, &before)?;
    former.order.push(key.to_owned());
    if !is_known {
        store.put_beside(FILE, &former)?;
        return sysctl::write(key, &value);
    }
    // Its former value is kept already: a disk that is full keeps it from being mended no more.
    sysctl::write(key, &value)?;
    if let Err(failure) = store.put_beside(FILE, &former) {
        eprintln!("nspawn-agent: {failure}");
    }
    Ok(())
}

/// Whether it goes with the host's own bridge, and so has no former value. Often udev has set it by then from our file,
/// as for every new interface. systemd-sysctl.service(8)
fn is_of_bridge(store: &Store, key: &str) -> Result<bool, Failure> {
    let host = store.get::<Host>("host")?;
    Ok(host.is_some_and(|host| is_of(host.desired.bridge.as_str(), key)))
}

fn is_of(bridge: &str, key: &str) -> bool {
    key.contains(&format!("/conf/{bridge}/"))
}

/// What the kernel sets along with this, as it is.
fn along(switch: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut values = BTreeMap::new();
    let Some((_, folder)) = SWITCHES.iter().find(|(key, _)| *key == switch) else {
        return Ok(values);
    };
    let names = sysctl::names(folder)?.into_iter();
    let mut keys: Vec<String> = names
        .filter(|name| name != "all")
        .map(|name| format!("{folder}/{name}/forwarding"))
        .collect();
    if REDIRECTS.starts_with(folder) {
        keys.push(REDIRECTS.to_owned());
    }
    for key in keys {
        if let Some(value) = sysctl::read(&key)? {
            values.insert(key, value);
        }
    }
    Ok(values)
}

/// What the kernel has made of it when it was switched; another value is somebody's who set it since.
fn with_switch(key: &str, is_on: bool) -> &'static str {
    if (key == REDIRECTS) == is_on {
        "0"
    } else {
        "1"
    }
}

/// Puts back what is wished for no more, but for what others' files ask for.
pub fn restore(store: &Store, wishes: &Wishes) -> Result<(), Failure> {
    restore_but(store, wishes, &asked::by_others())
}

/// What somebody's file asks for, and is so by now, may be relied on, as by a program that was installed since.
fn restore_but(store: &Store, wishes: &Wishes, asked: &Asked) -> Result<(), Failure> {
    let Some(mut former) = store.get_beside::<Former>(FILE)? else {
        return Ok(());
    };
    let away = away(&former, wishes)?;
    let stays = |key: &String| away.contains(key) || wishes.iter().any(|(wished, _)| wished == key);
    for key in former.order.iter().rev().filter(|key| !stays(key)) {
        if is_asked_for(key, asked)? {
            continue;
        }
        if let Some(value) = former.values.get(key) {
            put_back(key, value, former.along.get(key))?;
        }
    }
    former.order.retain(stays);
    former.values.retain(|key, _| stays(key));
    former.along.retain(|key, _| stays(key));
    if former.values.is_empty() {
        store.remove_beside(FILE)
    } else {
        store.put_beside(FILE, &former)
    }
}

/// What belongs to an interface that isn't there now, while the host stays: with its name, as after it was renamed there
/// and back, comes the value that was set.
fn away(former: &Former, wishes: &Wishes) -> Result<BTreeSet<String>, Failure> {
    let mut away = BTreeSet::new();
    if !wishes.is_empty() {
        for key in former.values.keys() {
            if sysctl::read(key)?.is_none() {
                away.insert(key.clone());
            }
        }
    }
    Ok(away)
}

/// Whether somebody's file asks for the very value that a sysctl has, or for that of a switch which goes on working with
/// it alone: the kernel forwards by the interface, and where it forwards, listens to advertisements only when accept_ra
/// is 2.
fn is_asked_for(key: &str, asked: &Asked) -> Result<bool, Failure> {
    let switches = SWITCHES.iter().filter(|(_, folder)| {
        key.starts_with(folder) && (key.ends_with("/forwarding") || key.ends_with("/accept_ra"))
    });
    for key in switches.map(|(switch, _)| *switch).chain([key]) {
        let wanted = asked.get(key);
        if wanted.is_some() && sysctl::read(key)?.as_ref() == wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

fn put_back(
    key: &str,
    value: &str,
    along: Option<&BTreeMap<String, String>>,
) -> Result<(), Failure> {
    if sysctl::read(key)?.is_some_and(|now| is_raised_further(key, &now)) {
        return Ok(());
    }
    // Off already when an earlier try was killed.
    let is_on = sysctl::read(key)?.as_deref() != Some("0");
    let mut wanted = Vec::new();
    for (other, before) in along.into_iter().flatten() {
        // None of an interface that is gone.
        if let Some(now) = sysctl::read(other)? {
            let is_the_kernels = now == with_switch(other, is_on);
            wanted.push((other, if is_the_kernels { before.clone() } else { now }));
        }
    }
    sysctl::write(key, value)?;
    for (other, value) in wanted {
        if sysctl::read(other)?.as_ref() != Some(&value) {
            sysctl::write(other, &value)?;
        }
    }
    Ok(())
}

/// Whether somebody needs more of this by now than the agent has asked for.
fn is_raised_further(key: &str, now: &str) -> bool {
    density()
        .into_iter()
        .chain(nesting())
        .any(|(limit, wanted)| {
            let Wanted::AtLeast(set) = wanted else {
                return false;
            };
            limit == key && now.parse::<u64>().is_ok_and(|now| now > set)
        })
}

/// Settings that were changed and are wished for no more.
pub fn superfluous(store: &Store, wishes: &Wishes) -> Result<bool, Failure> {
    let former = read(store)?;
    let away = away(&former, wishes)?;
    let is_wished = |key: &String| wishes.iter().any(|(wished, _)| wished == key);
    Ok(former
        .values
        .keys()
        .any(|key| !away.contains(key) && !is_wished(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a network namespace of a thread of its own.
    #[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
    fn in_new_namespace(work: impl FnOnce(Store) + Send + 'static) {
        use rustix::thread::{UnshareFlags, unshare_unsafe};
        let thread = std::thread::spawn(|| {
            // SAFETY: CLONE_NEWNET leaves memory and descriptors as they are.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let folder = tempfile::tempdir().unwrap();
            work(Store::new(folder.path()));
        });
        thread.join().unwrap();
    }

    fn value(key: &str) -> String {
        sysctl::read(key).unwrap().unwrap()
    }

    #[test]
    fn what_the_kernel_sets_along_with_forwarding_comes_back() {
        in_new_namespace(|store| {
            let own = "net/ipv4/conf/lo/forwarding";
            let own_v6 = "net/ipv6/conf/lo/forwarding";
            for (key, value) in [
                ("net/ipv4/ip_forward", "0"),
                (REDIRECTS, "0"),
                (own, "1"),
                ("net/ipv6/conf/all/forwarding", "0"),
                (own_v6, "1"),
            ] {
                sysctl::write(key, value).unwrap();
            }
            for (switch, _) in SWITCHES {
                set(&store, switch, 1).unwrap();
            }
            assert_eq!(value("net/ipv4/conf/default/forwarding"), "1");
            // What is left of a try that was killed half-way.
            sysctl::write("net/ipv4/ip_forward", "0").unwrap();
            assert_eq!(value(REDIRECTS), "1");
            restore_but(&store, &Vec::new(), &Asked::new()).unwrap();
            let off = [
                "net/ipv4/ip_forward",
                REDIRECTS,
                "net/ipv4/conf/default/forwarding",
                "net/ipv6/conf/all/forwarding",
                "net/ipv6/conf/default/forwarding",
            ];
            assert_eq!(off.map(value), ["0"; 5]);
            assert_eq!([own, own_v6].map(value), ["1"; 2]);
            assert!(keys(&store).unwrap().is_empty());
        });
    }

    #[test]
    fn what_the_kernel_has_set_along_is_no_former_value() {
        in_new_namespace(|store| {
            let switch = "net/ipv4/ip_forward";
            let along = "net/ipv4/conf/lo/forwarding";
            sysctl::write(switch, "0").unwrap();
            // Both were found to be wrong before either was set; a run that is killed in between finds one.
            set(&store, switch, 1).unwrap();
            set(&store, along, 1).unwrap();
            assert_eq!(keys(&store).unwrap(), [switch]);
            restore_but(&store, &Vec::new(), &Asked::new()).unwrap();
            assert_eq!([switch, along].map(value), ["0"; 2]);
        });
    }

    #[test]
    fn what_held_already_and_was_changed_meanwhile_comes_back() {
        in_new_namespace(|store| {
            let switch = "net/ipv4/ip_forward";
            let along = "net/ipv4/conf/lo/forwarding";
            sysctl::write(switch, "1").unwrap();
            let wishes: Wishes = [switch, along]
                .map(|key| (key.to_owned(), Wanted::Exactly(1)))
                .into();
            let unnoted = || {
                let keys = [switch, along].into_iter();
                let values = keys.map(|key| (key.to_owned(), value(key))).collect();
                super::unnoted(&store, "br0", &wishes, &values).unwrap()
            };
            assert_eq!(unnoted(), [switch, along]);
            note(&store, &unnoted()).unwrap();
            assert!(unnoted().is_empty() && keys(&store).unwrap().is_empty());
            // Somebody turns it off, and it is mended.
            sysctl::write(switch, "0").unwrap();
            assert_eq!(value(along), "0");
            set(&store, switch, 1).unwrap();
            assert!(superfluous(&store, &Vec::new()).unwrap());
            restore_but(&store, &Vec::new(), &Asked::new()).unwrap();
            assert_eq!([switch, along].map(value), ["1"; 2]);
            assert!(!superfluous(&store, &Vec::new()).unwrap());
        });
    }

    #[test]
    fn what_is_known_already_is_mended_on_a_full_disk_too() {
        crate::testing::on_small_disk(|folder| {
            let store = Store::new(folder.join("etc"));
            let (held, switch) = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding");
            let along = "net/ipv6/conf/lo/forwarding";
            sysctl::write(held, "1").unwrap();
            sysctl::write(switch, "0").unwrap();
            note(&store, &[held.to_owned()]).unwrap();
            set(&store, switch, 1).unwrap();
            for key in [held, along] {
                sysctl::write(key, "0").unwrap();
            }
            crate::testing::fill(folder);
            for key in [held, along] {
                set(&store, key, 1).unwrap();
                assert_eq!(value(key), "1");
            }
            // What isn't known could never be put back.
            set(&store, "net/ipv6/conf/all/proxy_ndp", 1).unwrap_err();
            assert_eq!(value("net/ipv6/conf/all/proxy_ndp"), "0");
        });
    }

    #[test]
    fn what_goes_with_the_bridge_has_no_former_value() {
        in_new_namespace(|store| {
            let host = crate::testing::inventory(&[], &[]).host.unwrap();
            assert_eq!(host.desired.bridge.as_str(), "br0");
            store.put(&host).unwrap();
            let add = ["link", "add", "br0", "type", "bridge"];
            let made = std::process::Command::new("ip").args(add).status();
            assert!(made.unwrap().success());
            let own = "net/ipv4/conf/br0/send_redirects";
            sysctl::write(own, "1").unwrap();
            set(&store, own, 0).unwrap();
            assert_eq!(value(own), "0");
            assert!(keys(&store).unwrap().is_empty());
        });
    }

    #[test]
    fn what_somebodys_file_asks_for_stays_with_what_goes_with_it() {
        in_new_namespace(|store| {
            let (switch, along) = ("net/ipv4/ip_forward", "net/ipv4/conf/lo/forwarding");
            let (other, proxy) = (SWITCHES[1].0, "net/ipv6/conf/all/proxy_ndp");
            let all = [switch, along, other, proxy];
            for key in all {
                sysctl::write(key, "0").unwrap();
            }
            for key in [switch, other, proxy] {
                set(&store, key, 1).unwrap();
            }
            // With a note of its own, because it was mended once.
            sysctl::write(along, "0").unwrap();
            set(&store, along, 1).unwrap();
            let asked = [
                (switch, "1"),
                (proxy, "0"),
                ("net/ipv4/tcp_syncookies", "1"),
            ];
            let asked = asked.map(|(key, value)| (key.to_owned(), value.to_owned()));
            restore_but(&store, &Vec::new(), &asked.into()).unwrap();
            assert_eq!(all.map(value), ["1", "1", "0", "0"]);
            assert!(keys(&store).unwrap().is_empty());
        });
    }

    #[test]
    fn what_somebody_set_since_stays() {
        in_new_namespace(|store| {
            sysctl::write("net/ipv4/ip_forward", "0").unwrap();
            sysctl::write(REDIRECTS, "0").unwrap();
            set(&store, "net/ipv4/ip_forward", 1).unwrap();
            sysctl::write(REDIRECTS, "1").unwrap();
            sysctl::write("net/ipv4/conf/lo/forwarding", "0").unwrap();
            restore_but(&store, &Vec::new(), &Asked::new()).unwrap();
            assert_eq!(value(REDIRECTS), "1");
            assert_eq!(value("net/ipv4/conf/lo/forwarding"), "0");
        });
    }

    #[test]
    fn what_an_interface_had_comes_back_after_it_was_renamed_there_and_back() {
        in_new_namespace(|store| {
            let ip = |arguments: &[&str]| {
                let done = std::process::Command::new("ip").args(arguments).status();
                assert!(done.unwrap().success(), "{arguments:?}");
            };
            let key = |name: &str| format!("net/ipv4/neigh/{name}/proxy_delay");
            let wishes = |name: &str| vec![(key(name), Wanted::Exactly(0))];
            ip(&["link", "add", "wan", "type", "bridge"]);
            let before = value(&key("wan"));
            assert_ne!(before, "0");
            set(&store, &key("wan"), 0).unwrap();
            ip(&["link", "set", "wan", "name", "other"]);
            assert!(!superfluous(&store, &wishes("other")).unwrap());
            note(&store, &[key("other")]).unwrap();
            restore_but(&store, &wishes("other"), &Asked::new()).unwrap();
            ip(&["link", "set", "other", "name", "wan"]);
            assert_eq!(value(&key("wan")), "0");
            assert!(!superfluous(&store, &wishes("wan")).unwrap());
            restore_but(&store, &Vec::new(), &Asked::new()).unwrap();
            assert_eq!(value(&key("wan")), before);
            assert!(!superfluous(&store, &Vec::new()).unwrap());
        });
    }

    #[test]
    fn a_limit_that_was_raised_further_stays() {
        for (key, now, is_raised) in [
            ("kernel/keys/maxkeys", "20000", false),
            ("kernel/keys/maxkeys", "20001", true),
            ("kernel/keys/maxkeys", "200", false),
            ("kernel/panic", "60", false),
            ("net/ipv4/ip_forward", "2", false),
        ] {
            assert_eq!(is_raised_further(key, now), is_raised, "{key} {now}");
        }
    }
}
