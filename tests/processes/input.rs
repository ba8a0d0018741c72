//! The input of processes in the background.
#![forbid(unsafe_code)]

use tokio::io::AsyncWriteExt;
use vesselrt::{ErrorKind, LogOptions, ProcessEvent, SpawnOptions};

use super::{all, code, ends, next, script, spawn};
use crate::testkit::{PATIENCE, Store, fails, tests, within};

tests!(
    an_input_stays_open_until_it_is_ended,
    nothing_is_read_unless_an_input_was_asked_for,
    a_process_has_three_descriptors_and_outputs_that_are_pipes,
    a_process_that_does_not_read_blocks_its_writer_only,
);

async fn an_input_stays_open_until_it_is_ended(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let options = SpawnOptions::new(script("while read line; do echo got $line; done; exit 4")).input(true);
    let process = vessel.spawn_detached(options).await.unwrap();
    assert!(process.info().await.unwrap().input);
    vessel.close().await.unwrap();
    let mut events = process.events(LogOptions::new().follow(true)).await.unwrap();
    next(&mut events).await;
    for word in ["one", "two"] {
        let own = manager.process(vessel.id(), &process.id()).await.unwrap();
        let mut input = own.input().await.unwrap();
        assert!(!input.is_terminal());
        fails(input.resize(1, 1), &ErrorKind::InvalidArgument);
        input.write_all(format!("{word}\n").as_bytes()).await.unwrap();
        drop(input);
        let Some(ProcessEvent::Stdout { data, .. }) = next(&mut events).await else { panic!("nothing") };
        assert_eq!(data, format!("got {word}\n").as_bytes());
    }
    // The end comes when the last one has closed it.
    let mut last = process.input().await.unwrap();
    process.close_input().await.unwrap();
    fails(process.input().await, &ErrorKind::InvalidArgument);
    last.write_all(b"three").await.unwrap();
    drop(last);
    assert_eq!(code(&process).await, 4);
    assert_eq!(all(&process).await.0, "got one\ngot two\n");
}

async fn nothing_is_read_unless_an_input_was_asked_for(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let process =
        spawn(&vessel, "wc -c; readlink /proc/self/fd/0; while [ ! -e go ]; do usleep 9999; done").await;
    fails(process.input().await, &ErrorKind::InvalidArgument);
    vessel.write_file("go", "", 0o644).await.unwrap();
    assert_eq!(all(&process).await.0, "0\n/dev/null\n");
    vessel.close().await.unwrap();
}

async fn a_process_has_three_descriptors_and_outputs_that_are_pipes(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    // The last number is that of the directory itself. Another one runs, whose descriptors the shim has.
    let other = SpawnOptions::new(script("exec sleep 1000")).input(true);
    let other = vessel.spawn_detached(other).await.unwrap();
    let text = "ls /proc/self/fd; for fd in 0 1 2; do [ -p /proc/self/fd/$fd ] && echo pipe; done";
    let options = SpawnOptions::new(script(text)).input(true);
    let process = vessel.spawn_detached(options).await.unwrap();
    assert_eq!(all(&process).await, ("0\n1\n2\n3\npipe\npipe\npipe\n".into(), String::new()));
    other.signal(9).await.unwrap();
    ends(&other).await;
    vessel.close().await.unwrap();
}

async fn a_process_that_does_not_read_blocks_its_writer_only(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let options = SpawnOptions::new(script("while [ ! -e go ]; do usleep 9999; done; wc -c")).input(true);
    let process = vessel.spawn_detached(options).await.unwrap();
    let mut input = process.input().await.unwrap();
    let writing = tokio::spawn(async move { input.write_all(&vec![b'x'; 3 << 20]).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!writing.is_finished());
    vessel.write_file("go", "", 0o644).await.unwrap();
    within(PATIENCE, "the writer", writing).await.unwrap().unwrap();
    process.close_input().await.unwrap();
    assert_eq!(all(&process).await.0, format!("{}\n", 3 << 20));
    vessel.close().await.unwrap();
}
