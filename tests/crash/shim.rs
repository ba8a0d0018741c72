//! The shim is killed under the process that uses it.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use vesselrt::{ErrorKind, ExecOptions, Vessel};

use super::{BIG, all_snapshots_are_whole, kill, moment, shim_of, state};
use crate::testkit::random::Random;
use crate::testkit::{
    PATIENCE, Store, leftovers, sh, tests, tests_on_each_driver, until, wait_until, within,
};

tests_on_each_driver!(the_next_operation_after_the_shim_was_killed_works);

tests!(
    commands_die_with_the_shim,
    the_shim_is_killed_during_snapshots,
    the_shim_is_killed_during_restores,
    the_shim_is_killed_during_file_operations,
    a_kept_shim_that_is_killed_is_replaced,
);

fn kill_shim(store: &Store, vessel: &Vessel) {
    kill(shim_of(store, vessel.id()).expect("its shim runs"));
}

async fn the_next_operation_after_the_shim_was_killed_works(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "echo kept > unsaved; rm /etc/motd").await;
    let snapshot = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo more >> unsaved").await;
    for round in 0..3 {
        kill_shim(store, &vessel);
        // The first may meet the dead one, the next one not.
        let _ = vessel.stat("unsaved").await;
        let first = match round {
            0 => sh(&vessel, "cat unsaved").await,
            1 => String::from_utf8(vessel.read_file("unsaved").await.unwrap()).unwrap(),
            _ => sh(&manager.open_vessel(vessel.id()).await.unwrap(), "cat unsaved").await,
        };
        assert_eq!(first, "kept\nmore\n");
        // Another handle's shim left with that handle.
        vessel.stat("unsaved").await.unwrap();
    }
    kill_shim(store, &vessel);
    let _ = vessel.stat("unsaved").await;
    vessel.restore_snapshot(&snapshot.id).await.unwrap();
    assert_eq!(sh(&vessel, "cat unsaved").await, "kept\n");
    kill_shim(store, &vessel);
    // Nor does closing mind.
    vessel.close().await.unwrap();
}

async fn commands_die_with_the_shim(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mark = format!("{}.5", 5_000_000 + std::process::id());
    let script = format!("echo -n kept > state; (setsid sleep {mark} &); sleep {mark}");
    let running = vessel.clone();
    let command = tokio::spawn(async move {
        running.exec(ExecOptions::new(["sh", "-c", &script]).persist_result(true)).await
    });
    until("the command has started", async || vessel.read_file("state").await.is_ok_and(|s| s == b"kept"))
        .await;
    kill_shim(store, &vessel);
    let error = within(PATIENCE, "the command", command).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    assert!(error.is_retryable());
    wait_until("the command is dead", || leftovers::processes_named(&mark).is_empty());
    let _ = vessel.stat("state").await;
    assert_eq!(state(&vessel).await, "kept");
    vessel.close().await.unwrap();
}

/// A vessel with two snapshots, and how often its shim is killed.
async fn prepared(store: &Store) -> (Vessel, Random) {
    let (_manager, vessel) = store.vessel().await;
    let mut random = Random::new();
    vessel.write_file("big", random.bytes(BIG), 0o644).await.unwrap();
    for value in ["first", "second"] {
        vessel.write_file("state", value, 0o644).await.unwrap();
        vessel.create_snapshot(value).await.unwrap();
    }
    (vessel, random)
}

const ROUNDS: usize = 10;

async fn the_shim_is_killed_during_snapshots(store: &Store) {
    let (vessel, mut random) = prepared(store).await;
    let start = Instant::now();
    vessel.write_file("state", "measured", 0o644).await.unwrap();
    vessel.create_snapshot("measured").await.unwrap();
    let usual = start.elapsed();
    for round in 0..ROUNDS {
        let value = format!("round {round}");
        let _ = vessel.stat("state").await;
        vessel.write_file("state", &value, 0o644).await.unwrap();
        let before = vessel.list_snapshots().await.unwrap().len();
        // Looked for now, as it takes longer than what is to be met.
        let shim = shim_of(store, vessel.id()).unwrap();
        let (other, message) = (vessel.clone(), value.clone());
        let making = tokio::spawn(async move { other.create_snapshot(&message).await });
        tokio::time::sleep(moment(&mut random, usual)).await;
        kill(shim);
        let made = within(PATIENCE, "the snapshot", making).await.unwrap();
        let _ = vessel.stat("state").await;
        assert_eq!(state(&vessel).await, value);
        let after = vessel.list_snapshots().await.unwrap().len();
        assert_eq!(after - before, usize::from(made.is_ok()), "{made:?}");
        all_snapshots_are_whole(&vessel).await;
        assert!(made.is_ok() || state(&vessel).await != value);
    }
    vessel.close().await.unwrap();
}

async fn the_shim_is_killed_during_restores(store: &Store) {
    let (vessel, mut random) = prepared(store).await;
    let snapshots = vessel.list_snapshots().await.unwrap();
    let start = Instant::now();
    vessel.restore_snapshot(&snapshots[0].id).await.unwrap();
    let usual = start.elapsed();
    for round in 0..ROUNDS {
        let value = format!("dirty {round}");
        let _ = vessel.stat("state").await;
        vessel.write_file("state", &value, 0o644).await.unwrap();
        let target = &snapshots[round % 2];
        let shim = shim_of(store, vessel.id()).unwrap();
        let (other, id) = (vessel.clone(), target.id.clone());
        let restoring = tokio::spawn(async move { other.restore_snapshot(&id).await });
        tokio::time::sleep(moment(&mut random, usual)).await;
        kill(shim);
        let restored = within(PATIENCE, "the restore", restoring).await.unwrap();
        let _ = vessel.stat("state").await;
        let expected = if restored.is_ok() { &target.message } else { &value };
        assert_eq!(&state(&vessel).await, expected, "{restored:?}");
    }
    all_snapshots_are_whole(&vessel).await;
    vessel.close().await.unwrap();
}

async fn the_shim_is_killed_during_file_operations(store: &Store) {
    let (vessel, mut random) = prepared(store).await;
    let (old, new) = (vec![b'o'; 500_000], vec![b'n'; 500_000]);
    for _ in 0..ROUNDS {
        let _ = vessel.stat("state").await;
        vessel.write_file("whole", &old, 0o644).await.unwrap();
        let shim = shim_of(store, vessel.id()).unwrap();
        let (other, data) = (vessel.clone(), new.clone());
        let writing = tokio::spawn(async move { other.write_file("whole", &data, 0o600).await });
        tokio::time::sleep(random.moment(Duration::from_millis(4))).await;
        kill(shim);
        let written = within(PATIENCE, "the write", writing).await.unwrap();
        let _ = vessel.stat("state").await;
        let now = vessel.read_file("whole").await.unwrap();
        assert!(now == new || (now == old && written.is_err()), "{written:?} {} bytes", now.len());
    }
    // No half-written file is left beside it.
    let names: Vec<_> = vessel.read_dir("").await.unwrap().into_iter().map(|entry| entry.name).collect();
    vessel.close().await.unwrap();
    assert!(names.len() <= 3 + ROUNDS, "{names:?}");
}

async fn a_kept_shim_that_is_killed_is_replaced(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    vessel.write_file("state", "kept", 0o644).await.unwrap();
    vessel.keep(true).await.unwrap();
    vessel.close().await.unwrap();
    kill_shim(store, &vessel);
    until("it does not run", async || !manager.vessel_status(vessel.id()).await.unwrap().running).await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(state(&vessel).await, "kept");
    vessel.close().await.unwrap();
}
