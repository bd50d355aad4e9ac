//! What carries a connection through a bastion, with a command of a real sshd in place of the forwarded connection.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{session, ssh_config, transport::Bridge, wake::Wake},
    server::Server,
};

/// Carries what a command echoes, and counts the turns that it took.
fn turns(server: &Server, command: &str) -> usize {
    let credentials = server.credentials();
    let hops = ssh_config::route(&server.target(), &credentials).unwrap();
    let wake = Arc::new(Wake::new().unwrap());
    let mut ssh = session::open(&hops, &credentials, &wake).unwrap().ssh;
    let deadline = Instant::now() + Duration::from_secs(10);
    let channel = ssh.step(deadline, |session| session.channel_session());
    let mut channel = channel.unwrap();
    ssh.step(deadline, |_| channel.exec(command)).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut bridge = Bridge::new(ssh, channel, theirs).unwrap();
    let carrying = thread::spawn(move || {
        let mut turns = 0;
        while let Ok(true) = bridge.turn() {
            turns += 1;
        }
        turns
    });
    ours.write_all(b"carried").unwrap();
    let mut echo = [0; 7];
    ours.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"carried");
    drop(ours);
    carrying.join().unwrap()
}

#[test]
fn what_a_bastion_says_beside_the_connection_keeps_nobody_busy() {
    let server = Server::new();
    let turns = turns(&server, "echo beside >&2; sleep 1; cat");
    assert!(turns < 100, "{turns}");
}
