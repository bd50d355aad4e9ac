use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::task::JoinSet;

use super::*;

#[tokio::test(flavor = "current_thread")]
async fn the_second_waits_and_says_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let soon = || Instant::now() + Duration::from_millis(60);
    let take = |holder| HostLock::take_at(&path, holder, soon(), INTERVAL, || Ok(()));
    let first = take("alice@laptop").await.unwrap();
    let failure = take("bob@ci").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Busy);
    assert!(failure.message.contains("alice@laptop"), "{failure}");
    drop(first);
    take("bob@ci").await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_lock_that_went_with_its_host_is_not_taken_for_the_new_one() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("run/lock");
    let end = Instant::now() + Duration::from_secs(20);
    let take = |holder| HostLock::take_at(&path, holder, end, INTERVAL, || Ok(()));
    let leaving = take("leaving").await.unwrap();
    let leave = async {
        tokio::task::yield_now().await;
        fs::remove_dir_all(top.path().join("run")).unwrap();
        drop(leaving);
    };
    let (_next, ()) = tokio::join!(async { take("next").await.unwrap() }, leave);
    assert!(Presence::is_shown(&path), "a third one would get in, too");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn whoever_is_in_haste_does_not_wait_for_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let end = Instant::now() + Duration::from_mins(1);
    let turns = Arc::new(AtomicU32::new(0));
    // Another run's changes, one after the other on each of its ten ways.
    let mut others = JoinSet::new();
    for number in 0..10 {
        let (path, turns) = (path.clone(), Arc::clone(&turns));
        others.spawn(async move {
            sleep(Duration::from_millis(2 * number)).await;
            loop {
                let lock = HostLock::take_at(&path, "other", end, INTERVAL, || Ok(()));
                let lock = lock.await.unwrap();
                turns.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(31)).await;
                drop(lock);
                sleep(Duration::from_millis(5)).await;
            }
        });
    }
    sleep(Duration::from_millis(200)).await;
    let before = turns.load(Ordering::Relaxed);
    let lock = HostLock::take_at(&path, "hasty", end, HASTY_INTERVAL, || Ok(()));
    lock.await.unwrap();
    let waited = turns.load(Ordering::Relaxed) - before;
    assert!(waited <= 1, "{waited} others had their turn first");
}

#[test]
fn a_folder_that_was_replaced_meanwhile_is_not_locked() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("folder");
    fs::create_dir(&path).unwrap();
    let first = try_folder(&path).unwrap().unwrap();
    assert!(try_folder(&path).unwrap().is_none(), "it is taken");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| wait_for_folder(&path));
        let inode = first.metadata().unwrap().ino();
        let waits = |line: &str| line.contains("->") && line.contains(&format!(":{inode} "));
        while !fs::read_to_string("/proc/locks")
            .unwrap()
            .lines()
            .any(waits)
        {
            std::thread::yield_now();
        }
        fs::remove_dir(&path).unwrap();
        fs::create_dir(&path).unwrap();
        drop(first);
        assert!(waiting.join().unwrap().unwrap().is_none());
    });
    assert!(try_folder(&path).unwrap().is_some());
}

#[test]
fn the_file_of_somebody_who_came_back_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session");
    drop(Presence::show(&path, || Ok(())).unwrap());
    let file = File::open(&path).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(Presence::clear_locked(&path, &file).unwrap());
    let _back = Presence::show(&path, || Ok(())).unwrap();
    assert!(!Presence::clear_locked(&path, &file).unwrap());
    assert!(Presence::is_shown(&path));
}

#[test]
fn a_lock_is_read_from_what_the_kernel_says_of_a_descriptor() {
    let about = "pos:\t0\nflags:\t02100000\nlock:\t1: FLOCK  ADVISORY  WRITE 12 00:1a:77 0 EOF\n\
                 lock:\t2: POSIX  ADVISORY  WRITE 12 00:1a:78 0 EOF\n";
    assert!(tells_of_lock(about, (0, 0x1a), 77));
    assert!(!tells_of_lock(about, (0, 0x1a), 78), "no flock(2)");
    assert!(!tells_of_lock(about, (1, 0x1a), 77));
}

#[test]
fn only_a_holder_of_ours_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let mut holder = std::process::Command::new("flock")
        .args(["--no-fork", "--exclusive"])
        .arg(&path)
        .args(["sleep", "60"])
        .spawn()
        .unwrap();
    while !Presence::is_shown(&path) {
        std::thread::yield_now();
    }
    assert_eq!(end_processes_when(&path, |_| false).unwrap(), 0);
    assert!(Presence::is_shown(&path));
    assert_eq!(end_processes_when(&path, |_| true).unwrap(), 1);
    assert!(!holder.wait().unwrap().success());
    assert!(!Presence::is_shown(&path));
}

#[test]
fn what_cant_be_opened_may_be_somebodys() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!Presence::is_shown(&folder.path().join("gone")));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Presence::is_shown(&file.join("beneath")));
    Presence::clear(&file.join("beneath")).unwrap_err();
}

#[test]
fn a_full_disk_keeps_nobody_from_the_lock() {
    crate::testing::on_small_disk(|folder| {
        let path = folder.join("lock");
        crate::testing::fill(folder);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let soon = || Instant::now() + Duration::from_millis(60);
            let take = |holder| HostLock::take_at(&path, holder, soon(), INTERVAL, || Ok(()));
            let _first = take("alice@laptop").await.unwrap();
            let failure = take("bob@ci").await.unwrap_err();
            assert!(failure.message.ends_with("by somebody"), "{failure}");
        });
    });
}
