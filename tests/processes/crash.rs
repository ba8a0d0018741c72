//! The shim is killed, or what writes a log: what was written stays readable, and nothing is taken for running.
#![forbid(unsafe_code)]

use rustix::process::{Pid, Signal, kill_process};
use vesselrt::{EndCause, ErrorKind, LogOptions, LogStart, ProcessEvent};

use super::{ends, has_written, next, output, spawn};
use crate::crash::shim_of;
use crate::testkit::{Store, fails, sh, tests, until};

tests!(
    what_was_logged_survives_the_death_of_the_shim,
    a_follower_hears_of_the_death_of_the_shim,
    a_process_whose_log_cannot_be_written_any_more_is_ended,
);

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// What writes a log for this shim.
fn logger_of(shim: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    let is_logger =
        |pid: &u32| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"vesselrt-log\n");
    children.split_whitespace().map(|pid| pid.parse().unwrap()).find(is_logger)
}

async fn what_was_logged_survives_the_death_of_the_shim(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let before = spawn(&vessel, "echo before; exit 3").await;
    ends(&before).await;
    let process =
        spawn(&vessel, "i=0; while :; do echo line $i; i=$((i+1)); [ $i = 500 ] && touch up; done").await;
    has_written(&vessel, "up").await;
    kill(shim_of(store, vessel.id()).unwrap());
    let end = ends(&process).await;
    assert_eq!((end.cause, end.result, end.ended), (EndCause::Lost, None, None));
    let (out, _) = output(&process, LogOptions::new()).await;
    let text = String::from_utf8(out).unwrap();
    assert!(text.lines().count() >= 100, "{}", text.len());
    for (n, line) in text.lines().take(text.matches('\n').count()).enumerate() {
        assert_eq!(line, format!("line {n}"));
    }
    fails(process.signal(9).await, &ErrorKind::Conflict);
    let known: Vec<_> = manager.processes(vessel.id()).await.unwrap();
    let causes: Vec<_> = known.iter().map(|process| process.end.as_ref().unwrap().cause).collect();
    assert_eq!(causes, [EndCause::Itself, EndCause::Lost]);
    // The next shim makes it so on disk, and begins no id anew.
    let _ = vessel.stat("up").await;
    assert_eq!(sh(&vessel, "echo well").await, "well\n");
    let next = spawn(&vessel, "exec sleep 1000").await;
    assert_eq!(next.id(), "p3");
    let known = vessel.processes().await.unwrap();
    let running: Vec<_> =
        known.iter().filter(|process| process.end.is_none()).map(|p| p.id.as_str()).collect();
    assert_eq!(running, ["p3"]);
    assert_eq!(output(&process, LogOptions::new()).await.0, text.as_bytes());
    next.signal(15).await.unwrap();
    ends(&next).await;
    vessel.close().await.unwrap();
}

async fn a_follower_hears_of_the_death_of_the_shim(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let process = spawn(&vessel, "echo said; sleep 1000").await;
    let mut events = process.events(LogOptions::new().start(LogStart::Offset(0)).follow(true)).await.unwrap();
    assert!(matches!(next(&mut events).await, Some(ProcessEvent::Stdout { .. })));
    let other = process.clone();
    let waiting = tokio::spawn(async move { other.wait().await });
    kill(shim_of(store, vessel.id()).unwrap());
    let Some(ProcessEvent::Exited(end)) = next(&mut events).await else { panic!("not exited") };
    assert_eq!(end.cause, EndCause::Lost);
    assert_eq!(waiting.await.unwrap().unwrap().cause, EndCause::Lost);
    vessel.close().await.unwrap();
}

async fn a_process_whose_log_cannot_be_written_any_more_is_ended(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let process = spawn(&vessel, "echo said; touch up; sleep 1000").await;
    has_written(&vessel, "up").await;
    let shim = shim_of(store, vessel.id()).unwrap();
    until("it is logged", async || output(&process, LogOptions::new()).await.0 == b"said\n").await;
    kill(logger_of(shim).expect("its log is written"));
    let end = ends(&process).await;
    assert_eq!(end.cause, EndCause::Lost);
    assert_eq!(output(&process, LogOptions::new()).await.0, b"said\n");
    until("nothing runs", async || vessel.processes().await.unwrap().iter().all(|p| p.end.is_some())).await;
    assert_eq!(sh(&vessel, "echo well").await, "well\n");
    vessel.close().await.unwrap();
}
