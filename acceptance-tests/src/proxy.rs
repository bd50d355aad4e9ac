//! A bad line: a TCP proxy in the operator's namespace that delays, cuts, stalls and trickles.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::net::connect_unspec;

use crate::namespace::Namespace;

/// What happens once a direction has carried a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Both directions end in good order.
    Close,
    /// Both sides get a reset.
    Reset,
    /// Nothing more is carried in either direction, and nobody is told.
    Stall,
    /// This direction goes on with so many bytes at once, and a pause of a millisecond after them.
    Trickle(usize),
}

/// What the line does to a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    /// How long each byte is on its way, in each direction.
    pub delay: Duration,
    /// What happens after so many bytes to the server.
    pub upwards: Option<(u64, Fault)>,
    /// What happens after so many bytes from the server.
    pub downwards: Option<(u64, Fault)>,
    /// The only connection that this happens to, counted from 1 since the line was set; without it, to all.
    pub only: Option<usize>,
}

/// What a connection has carried.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Bytes to the server and from it, each time that the direction changed, and at the end.
    pub turns: Vec<(u64, u64)>,
    upwards: Side,
    downwards: Side,
    last: Option<Way>,
}

/// One direction of a connection: how much, and its beginning.
#[derive(Debug, Clone, Default)]
struct Side {
    bytes: u64,
    beginning: Vec<u8>,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the server.
    Up,
    /// From the server.
    Down,
}

/// A listening proxy; new connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    line: Mutex<Line>,
    traffic: Mutex<Vec<Arc<Mutex<Traffic>>>>,
    /// How often a fault has come since the line was set.
    struck: Mutex<Arc<AtomicUsize>>,
    /// Whether new connections stall.
    freezing: AtomicBool,
    /// Whether each connection has stalled: then both its directions have.
    frozen: Mutex<Vec<Arc<AtomicBool>>>,
    /// What stays open, though nothing is carried any more.
    stalled: Mutex<Vec<TcpStream>>,
}

/// One direction of one connection.
struct Pump {
    shared: Arc<Shared>,
    traffic: Arc<Mutex<Traffic>>,
    way: Way,
    line: Line,
    fault: Option<(u64, Fault)>,
    struck: Arc<AtomicUsize>,
    /// Whether the connection has stalled.
    frozen: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on 127.0.0.1 in the namespace and passes connections on to the target.
    pub fn start(namespace: &Namespace, target: SocketAddr, line: Line) -> Result<Self> {
        let listener = namespace.listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            line: Mutex::new(line),
            traffic: Mutex::default(),
            struck: Mutex::default(),
            freezing: AtomicBool::new(false),
            frozen: Mutex::default(),
            stalled: Mutex::default(),
        });
        let (accepting, passed_on, namespace) = (
            listener.try_clone()?,
            Arc::clone(&shared),
            namespace.clone(),
        );
        std::thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                let Ok(server) = namespace.connect(passed_on.target, Duration::from_secs(10))
                else {
                    continue;
                };
                // A connection whose sockets can't be doubled is closed, as a bad line would.
                let _ = passed_on.carry(&client, &server);
            }
        });
        Ok(Self {
            address,
            listener,
            shared,
        })
    }

    /// Returns where to connect to, inside the namespace.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes the line another one for connections that are opened from now on, and counts anew.
    pub fn set(&self, line: Line) {
        let mut traffic = lock(&self.shared.traffic);
        traffic.clear();
        // Connections that were opened before go on counting in the former.
        *lock(&self.shared.struck) = Arc::default();
        *lock(&self.shared.line) = line;
    }

    /// Makes the line good for connections that are opened from now on; the delay stays.
    pub fn heal(&self) {
        let mut line = lock(&self.shared.line);
        *line = Line {
            delay: line.delay,
            ..Line::default()
        };
    }

    /// Stalls all connections, those that are open and those that are opened from now on.
    pub fn freeze(&self) {
        self.shared.freezing.store(true, Ordering::Release);
        for frozen in lock(&self.shared.frozen).iter() {
            frozen.store(true, Ordering::Release);
        }
    }

    /// Carries connections that are opened from now on; what was stalled stays so.
    pub fn thaw(&self) {
        self.shared.freezing.store(false, Ordering::Release);
    }

    /// Tells whether any connection came to the byte at which the line breaks, since it was set.
    pub fn has_struck(&self) -> bool {
        lock(&self.shared.struck).load(Ordering::Acquire) > 0
    }

    /// Returns how many connections were opened.
    pub fn connections(&self) -> usize {
        lock(&self.shared.traffic).len()
    }

    /// Returns how many bytes were carried, both directions together.
    pub fn bytes(&self) -> u64 {
        let traffic = lock(&self.shared.traffic);
        let both = |one: &Traffic| one.bytes(Way::Up) + one.bytes(Way::Down);
        traffic.iter().map(|one| both(&lock(one))).sum()
    }

    /// Returns what each connection has carried, in the order in which they were opened.
    pub fn traffic(&self) -> Vec<Traffic> {
        let traffic = lock(&self.shared.traffic);
        traffic.iter().map(|one| lock(one).clone()).collect()
    }

    /// Ends connections that have stalled, as a line does that is cut at last.
    pub fn end_stalled(&self) {
        for stream in lock(&self.shared.stalled).drain(..) {
            // Other threads hold the same socket. It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Ends the accept() that its thread waits in; there is none when that fails.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.end_stalled();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    /// Returns how many bytes were carried in a direction.
    pub fn bytes(&self, way: Way) -> u64 {
        self.side(way).bytes
    }

    /// Returns the byte in a direction at which SSH's handshake ends, its NEWKEYS packet: up to there all is plain text.
    pub fn handshake(&self, way: Way) -> Option<u64> {
        let bytes = &self.side(way).beginning;
        let mut at = bytes.iter().position(|byte| *byte == b'\n')? + 1;
        loop {
            let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
            at += 4 + usize::try_from(u32::from_be_bytes(*length)).ok()?;
            // After the length comes that of the padding, then the message's number: RFC 4253, 6 and 12.
            if *rest.get(1)? == 21 {
                return u64::try_from(at).ok();
            }
        }
    }

    fn side(&self, way: Way) -> &Side {
        match way {
            Way::Up => &self.upwards,
            Way::Down => &self.downwards,
        }
    }

    fn add(&mut self, way: Way, bytes: &[u8]) {
        let side = match way {
            Way::Up => &mut self.upwards,
            Way::Down => &mut self.downwards,
        };
        side.bytes += bytes.len() as u64;
        let missing = (16 * 1024_usize).saturating_sub(side.beginning.len());
        side.beginning
            .extend_from_slice(&bytes[..missing.min(bytes.len())]);
        let now = (self.upwards.bytes, self.downwards.bytes);
        match self.turns.last_mut() {
            Some(turn) if self.last == Some(way) => *turn = now,
            _ => self.turns.push(now),
        }
        self.last = Some(way);
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) -> Result<()> {
        let counted = Arc::<Mutex<Traffic>>::default();
        let number = {
            let mut traffic = lock(&self.traffic);
            traffic.push(Arc::clone(&counted));
            traffic.len()
        };
        let mut line = *lock(&self.line);
        if line.only.is_some_and(|only| only != number) {
            (line.upwards, line.downwards) = (None, None);
        }
        let frozen = Arc::<AtomicBool>::default();
        lock(&self.frozen).push(Arc::clone(&frozen));
        frozen.fetch_or(self.freezing.load(Ordering::Acquire), Ordering::AcqRel);
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        for (from, to, way, fault) in [
            (client, server, Way::Up, line.upwards),
            (server, client, Way::Down, line.downwards),
        ] {
            let pump = Pump {
                shared: Arc::clone(self),
                traffic: Arc::clone(&counted),
                way,
                line,
                fault,
                struck: Arc::clone(&lock(&self.struck)),
                frozen: Arc::clone(&frozen),
            };
            pump.start(from.try_clone()?, to.try_clone()?);
        }
        Ok(())
    }
}

impl Pump {
    /// Carries one direction: a thread reads and notes the time, another writes when it has come.
    fn start(self, mut from: TcpStream, to: TcpStream) {
        let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(1024);
        let reader = from.try_clone();
        std::thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = from.read(&mut chunk) {
                if sender
                    .send((Instant::now(), chunk[..length].to_vec()))
                    .is_err()
                {
                    break;
                }
            }
        });
        std::thread::spawn(move || {
            let Ok(reader) = reader else { return };
            self.write_out(&receiver, &reader, to);
        });
    }

    fn write_out(
        mut self,
        receiver: &mpsc::Receiver<(Instant, Vec<u8>)>,
        from: &TcpStream,
        mut to: TcpStream,
    ) {
        for (read_at, chunk) in receiver {
            std::thread::sleep(
                (read_at + self.line.delay).saturating_duration_since(Instant::now()),
            );
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let (piece, cut) = self.next_piece(rest);
                if self.frozen.load(Ordering::Acquire) {
                    return self.stay_silent(receiver, to);
                }
                if to.write_all(piece).is_err() {
                    // Takes no more; whoever writes is told so.
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
                self.count(piece);
                rest = &rest[piece.len()..];
                self.struck
                    .fetch_add(usize::from(cut.is_some()), Ordering::AcqRel);
                match cut {
                    Some(Fault::Stall) => return self.stay_silent(receiver, to),
                    Some(fault @ (Fault::Close | Fault::Reset)) => {
                        return break_line(fault, from, &to);
                    }
                    Some(Fault::Trickle(_)) => std::thread::sleep(Duration::from_millis(1)),
                    None => {}
                }
            }
        }
        if self.frozen.load(Ordering::Acquire) {
            return self.stay_silent(receiver, to);
        }
        // The end of one direction; the other may go on. It may be closed already.
        let _ = to.shutdown(Shutdown::Write);
    }

    /// What is carried next of these bytes, and the fault that has come with it.
    fn next_piece<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], Option<Fault>) {
        let Some((left, fault)) = self.fault else {
            return (bytes, None);
        };
        let until = usize::try_from(left).unwrap_or(usize::MAX);
        match fault {
            _ if until > bytes.len() => (bytes, None),
            Fault::Trickle(at_once) if until == 0 => {
                (&bytes[..at_once.clamp(1, bytes.len())], Some(fault))
            }
            fault => (&bytes[..until], Some(fault)),
        }
    }

    fn count(&mut self, piece: &[u8]) {
        if let Some((left, _)) = &mut self.fault {
            *left -= (piece.len() as u64).min(*left);
        }
        lock(&self.traffic).add(self.way, piece);
    }

    /// Takes what still comes, so that the sender notices nothing, and keeps the receiver's end open.
    fn stay_silent(&self, receiver: &mpsc::Receiver<(Instant, Vec<u8>)>, to: TcpStream) {
        self.frozen.store(true, Ordering::Release);
        lock(&self.shared.stalled).push(to);
        receiver.iter().for_each(drop);
    }
}

fn break_line(fault: Fault, from: &TcpStream, to: &TcpStream) {
    for stream in [from, to] {
        // One side may be closed already. Dissolving the association sends a reset at once,
        // whoever else holds the socket (tcp(7), connect(2): AF_UNSPEC).
        let _ = if fault == Fault::Reset {
            connect_unspec(stream).map_err(Into::into)
        } else {
            stream.shutdown(Shutdown::Both)
        };
    }
}
