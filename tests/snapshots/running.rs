//! Snapshots of vessels in which commands run.
#![forbid(unsafe_code)]

use std::process::Stdio;
use std::time::Duration;

use vesselrt::{ErrorKind, ExecOptions, Running, SnapshotMode, SnapshotOptions, Vessel};

use crate::testkit::random::Random;
use crate::testkit::{Store, fails, fails_with, sh, sh_ephemeral, tests, tests_on_each_driver, until};

tests_on_each_driver!(a_command_that_writes_is_snapshotted_while_it_runs);

tests!(
    a_process_that_writes_pairs_is_snapshotted_fifty_times,
    a_pause_that_would_be_too_long_ends,
    commands_go_on_when_whoever_asked_is_killed,
    a_command_that_leaves_nothing_behind_does_not_hinder,
    what_others_ask_waits_for_the_copy,
    a_running_command_refuses_a_restore,
);

async fn spawn(vessel: &Vessel, script: &str) -> Running {
    vessel.spawn(ExecOptions::new(["sh", "-c", script]).persist_result(true)).await.unwrap()
}

/// How far a command that counts is.
async fn count(vessel: &Vessel, file: &str) -> u64 {
    let text = String::from_utf8(vessel.read_file(file).await.unwrap_or_default()).unwrap();
    text.lines().filter(|line| !line.is_empty()).count() as u64
}

async fn goes_on(vessel: &Vessel, file: &str) {
    let before = count(vessel, file).await;
    until("the command goes on", async || count(vessel, file).await > before + 2).await;
}

async fn a_command_that_writes_is_snapshotted_while_it_runs(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "rm -r /etc/motd; mkdir d; ln -s d l; echo x > d/f; ln d/f d/g").await;
    let base = vessel.create_snapshot("base").await.unwrap();
    sh(&vessel, "rm d/g; mkdir -p e/e; mkfifo e/p; setfattr -n user.k -v v e 2>/dev/null; chmod 4751 e/e")
        .await;
    let running = spawn(&vessel, "while :; do echo x >> n; done").await;
    goes_on(&vessel, "n").await;
    let fast = vessel.create_snapshot_with(SnapshotOptions::new("fast").sealed()).await.unwrap();
    let durable = vessel.create_snapshot("durable").await.unwrap();
    assert!(durable.is_stored());
    for made in [&fast, &durable] {
        assert_eq!(made.parent_id, base.id);
        assert!(matches!(made.mode, Some(SnapshotMode::Copied | SnapshotMode::Reflinked)), "{made:?}");
        assert!(made.pause_ms.is_some());
    }
    assert_eq!(vessel.manifest().current_snapshot_id, base.id, "it is based on what it was");
    goes_on(&vessel, "n").await;
    drop(running);
    until("it is gone", async || vessel.restore_snapshot(&base.id).await.is_ok()).await;
    assert_eq!(sh(&vessel, "ls d").await, "f\ng\n");
    let look = "ls -ld e/e | cut -c1-10; ls d; [ -e /etc/motd ] || echo gone; [ -p e/p ] && cat l/f";
    for made in [&fast, &durable] {
        vessel.restore_snapshot(&made.id).await.unwrap();
        assert_eq!(sh(&vessel, look).await, "drwsr-x--x\nf\ngone\nx\n");
    }
    vessel.close().await.unwrap();
    manager.wait_snapshot(vessel.id(), None).await.unwrap();
    crate::persistence::wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    for made in [&durable, &fast] {
        vessel.restore_snapshot(&made.id).await.unwrap();
        assert_eq!(sh(&vessel, look).await, "drwsr-x--x\nf\ngone\nx\n");
    }
    vessel.close().await.unwrap();
}

async fn a_process_that_writes_pairs_is_snapshotted_fifty_times(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    // A copy takes a while, whichever of the two it meets first: without a standstill they would differ by more.
    sh(&vessel, "mkdir m; for i in $(seq 1 400); do echo $i > m/$i; done").await;
    let writers = "i=0; while :; do i=$((i+1)); echo $i >> a; echo $i >> z; done & \
                   i=0; while :; do i=$((i+1)); sh -c \"echo $i >> forked-a; echo $i >> forked-z\"; done";
    let running = spawn(&vessel, writers).await;
    until("both write", async || count(&vessel, "z").await > 0 && count(&vessel, "forked-z").await > 0).await;
    let mut made = Vec::new();
    for round in 0..50 {
        let options = SnapshotOptions::new(format!("{round}")).sealed();
        made.push(vessel.create_snapshot_with(options).await.unwrap());
    }
    goes_on(&vessel, "z").await;
    drop(running);
    until("it is gone", async || vessel.restore_snapshot(&made[0].id).await.is_ok()).await;
    let mut last = 0;
    for snapshot in &made {
        vessel.restore_snapshot(&snapshot.id).await.unwrap();
        for (a, z) in [("a", "z"), ("forked-a", "forked-z")] {
            let read = async |name| String::from_utf8(vessel.read_file(name).await.unwrap()).unwrap();
            let (first, second): (String, String) = (read(a).await, read(z).await);
            let numbers = |text: &str| text.lines().map(|n| n.parse::<u64>().unwrap()).collect::<Vec<_>>();
            let (first, second) = (numbers(&first), numbers(&second));
            let ahead = first.len().checked_sub(second.len());
            assert!(matches!(ahead, Some(0 | 1)), "{a} has {} lines, {z} {}", first.len(), second.len());
            assert!(first.iter().copied().eq(1..=first.len() as u64) && first.starts_with(&second));
        }
        let now = count(&vessel, "a").await;
        assert!(now >= last);
        last = now;
    }
    assert!(last > count_of(&vessel, &made[0].id).await, "it went on between them");
    vessel.close().await.unwrap();
}

async fn count_of(vessel: &Vessel, snapshot: &str) -> u64 {
    vessel.restore_snapshot(snapshot).await.unwrap();
    count(vessel, "a").await
}

async fn a_pause_that_would_be_too_long_ends(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir m; cd m; for i in $(seq 1 5000); do echo $i > $i; done").await;
    let running = spawn(&vessel, "while :; do echo x >> n; done").await;
    goes_on(&vessel, "n").await;
    let hasty = SnapshotOptions::new("").sealed().longest_pause(Duration::from_millis(20));
    let error = vessel.create_snapshot_with(hasty).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::LimitExceeded | ErrorKind::Conflict), "{}", error.chain());
    goes_on(&vessel, "n").await;
    assert!(vessel.list_snapshots().await.unwrap().is_empty());
    vessel.create_snapshot("").await.unwrap();
    goes_on(&vessel, "n").await;
    drop(running);
    vessel.close().await.unwrap();
}

async fn commands_go_on_when_whoever_asked_is_killed(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mut random = Random::new();
    sh(&vessel, "mkdir m; cd m; for i in $(seq 1 3000); do echo $i > $i; done").await;
    let running = spawn(&vessel, "while :; do echo x >> n; done").await;
    goes_on(&vessel, "n").await;
    for _ in 0..12 {
        let args = ["snapshot", "create", vessel.id(), "--fast"];
        let mut child = store.cli(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(random.moment(Duration::from_millis(400))).await;
        let _ = child.kill();
        child.wait().unwrap();
        goes_on(&vessel, "n").await;
        let listed = vessel.list_snapshots().await.unwrap();
        assert!(listed.iter().all(|snapshot| snapshot.parent_id.is_empty()), "{listed:?}");
    }
    drop(running);
    let listed = vessel.list_snapshots().await.unwrap();
    until("it is gone", async || vessel.create_snapshot("").await.is_ok_and(|s| s.pause_ms.is_none())).await;
    for snapshot in &listed {
        vessel.restore_snapshot(&snapshot.id).await.unwrap();
        assert_eq!(sh(&vessel, "ls m | wc -l").await, "3000\n");
    }
    vessel.close().await.unwrap();
}

async fn a_command_that_leaves_nothing_behind_does_not_hinder(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("kept", "x", 0o644).await.unwrap();
    let script = "while :; do echo x >> /thrown-away; sleep 0.01; done";
    let running = vessel.spawn(ExecOptions::new(["sh", "-c", script]).persist_result(false)).await.unwrap();
    let made = vessel.create_snapshot("").await.unwrap();
    vessel.write_file("later", "x", 0o644).await.unwrap();
    drop(running);
    until("it is gone", async || vessel.restore_snapshot(&made.id).await.is_ok()).await;
    assert_eq!(sh_ephemeral(&vessel, "ls; [ -e /thrown-away ] || echo nothing").await, "kept\nnothing\n");
    vessel.close().await.unwrap();
}

async fn what_others_ask_waits_for_the_copy(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir m; cd m; for i in $(seq 1 3000); do echo $i > $i; done").await;
    let mut running = spawn(&vessel, "trap 'exit 3' TERM; while :; do echo x >> n; sleep 0.01; done").await;
    goes_on(&vessel, "n").await;
    let other = vessel.clone();
    let making = tokio::spawn(async move { other.create_snapshot("").await });
    for round in 0..20 {
        vessel.write_file(format!("w{round}"), "x", 0o644).await.unwrap();
        assert_eq!(sh(&vessel, "echo hello").await, "hello\n");
    }
    running.signal(rustix::process::Signal::TERM.as_raw()).unwrap();
    making.await.unwrap().unwrap();
    assert_eq!(running.wait().await.unwrap().exit_code, 3);
    vessel.close().await.unwrap();
}

async fn a_running_command_refuses_a_restore(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let one = vessel.create_snapshot("one").await.unwrap();
    for persist in [true, false] {
        let options = ExecOptions::new(["sleep", "1000"]).persist_result(persist);
        let running = vessel.spawn(options).await.unwrap();
        fails_with(vessel.restore_snapshot(&one.id).await, &ErrorKind::Conflict, "sleep");
        // The current one, by going back to its parent.
        vessel.write_file("kept", "x", 0o644).await.unwrap();
        let error = fails(vessel.restore_snapshot(&one.id).await, &ErrorKind::Conflict);
        assert!(error.remedy().is_some());
        assert_eq!(vessel.read_file("kept").await.unwrap(), b"x");
        drop(running);
        until("the command is gone", async || vessel.restore_snapshot(&one.id).await.is_ok()).await;
    }
    vessel.close().await.unwrap();
}
