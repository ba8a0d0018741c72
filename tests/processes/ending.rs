//! How processes in the background end.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use vesselrt::{EndCause, ErrorKind, LogOptions};

use super::{all, code, ends, has_written, script, spawn};
use crate::testkit::{PATIENCE, Store, fails, fails_with, leftovers, sh, tests, until, within};

tests!(
    exit_codes_and_signals_are_told_apart,
    a_timeout_kills_the_whole_tree_though_nobody_waits,
    a_signal_reaches_a_process_until_it_has_ended,
    stopping_a_vessel_gives_its_processes_time,
    a_wait_that_is_given_up_changes_nothing,
    the_next_command_finds_the_vessel_as_it_was,
);

/// A number that no other command line has.
fn mark() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{}{number:03}.5", 7_000_000 + std::process::id())
}

async fn exit_codes_and_signals_are_told_apart(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for n in [0, 1, 42, 124, 255] {
        assert_eq!(code(&spawn(&vessel, &format!("exit {n}")).await).await, n);
    }
    for (name, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11)] {
        let end = ends(&spawn(&vessel, &format!("kill -{name} $$; sleep 9")).await).await;
        let result = end.result.unwrap();
        assert_eq!((result.exit_code, result.signal), (128 + number, Some(number)));
        assert_eq!(end.cause, EndCause::Itself);
    }
    vessel.close().await.unwrap();
}

async fn a_timeout_kills_the_whole_tree_though_nobody_waits(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let mark = mark();
    let text =
        format!("trap '' TERM; (setsid sleep {mark} &); echo up; touch up; while :; do sleep {mark}; done");
    let options = script(&text).timeout(Duration::from_millis(1500));
    let start = Instant::now();
    let process = vessel.spawn_detached(options).await.unwrap();
    has_written(&vessel, "up").await;
    vessel.close().await.unwrap();
    until("it is over", async || !manager.vessel_status(vessel.id()).await.unwrap().running).await;
    assert!(start.elapsed() >= Duration::from_millis(1500));
    let end = ends(&process).await;
    let result = end.result.unwrap();
    assert_eq!((end.cause, result.exit_code, result.timed_out), (EndCause::Timeout, 124, true));
    assert_eq!(all(&process).await.0, "up\n");
    until("nothing of it runs", async || leftovers::processes_named(&mark).is_empty()).await;
}

async fn a_signal_reaches_a_process_until_it_has_ended(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let text = "trap 'echo caught; exit 9' USR1; touch up; while :; do usleep 20000; done";
    let process = spawn(&vessel, text).await;
    has_written(&vessel, "up").await;
    for wrong in [0, -1, 65] {
        fails(process.signal(wrong).await, &ErrorKind::InvalidArgument);
    }
    process.signal(10).await.unwrap();
    assert_eq!(code(&process).await, 9);
    assert_eq!(all(&process).await.0, "caught\n");
    fails_with(process.signal(9).await, &ErrorKind::Conflict, "process p1 has ended");
    fails(process.input().await, &ErrorKind::Conflict);
    vessel.close().await.unwrap();
}

async fn stopping_a_vessel_gives_its_processes_time(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let polite =
        "trap 'sleep 0.3; echo saved; sync; exit 5' TERM; touch polite; while :; do usleep 20000; done";
    let polite = spawn(&vessel, polite).await;
    let stubborn = spawn(&vessel, "trap '' TERM; touch stubborn; while :; do usleep 20000; done").await;
    has_written(&vessel, "polite").await;
    has_written(&vessel, "stubborn").await;
    vessel.close().await.unwrap();
    let start = Instant::now();
    assert!(within(PATIENCE, "the stop", manager.stop_vessel(vessel.id())).await.unwrap());
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!manager.vessel_status(vessel.id()).await.unwrap().running);
    let end = ends(&polite).await;
    assert_eq!((end.cause, end.result.unwrap().exit_code), (EndCause::Stop, 5));
    assert_eq!(all(&polite).await.0, "saved\n");
    let end = ends(&stubborn).await;
    assert_eq!((end.cause, end.result.unwrap().signal), (EndCause::Stop, Some(9)));
    // Nobody has to wait where all are polite.
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    let quick = spawn(&vessel, "exec sleep 1000").await;
    vessel.close().await.unwrap();
    let start = Instant::now();
    assert!(manager.stop_vessel(vessel.id()).await.unwrap());
    assert!(start.elapsed() < Duration::from_millis(1900), "{:?}", start.elapsed());
    assert_eq!(ends(&quick).await.result.unwrap().signal, Some(15));
    assert!(!manager.stop_vessel(vessel.id()).await.unwrap());
}

async fn a_wait_that_is_given_up_changes_nothing(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let process = spawn(&vessel, "while [ ! -e go ]; do usleep 20000; done; exit 6").await;
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(60), process.wait()).await.is_err());
        let mut events = process.events(LogOptions::new().follow(true)).await.unwrap();
        events.next().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(60), events.next()).await.is_err());
    }
    let (first, second) = (process.clone(), process.clone());
    let waiting =
        [tokio::spawn(async move { first.wait().await }), tokio::spawn(async move { second.wait().await })];
    vessel.write_file("go", "", 0o644).await.unwrap();
    for wait in waiting {
        let end = within(PATIENCE, "both", wait).await.unwrap().unwrap();
        assert_eq!(end.result.unwrap().exit_code, 6);
    }
    vessel.close().await.unwrap();
}

async fn the_next_command_finds_the_vessel_as_it_was(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let process = spawn(&vessel, "echo kept > f; sleep 1000").await;
    has_written(&vessel, "f").await;
    assert_eq!(sh(&vessel, "cat f; ls /proc | grep -c '^[0-9]*$' > /dev/null; echo ok").await, "kept\nok\n");
    process.signal(15).await.unwrap();
    ends(&process).await;
    // Nothing that runs keeps it from being made still.
    vessel.create_snapshot("after").await.unwrap();
    vessel.close().await.unwrap();
}
