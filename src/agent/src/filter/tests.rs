use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use super::*;
use crate::testing::{in_folder, within};

fn guests() -> Elements {
    let mut elements = Elements::default();
    elements.admit(
        "vb-web",
        [2, 0, 0, 0, 0, 1],
        &[
            "203.0.113.2/32".parse().unwrap(),
            "2001:db8:1:5::/80".parse().unwrap(),
        ],
    );
    let on_link = ["10.0.0.0/24", "2001:db8:1::/64"].map(|net| net.parse().unwrap());
    elements.limit("br0", &on_link);
    elements
}

#[test]
fn only_the_difference_is_applied() {
    let (none, web) = (Elements::default(), guests());
    assert_eq!(web.added_to(&web), "");
    assert_eq!(web.removed_from(&none), "");
    assert!(
        web.added_to(&none)
            .contains("add element inet nspawn_agent on_link4 { 10.0.0.0/24 }")
    );
    let mut two = web.clone();
    two.admit("vb-db", [2, 0, 0, 0, 0, 2], &[]);
    let added = two.added_to(&web);
    assert!(
        added.contains("vb-db") && !added.contains("vb-web"),
        "{added}"
    );
    assert!(
        web.removed_from(&two)
            .contains("delete element bridge nspawn_agent ports { \"vb-db\" }")
    );
    assert!(web.has_port("vb-web") && !web.has_port("vb-db"));
}

#[test]
fn a_listing_is_the_same_whatever_the_order() {
    let listing = |elements: [&str; 2], handle: u32, policy: &str| json!({"nftables": [{"set": {"handle": handle, "elem": elements}}, {"chain": {"policy": policy}}]});
    let first = digest(&listing(["a", "b"], 1, "accept"));
    assert_eq!(first, digest(&listing(["b", "a"], 2, "accept")));
    assert_ne!(first, digest(&listing(["b", "c"], 1, "accept")));
    assert_ne!(first, digest(&listing(["a", "b"], 1, "drop")));
}

#[test]
fn a_listing_is_the_same_whatever_packets_put_into_sets() {
    let listing = |timeout: Option<u32>, elements: &[&str]| {
        let mut set = json!({"name": "asked4", "elem": elements});
        if let Some(timeout) = timeout {
            set["timeout"] = timeout.into();
        }
        digest(&json!({"nftables": [{"set": set}]}))
    };
    assert_eq!(listing(Some(10), &["a"]), listing(Some(10), &["b", "c"]));
    assert_ne!(listing(Some(10), &["a"]), listing(Some(11), &["a"]));
    assert_ne!(listing(None, &["a"]), listing(None, &["b"]));
}

/// The real nft takes the table and its changes, in a network namespace of its own.
#[test]
fn nft_takes_it() {
    let (none, web) = (Elements::default(), guests());
    let commands = format!(
        "{}{}{}{}",
        table::text(),
        web.added_to(&none),
        none.removed_from(&web),
        web.added_to(&none)
    );
    let mut child = Command::new("unshare")
        .args(["--net", "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(commands.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// In a network namespace of a thread of its own; programs that it starts are in there, too.
#[test]
#[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
fn whoever_finds_another_listing_has_it_made_anew() {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    const TIME: Duration = Duration::from_secs(30);
    let work = async |context: Context| {
        let folder = tempfile::tempdir().unwrap();
        let resident = in_folder(context, folder.path());
        let elements = guests();
        load(&resident, whole(&elements), &elements).await.unwrap();
        assert!(observe(&resident).await.unwrap().in_force().is_some());
        // As if a former nft had listed it, and another is installed by now.
        if let Some(listed) = resident.filter_listed.borrow_mut().as_mut() {
            listed.digest = Some("former".to_owned());
        }
        note(&resident, &elements, "former".to_owned()).unwrap();
        assert!(observe(&resident).await.unwrap().in_force().is_some());
        let mut start = resident.clone();
        start.filter_listed = std::rc::Rc::default();
        assert!(observe(&start).await.unwrap().in_force().is_none());
        ask_for_listing(&start).unwrap();
        assert!(observe(&resident).await.unwrap().in_force().is_none());
        load(&resident, whole(&elements), &elements).await.unwrap();
        assert!(observe(&resident).await.unwrap().in_force().is_some());
        assert!(observe(&start).await.unwrap().in_force().is_some());
        files::remove_file(&loaded_path(&start)).unwrap();
        ask_for_listing(&start).unwrap();
        assert!(!loaded_path(&start).exists());
    };
    let thread = std::thread::spawn(move || {
        // SAFETY: CLONE_NEWNET leaves memory and descriptors as they are.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(within(TIME, work));
    });
    thread.join().unwrap();
}
