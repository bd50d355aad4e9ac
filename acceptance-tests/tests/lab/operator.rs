//! What is on the operator's side: Terraform, and what watches or breaks the line to a host.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use acceptance_tests::{
    Hosts, Lab, Terraform,
    command::wait_until,
    probe::Probe,
    proxy::{Fault, Line, Proxy},
};
use anyhow::{Result, ensure};
use rustix::process::Signal;

#[test]
fn a_probe_sees_when_ssh_is_interrupted() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let pause = Duration::from_millis(200);
    let probe = Probe::start(lab.vps1(), pause)?;
    wait_until("the probe has worked", Duration::from_mins(1), || {
        let seen = probe.seen();
        ensure!(seen.echoes > 3 && seen.logins > 3, "{seen:?}");
        Ok(())
    })?;
    probe.finish()?;
    let probe = Probe::start(lab.vps1(), pause)?;
    lab.vps1().root("systemctl stop ssh.service ssh.socket")?;
    wait_until("the probe has noticed", Duration::from_mins(1), || {
        ensure!(!probe.seen().failures.is_empty(), "it has seen no failure");
        Ok(())
    })?;
    assert!(probe.finish().is_err());
    Ok(())
}

#[test]
fn a_proxy_delays_cuts_and_stalls() -> Result<()> {
    let lab = Lab::start(Hosts(Vec::new()))?;
    let listener = lab.client().listen(SocketAddr::from(([127, 0, 0, 1], 9)))?;
    let target = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut from = stream.try_clone().expect("a socket can be doubled");
            std::thread::spawn(move || std::io::copy(&mut from, &mut &stream));
        }
    });
    let through = |line: Line| -> Result<(std::io::Result<String>, Duration)> {
        let proxy = Proxy::start(lab.client(), target, line)?;
        let mut stream = lab
            .client()
            .connect(proxy.address(), Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let start = Instant::now();
        stream.write_all(b"0123456789")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = [0; 16];
        let mut length = 0;
        let end = loop {
            match stream.read(&mut answer[length..]) {
                Ok(0) => break Ok(()),
                Ok(more) => length += more,
                Err(error) => break Err(error),
            }
        };
        let breaks = line.upwards.or(line.downwards).is_some();
        ensure!(proxy.has_struck() == breaks, "{line:?}");
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        Ok((end.map(|()| text), start.elapsed()))
    };
    let delay = Duration::from_millis(50);
    let (text, took) = through(Line {
        delay,
        ..Line::default()
    })?;
    assert_eq!(text?, "0123456789");
    assert!(took >= delay * 2, "{took:?}");
    assert_eq!(
        through(Line {
            upwards: Some((2, Fault::Trickle(1))),
            ..Line::default()
        })?
        .0?,
        "0123456789"
    );
    assert_eq!(
        through(Line {
            downwards: Some((4, Fault::Close)),
            ..Line::default()
        })?
        .0?,
        "0123"
    );
    let reset = through(Line {
        upwards: Some((4, Fault::Reset)),
        ..Line::default()
    })?
    .0;
    assert_eq!(
        reset.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    let stalled = through(Line {
        downwards: Some((4, Fault::Stall)),
        ..Line::default()
    })?
    .0;
    assert_eq!(stalled.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    Ok(())
}

#[test]
fn terraform_runs_in_the_operators_network() -> Result<()> {
    let lab = Lab::start(Hosts(Vec::new()))?;
    let terraform = Terraform::create(
        lab.folder(),
        lab.client(),
        Path::new(env!("CARGO_BIN_EXE_lab")),
    )?;
    let configuration = |script: &str| {
        format!(
            "resource \"terraform_data\" \"x\" {{\n  input = \"{script}\"\n  \
             provisioner \"local-exec\" {{ command = \"{script}\" }}\n}}\n"
        )
    };
    terraform.configure(&configuration("ip -br addr show dev eth0"))?;
    assert!(terraform.apply()?.contains("198.51.100.2/24"));
    terraform.assert_plan_is_empty()?;
    let values = terraform.resource("terraform_data.x")?;
    assert_eq!(values["output"], "ip -br addr show dev eth0");
    terraform.forget("terraform_data.x")?;
    assert!(terraform.assert_plan_is_empty().is_err());
    terraform.configure(&configuration("echo it has begun; sleep 60"))?;
    let mut run = terraform.start(&["apply", "-auto-approve"])?;
    wait_until("the apply is in the middle", Duration::from_mins(1), || {
        ensure!(
            run.printed().contains("): it has begun"),
            "{}",
            run.printed()
        );
        Ok(())
    })?;
    assert!(run.is_running());
    run.signal(Signal::INT)?;
    let output = run.wait(Duration::from_mins(1))?;
    assert!(
        !output.success() && output.stdout.contains("Interrupt received"),
        "{output:?}"
    );
    terraform.destroy()?;
    assert!(terraform.resource("terraform_data.x").is_err());
    terraform.configure("resource \"nonsense\" {")?;
    assert!(terraform.plan_fails()?.contains("Error:"));
    Ok(())
}
