//! Freezes a folder, as a hostile guest does: lists it into memory that lies in a file of a FUSE daemon which
//! never answers. Its lock is held meanwhile, and whoever looks a name up there waits with it, beyond SIGKILL.
//!
//! Only in an overlay: most other file systems share that lock between readers. fs/overlayfs/readdir.c

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    mem::MaybeUninit,
    os::fd::AsRawFd as _,
    path::Path,
    process::{Command, Stdio},
    ptr, slice,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::RawDir,
    mm::{MapFlags, ProtFlags, mmap},
    mount::{MountFlags, mount},
};

/// Where the daemon's own file system is.
const MOUNT: &str = "/run/freeze";
/// What is said once the kernel waits for the page.
const FROZEN: &str = "frozen";
/// Its only file, of one page.
const FILE: &str = "page";
const PAGE: usize = 4096;

/// What the daemon calls its root, as the protocol has it, and its file.
const ROOT_NODE: u64 = 1;
const FILE_NODE: u64 = 2;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", folder] => serve(folder),
        ["list", folder] => list(folder),
        [folder] => freeze(folder),
        _ => bail!("usage: freeze FOLDER"),
    }
}

/// Ends once the folder is frozen, for as long as two processes that it leaves behind live.
fn freeze(folder: &str) -> Result<()> {
    let mut server = Command::new("/proc/self/exe")
        .args(["serve", folder])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = server.stdout.take().context("its output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line.trim() == FROZEN, "{folder} could not be frozen");
    Ok(())
}

/// Serves the file system, has another process list the folder into it, and says when that has begun.
fn serve(folder: &str) -> Result<()> {
    std::fs::create_dir_all(MOUNT)?;
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .context("open /dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        device.as_raw_fd()
    );
    let options = std::ffi::CString::new(options)?;
    mount(
        "freeze",
        MOUNT,
        "fuse",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .context("mount it")?;
    Command::new("/proc/self/exe")
        .args(["list", folder])
        .spawn()?;
    let mut request = vec![0; 1 << 20];
    loop {
        let length = device.read(&mut request)?;
        let request = Request::parse(&request[..length]).context("a short request")?;
        match request.answer() {
            // Nobody listens after the first time.
            Answer::Never => drop(writeln!(io::stdout(), "{FROZEN}")),
            Answer::None => {}
            Answer::Error(number) => reply(&mut device, request.unique, -number, &[])?,
            Answer::Body(body) => reply(&mut device, request.unique, 0, &body)?,
        }
    }
}

fn reply(device: &mut File, unique: u64, error: i32, body: &[u8]) -> Result<()> {
    let length = u32::try_from(16 + body.len())?;
    let header = [
        &length.to_ne_bytes()[..],
        &error.to_ne_bytes(),
        &unique.to_ne_bytes(),
    ]
    .concat();
    device
        .write_all(&[&header, body].concat())
        .context("answer")
}

/// One request of the kernel. struct fuse_in_header of linux/fuse.h
struct Request {
    operation: u32,
    unique: u64,
    node: u64,
}

enum Answer {
    Body(Vec<u8>),
    Error(i32),
    None,
    Never,
}

impl Request {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self {
            operation: u32::from_ne_bytes(*bytes.get(4..)?.first_chunk()?),
            unique: number(8)?,
            node: number(16)?,
        })
    }

    /// The numbers are those of enum fuse_opcode, and the bodies the structures there.
    fn answer(&self) -> Answer {
        const NO_SUCH_CALL: i32 = 38;
        match self.operation {
            LOOKUP => Answer::Body(words(&[FILE_NODE, 0, 0, 0, 0], &attributes(FILE_NODE))),
            GETATTR => Answer::Body(words(&[0, 0], &attributes(self.node))),
            OPEN => Answer::Body(words(&[0, 0], &[])),
            READ => Answer::Never,
            FORGET => Answer::None,
            // Version 7.31, no flags, writes of a page.
            INIT => Answer::Body(words(
                &[],
                &[7, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            )),
            _ => Answer::Error(NO_SUCH_CALL),
        }
    }
}

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;

fn words(long: &[u64], short: &[u32]) -> Vec<u8> {
    let long = long.iter().flat_map(|word| word.to_ne_bytes());
    long.chain(short.iter().flat_map(|word| word.to_ne_bytes()))
        .collect()
}

/// struct fuse_attr: six long words and ten short ones.
fn attributes(node: u64) -> [u32; 22] {
    let (mode, size) = if node == ROOT_NODE {
        (0o40755, 0)
    } else {
        (0o100_644, 4096)
    };
    let mut attributes = [0; 22];
    attributes[0] = 1 + u32::from(node == FILE_NODE);
    attributes[2] = size;
    attributes[15] = mode;
    attributes[16] = 1;
    attributes
}

/// Lists a folder into the daemon's page: the kernel holds the folder's lock while it copies there.
fn list(folder: &str) -> Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(Path::new(MOUNT).join(FILE))
        .context("open the page")?;
    let folder = File::open(folder)?;
    #[allow(unsafe_code, reason = "mmap(2)")]
    // SAFETY: nothing else knows of this page.
    let page = unsafe {
        let page = mmap(
            ptr::null_mut(),
            PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
            &file,
            0,
        )?;
        slice::from_raw_parts_mut(page.cast::<MaybeUninit<u8>>(), PAGE)
    };
    ensure!(RawDir::new(&folder, page).next().is_none(), "it was listed");
    Ok(())
}
