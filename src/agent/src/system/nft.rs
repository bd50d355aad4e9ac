//! nftables, through nft(8): a ruleset goes in as one transaction, a listing comes out as JSON.

use netlink_sys::{Socket, SocketAddr};
use protocol::{Failure, FailureKind};
use serde_json::Value;

use crate::{command::Program, context::Context};

/// NETLINK_NETFILTER of linux/netlink.h
const NETLINK_NETFILTER: isize = 12;
/// NFNL_SUBSYS_NFTABLES and NFT_MSG_GETGEN of linux/netfilter/nf_tables.h
const GET_GENERATION: u16 = 10 << 8 | 16;

/// The number of the last change of any table of this network namespace, whoever made it: as long as it
/// stays, every listing stays. None where the kernel can't tell.
pub fn generation() -> Option<u32> {
    let socket = Socket::new(NETLINK_NETFILTER).ok()?;
    socket.connect(&SocketAddr::new(0, 0)).ok()?;
    // struct nlmsghdr with NLM_F_REQUEST, and an empty struct nfgenmsg.
    let mut request = [0_u8; 20];
    request[0] = 20;
    request[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    request[6] = 1;
    socket.send(&request, 0).ok()?;
    let mut answer = Vec::with_capacity(256);
    // The kernel has answered by now; anything else isn't waited for.
    socket.recv(&mut answer, libc::MSG_DONTWAIT).ok()?;
    parse_generation(&answer)
}

/// NFTA_GEN_ID, the first attribute of NFT_MSG_NEWGEN: a number in network order.
fn parse_generation(answer: &[u8]) -> Option<u32> {
    let is_new_generation = answer.get(4..6)? == (GET_GENERATION - 1).to_ne_bytes();
    let is_id = answer.get(20..24)? == [8_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat();
    let number = answer.get(24..28)?.try_into().ok()?;
    (is_new_generation && is_id).then(|| u32::from_be_bytes(number))
}

/// Applies commands, all or none.
pub async fn apply(context: &Context, commands: &str) -> Result<(), Failure> {
    Program::new("nft")
        .args(["-f", "-"])
        .input(commands)
        .run(context)
        .await
        .map(drop)
}

/// Applies commands in JSON, all or none. libnftables-json(5)
pub async fn apply_json(context: &Context, commands: &[Value]) -> Result<(), Failure> {
    Program::new("nft")
        .args(["-j", "-f", "-"])
        .input(serde_json::json!({ "nftables": commands }).to_string())
        .run(context)
        .await
        .map(drop)
}

/// Lists something as JSON: `table bridge nspawn_agent`; none when it isn't there, or nft isn't.
pub async fn list(context: &Context, what: &[&str]) -> Result<Option<Value>, Failure> {
    match listed(context, &[&["-j", "list"], what].concat()).await {
        Err(failure) if is_missing(&failure) => Ok(None),
        listed => listed.map(Some),
    }
}

/// Lists all rules, and no elements of sets that have a name: there may be hundreds of thousands. nft(8), --terse
///
/// A host of ours has nft: without it nobody knows what the rules are, which is not the same as none.
pub async fn list_rules(context: &Context) -> Result<Value, Failure> {
    listed(context, &["-j", "-t", "list", "ruleset"]).await
}

async fn listed(context: &Context, arguments: &[&str]) -> Result<Value, Failure> {
    let output = Program::new("nft")
        .args(arguments)
        .only_looking()
        .run(context)
        .await?;
    serde_json::from_slice(&output).map_err(|error| {
        Failure::new(
            FailureKind::Command,
            format!("nft {} gave no JSON: {error}", arguments.join(" ")),
        )
    })
}

fn is_missing(failure: &Failure) -> bool {
    let text = &failure.message;
    text.contains("No such file or directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a network namespace of a thread of its own; programs that it starts are in there, too.
    #[test]
    #[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
    fn every_change_of_a_table_has_a_number_of_its_own() {
        use rustix::thread::{UnshareFlags, unshare_unsafe};
        let thread = std::thread::spawn(|| {
            // SAFETY: CLONE_NEWNET leaves memory and descriptors as they are.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let nft = |command: &str| {
                let status = std::process::Command::new("nft").arg(command).status();
                assert!(status.unwrap().success(), "{command}");
                generation().unwrap()
            };
            let first = nft("add table inet somebody");
            assert_eq!(generation(), Some(first), "asking changes nothing");
            let listed = nft("list ruleset");
            assert_eq!(listed, first, "listing changes nothing");
            assert_eq!(nft("add table bridge another"), first + 1);
            let many = "table inet somebody; delete table inet somebody; table inet somebody { chain a { }; }";
            assert_eq!(nft(many), first + 2, "one transaction, one number");
        });
        thread.join().unwrap();
    }

    #[test]
    fn anything_else_is_no_number() {
        let mut answer = [0_u8; 28];
        answer[4..6].copy_from_slice(&(GET_GENERATION - 1).to_ne_bytes());
        answer[20..24].copy_from_slice(&[8, 0, 1, 0]);
        answer[27] = 7;
        assert_eq!(parse_generation(&answer), Some(7));
        for length in 0..28 {
            assert_eq!(parse_generation(&answer[..length]), None);
        }
        answer[4] = 2;
        assert_eq!(parse_generation(&answer), None);
    }
}
