//! Processes in the background that have a terminal.
#![forbid(unsafe_code)]

use tokio::io::AsyncWriteExt;
use vesselrt::{ErrorKind, ExecOptions, LogOptions, LogStart, ProcessEvent, ProcessEvents};

use super::{code, next};
use crate::testkit::{Store, fails, tests};

tests!(a_terminal_is_typed_to_and_resized_by_whoever_joins, a_terminal_takes_an_interrupt);

/// Waits until `text` was written.
async fn wait_for(events: &mut ProcessEvents, text: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        match next(events).await {
            Some(ProcessEvent::Stdout { data, .. }) => seen.extend(data),
            other => panic!("no {text:?} in {:?}: {other:?}", String::from_utf8_lossy(&seen)),
        }
    }
}

async fn a_terminal_is_typed_to_and_resized_by_whoever_joins(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let options = ExecOptions::new(["sh"]).terminal(33, 91).env("PS1", "$ ");
    let process = vessel.spawn_detached(options).await.unwrap();
    vessel.close().await.unwrap();
    let process = manager.process(vessel.id(), &process.id()).await.unwrap();
    let info = process.info().await.unwrap();
    assert!(info.terminal && info.input);
    let mut events = process.events(LogOptions::new().start(LogStart::Offset(0)).follow(true)).await.unwrap();
    let mut input = process.input().await.unwrap();
    assert!(input.is_terminal());
    input.write_all(b"tty; stty size; echo e''rr >&2\n").await.unwrap();
    wait_for(&mut events, "/dev/pts/0\r\n33 91\r\nerr").await;
    input.resize(50, 132).unwrap();
    drop(input);
    // Nobody has joined it now.
    let mut input = process.input().await.unwrap();
    input.write_all(b"stty size\n").await.unwrap();
    wait_for(&mut events, "50 132").await;
    fails(process.close_input().await, &ErrorKind::InvalidArgument);
    input.write_all(b"exit 12\n").await.unwrap();
    assert_eq!(code(&process).await, 12);
}

async fn a_terminal_takes_an_interrupt(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let text = "trap 'echo inter''rupted; exit 6' INT; echo re''ady; while :; do usleep 20000; done";
    let process = vessel.spawn_detached(ExecOptions::new(["sh", "-c", text]).terminal(9, 9)).await.unwrap();
    let mut events = process.events(LogOptions::new().start(LogStart::Offset(0)).follow(true)).await.unwrap();
    wait_for(&mut events, "ready").await;
    process.input().await.unwrap().write_all(b"\x03").await.unwrap();
    wait_for(&mut events, "interrupted").await;
    assert_eq!(code(&process).await, 6);
    vessel.close().await.unwrap();
}
