//! Sends raw frames and prints what arrives: the attacker in a guest, and the observers around it.

use std::{
    io::Write as _,
    os::fd::{AsRawFd, OwnedFd},
};

use acceptance_tests::frames::{from_hex, to_hex};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
        setsockopt, socket, sockopt,
    },
    unistd::Pid,
};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends each frame so many times, as hexadecimal digits.
    Send {
        /// The interface.
        interface: String,
        /// How often, all of them one after the other.
        #[arg(long, default_value_t = 1)]
        times: u32,
        /// The frames.
        frames: Vec<String>,
    },
    /// Prints every frame that comes in on an interface and holds these bytes, until it is killed.
    Sniff {
        /// The interface.
        interface: String,
        /// Hexadecimal digits; none for all frames.
        #[arg(long, default_value = "")]
        holding: String,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Send {
            interface,
            times,
            frames,
        } => send(&interface, times, &frames),
        Command::Sniff { interface, holding } => sniff(&interface, &holding),
    }
}

fn open() -> Result<OwnedFd> {
    socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("open a raw socket")
}

fn link(interface: &str) -> Result<LinkAddr> {
    getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .find_map(|found| found.address?.as_link_addr().copied())
        .with_context(|| format!("there is no interface {interface}"))
}

fn send(interface: &str, times: u32, frames: &[String]) -> Result<()> {
    let frames: Vec<Vec<u8>> = frames
        .iter()
        .map(|text| from_hex(text).with_context(|| format!("{text:?} is no frame")))
        .collect::<Result<_>>()?;
    let (socket, link) = (open()?, link(interface)?);
    stay_on_one_processor().context("stay on one processor")?;
    for _ in 0..times {
        for frame in &frames {
            sendto(socket.as_raw_fd(), frame, &link, MsgFlags::empty()).context("send a frame")?;
        }
    }
    println!("sent {} frames", frames.len() * times as usize);
    Ok(())
}

/// One processor takes the frames in the order in which they were sent. The first may not be ours.
fn stay_on_one_processor() -> Result<()> {
    let this = Pid::from_raw(0);
    let ours = sched_getaffinity(this)?;
    let mut first = None;
    for number in 0..CpuSet::count() {
        if ours.is_set(number)? {
            first = Some(number);
            break;
        }
    }
    let mut one = CpuSet::new();
    one.set(first.context("there is none")?)?;
    Ok(sched_setaffinity(this, &one)?)
}

fn sniff(interface: &str, holding: &str) -> Result<()> {
    const OUTGOING: u8 = 4;
    const ROOM: usize = 16 << 20;
    let holding = from_hex(holding).context("--holding wants hexadecimal digits")?;
    let (socket, link) = (open()?, link(interface)?);
    // Nothing is lost while a busy machine lets this wait.
    setsockopt(&socket, sockopt::RcvBufForce, &ROOM).context("make room for frames")?;
    // Whoever waits for it can begin.
    println!("listening");
    let mut buffer = vec![0; 65536];
    loop {
        let (length, from) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer)?;
        let from = from.context("a frame without an interface")?;
        let frame = &buffer[..length];
        let ours = from.ifindex() == link.ifindex() && from.pkttype() != OUTGOING;
        if ours && (holding.is_empty() || frame.windows(holding.len()).any(|part| part == holding))
        {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", to_hex(frame))?;
        }
    }
}
