//! A bad line: a TCP proxy in the operator's namespace that delays, cuts, stalls and trickles.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
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
    /// Nothing more is carried, and nobody is told.
    Stall,
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
    /// How many bytes are carried at once, with a pause of a millisecond after them.
    pub trickle: Option<usize>,
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
    line: Line,
    healed: AtomicBool,
    connections: AtomicUsize,
    bytes: AtomicU64,
    /// What stays open, though nothing is carried any more.
    stalled: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens on 127.0.0.1 in the namespace and passes connections on to the target.
    pub fn start(namespace: &Namespace, target: SocketAddr, line: Line) -> Result<Self> {
        let listener = namespace.listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            line,
            healed: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            stalled: Mutex::default(),
        });
        let (accepting, passed_on, namespace) = (
            listener.try_clone()?,
            Arc::clone(&shared),
            namespace.clone(),
        );
        std::thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                passed_on.connections.fetch_add(1, Ordering::Relaxed);
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

    /// Makes the line good for connections that are opened from now on; the delay stays.
    pub fn heal(&self) {
        self.shared.healed.store(true, Ordering::Relaxed);
    }

    /// Returns how many connections were opened.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Returns how many bytes were carried, both directions together.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Ends the accept() that its thread waits in; there is none when that fails.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.shared
            .stalled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) -> Result<()> {
        let healed = self.healed.load(Ordering::Relaxed);
        let faults = if healed {
            (None, None)
        } else {
            (self.line.upwards, self.line.downwards)
        };
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        self.pump(client.try_clone()?, server.try_clone()?, faults.0);
        self.pump(server.try_clone()?, client.try_clone()?, faults.1);
        Ok(())
    }

    /// Carries one direction: a thread reads and notes the time, another writes when it has come.
    fn pump(self: &Arc<Self>, mut from: TcpStream, to: TcpStream, fault: Option<(u64, Fault)>) {
        let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(1024);
        let at_once = self.line.trickle.unwrap_or(64 * 1024);
        let reader = from.try_clone();
        std::thread::spawn(move || {
            let mut chunk = vec![0; at_once];
            while let Ok(length @ 1..) = from.read(&mut chunk) {
                if sender
                    .send((Instant::now(), chunk[..length].to_vec()))
                    .is_err()
                {
                    break;
                }
            }
        });
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let Ok(reader) = reader else { return };
            shared.write_out(&receiver, &reader, to, fault);
        });
    }

    fn write_out(
        &self,
        receiver: &mpsc::Receiver<(Instant, Vec<u8>)>,
        from: &TcpStream,
        mut to: TcpStream,
        fault: Option<(u64, Fault)>,
    ) {
        let mut left = fault.map_or(u64::MAX, |(bytes, _)| bytes);
        for (read_at, mut chunk) in receiver {
            std::thread::sleep(
                (read_at + self.line.delay).saturating_duration_since(Instant::now()),
            );
            let allowed = usize::try_from(left).unwrap_or(usize::MAX);
            let cut = chunk.len() >= allowed;
            chunk.truncate(allowed);
            if to.write_all(&chunk).is_err() {
                break;
            }
            let length = chunk.len() as u64;
            left -= length;
            self.bytes.fetch_add(length, Ordering::Relaxed);
            match fault {
                Some((_, Fault::Stall)) if cut => {
                    self.stalled
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(to);
                    // Takes what still comes, so that the sender notices nothing.
                    receiver.iter().for_each(drop);
                    return;
                }
                Some((_, fault)) if cut => return break_line(fault, from, &to),
                _ => {}
            }
            if self.line.trickle.is_some() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // The end of one direction; the other may go on. It may be closed already.
        let _ = to.shutdown(Shutdown::Write);
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
