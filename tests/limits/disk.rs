//! What may be written.
#![forbid(unsafe_code)]

use std::time::Duration;

use vesselrt::settings::Limits;
use vesselrt::{ErrorKind, ExecOptions, SnapshotOptions, Vessel};

use super::limited;
use crate::testkit::{Store, run_in, sh, tests_on_each_driver, within};

tests_on_each_driver!(
    who_writes_too_much_is_killed_and_told,
    what_is_too_large_can_be_made_smaller,
    what_is_thrown_away_counts_while_it_is_there,
);

/// Writes 64 MiB and stays.
const FLOOD: &str = "dd if=/dev/zero of=flood bs=1M count=64 2>/dev/null; sleep 60";

async fn flood(vessel: &Vessel, options: ExecOptions) -> vesselrt::ExecResult {
    let flooded = vessel.exec(options.timeout(Duration::from_secs(60)));
    within(Duration::from_secs(90), "the flood", flooded).await.unwrap()
}

async fn who_writes_too_much_is_killed_and_told(store: &Store) {
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new().disk(8 << 20)).await;
    let fits = "dd if=/dev/zero of=fits bs=1M count=2 2>/dev/null; sleep 1; echo whole";
    assert_eq!(sh(&vessel, fits).await, "whole\n");
    let bystander = vessel.spawn(ExecOptions::new(["sleep", "60"])).await.unwrap();
    let killed = flood(&vessel, ExecOptions::new(["sh", "-c", FLOOD]).persist_result(true)).await;
    assert!(killed.disk_full && !killed.oom_killed && !killed.timed_out, "{killed:?}");
    assert_eq!((killed.exit_code, killed.signal), (137, Some(9)));
    let mut bystander = bystander;
    let beside = within(Duration::from_secs(20), "the bystander", bystander.wait()).await.unwrap();
    assert!(beside.disk_full, "all that run are stopped: {beside:?}");
    assert_eq!(vessel.read_file("/work/fits").await.unwrap().len(), 2 << 20, "what was written is there");
    assert!(vessel.stats().await.unwrap().disk > 8 << 20);
}

async fn what_is_too_large_can_be_made_smaller(store: &Store) {
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new()).await;
    sh(&vessel, "dd if=/dev/zero of=big bs=1M count=24 2>/dev/null").await;
    vessel.update(|limits| limits.disk = Some(8 << 20)).await.unwrap();
    assert_eq!(sh(&vessel, "sleep 1; echo reading").await, "reading\n", "it does not grow");
    let killed = flood(&vessel, ExecOptions::new(["sh", "-c", FLOOD]).persist_result(true)).await;
    assert!(killed.disk_full, "{killed:?}");
    sh(&vessel, "rm -f big flood; sleep 1").await;
    let more = "dd if=/dev/zero of=small bs=1M count=3 2>/dev/null; sleep 1";
    sh(&vessel, more).await;
    vessel.update(|limits| limits.disk = None).await.unwrap();
    sh(&vessel, "dd if=/dev/zero of=big bs=1M count=24 2>/dev/null; sleep 1").await;
    // A sealed layer is not the writable one any more.
    vessel.create_snapshot_with(SnapshotOptions::new("large")).await.map(drop).or_else(unsealed).unwrap();
    vessel.update(|limits| limits.disk = Some(64 << 20)).await.unwrap();
    sh(&vessel, more).await;
}

/// fuse-overlayfs has no layers exchanged under a running shim.
fn unsealed(error: vesselrt::Error) -> Result<(), vesselrt::Error> {
    if matches!(error.kind(), ErrorKind::Unsupported { .. }) { Ok(()) } else { Err(error) }
}

async fn what_is_thrown_away_counts_while_it_is_there(store: &Store) {
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new().disk(8 << 20)).await;
    let killed = flood(&vessel, ExecOptions::new(["sh", "-c", FLOOD])).await;
    assert!(killed.disk_full, "{killed:?}");
    let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", "test ! -e flood && sleep 1"])).await.unwrap();
    assert!(ran.result.success(), "it went with its command: {ran:?}");
}
