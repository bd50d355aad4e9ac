use std::{fs, io::Write as _, path::PathBuf};

use super::*;
use crate::testing;

fn fifo(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
    path
}

/// Runs a program, and asks it to stop when it has written to a FIFO; gives the FIFO's reading end.
async fn stopped(program: Program, begun: PathBuf) -> (File, Failure) {
    testing::within(Duration::from_mins(1), async |context| {
        let cancel = context.cancel.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut file = File::open(begun).unwrap();
            file.read_exact(&mut [0]).unwrap();
            cancel.cancel();
            file
        });
        let failure = program.run(&context).await.unwrap_err();
        (reading.await.unwrap(), failure)
    })
    .await
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_contained_ends_with_all_that_it_started_and_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let (begun, below) = (fifo(&folder, "begun"), folder.path().join("below"));
    fs::create_dir(&below).unwrap();
    let script = "mount -t tmpfs none \"$1\" && exec 3> \"$0\" && \
                  { setsid sleep 600 > /dev/null 2>&1 & } && echo x >&3 && wait";
    let program = Program::contained("sh")
        .args(["-c", script])
        .args([&begun, &below]);
    let (mut read, failure) = stopped(program, begun).await;
    assert_eq!(failure.kind, FailureKind::Cancelled);
    // Nobody has its other end open any more.
    rustix::io::ioctl_fionbio(&read, true).unwrap();
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).unwrap();
    fs::remove_dir(&below).unwrap();
}

/// What the host unmounts would stay busy otherwise, as long as a build takes. `mount_namespaces(7)`
#[test]
#[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
fn what_is_contained_hears_what_the_host_unmounts() {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap().to_owned();
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread moves into the namespace.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        for arguments in [
            &["--make-rprivate", "/"][..],
            &["-t", "tmpfs", "none", &place],
            &["--make-shared", &place],
        ] {
            let mounted = std::process::Command::new("mount").args(arguments).status();
            assert!(mounted.unwrap().success(), "{arguments:?}");
        }
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let table = testing::within(Duration::from_mins(1), async |context| {
            let cat = Program::contained("cat").arg("/proc/self/mountinfo");
            cat.run(&context).await.unwrap()
        });
        let table = runtime.enable_all().build().unwrap().block_on(table);
        let table = String::from_utf8(table).unwrap();
        let mount = table.lines().find(|line| line.contains(&place)).unwrap();
        assert!(mount.contains(" master:"), "{mount}");
    });
    thread.join().unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn what_outlives_goes_on_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (begun, gate) = (fifo(&folder, "begun"), fifo(&folder, "gate"));
    let script = "exec 3> \"$0\"; echo x >&3; read line < \"$1\"; \
                  echo output && echo complaint >&2 && echo done >&3";
    let program = Program::new("sh")
        .args(["-c", script])
        .args([&begun, &gate])
        .outliving();
    let (mut read, failure) = stopped(program, begun).await;
    assert_eq!(failure.kind, FailureKind::Cancelled);
    // Opened so, and kept open, it waits for nobody.
    let gate = File::options().read(true).write(true).open(gate);
    let mut gate = gate.unwrap();
    gate.write_all(b"go on\n").unwrap();
    let mut rest = String::new();
    read.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "\ndone\n");
}

#[tokio::test(flavor = "current_thread")]
async fn what_outlives_gives_its_output_too() {
    let script = |end| {
        [
            "-c".to_owned(),
            format!("echo out; echo complaint >&2; exit {end}"),
        ]
    };
    let program = |end| Program::new("sh").args(script(end)).outliving();
    assert_eq!(program(0).run_unbounded().await.unwrap(), b"out\n");
    let failure = program(1).run_unbounded().await.unwrap_err();
    assert!(failure.message.ends_with("failed: complaint"), "{failure}");
}

#[tokio::test(flavor = "current_thread")]
async fn output_comes_back_and_a_failure_carries_the_complaint() {
    let output = Program::new("cat")
        .input("hello")
        .run_unbounded()
        .await
        .unwrap();
    assert_eq!(output, b"hello");
    let failure = Program::new("ls")
        .arg("/nonexistent-file")
        .run_unbounded()
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Command);
    assert!(failure.message.contains("/nonexistent-file"), "{failure}");
    assert_eq!(tail(b"tar: \x1b[2Jx\n"), "tar: \\u{1b}[2Jx");
}
