//! Snapshots that do not wait for their archives, and the archives that come later.
#![forbid(unsafe_code)]

use std::sync::Arc;

use vesselrt::{
    CompressedStorage, ErrorKind, Manager, Packer, SnapshotManifest, SnapshotMode, SnapshotOptions, Storage,
    Vessel,
};

use crate::testkit::faulty::{Failure, FaultyStorage};
use crate::testkit::{Store, fails, sh, tests, tests_on_each_driver, until};

tests_on_each_driver!(sealed_snapshots_are_restored_and_stored_later);

tests!(
    a_sealed_snapshot_is_in_the_storage_only_when_its_archive_is,
    archives_are_packed_by_whoever_opens_the_vessel_next,
    a_snapshot_that_waits_is_deleted,
    an_archive_is_compressed_as_its_snapshot_says,
    a_snapshot_that_waits_loses_its_name_for_good,
    a_durable_snapshot_takes_its_ancestors_along,
    a_storage_that_fails_keeps_a_snapshot_waiting,
    what_waits_survives_garbage_collection,
    the_command_line_seals_lists_and_waits,
    a_vessel_with_waiting_snapshots_is_deleted,
);

async fn seal(vessel: &Vessel, value: &str) -> SnapshotManifest {
    vessel.write_file("state", value, 0o644).await.unwrap();
    let labels = [("of".to_owned(), value.to_owned())].into();
    vessel.create_snapshot_with(SnapshotOptions::new(value).sealed().labels(labels)).await.unwrap()
}

async fn state(vessel: &Vessel) -> String {
    String::from_utf8(vessel.read_file("state").await.unwrap()).unwrap()
}

/// A manager that leaves archives to others, who never come.
async fn idle(store: &Store) -> Manager {
    let never = Packer::Process { program: "/bin/true".into(), arguments: Vec::new() };
    Manager::new(store.config().packer(never)).await.unwrap()
}

/// A vessel whose sealed snapshots nobody packs.
async fn unpacked(store: &Store) -> (Manager, Vessel) {
    let (manager, vessel) = store.vessel().await;
    vessel.close().await.unwrap();
    drop(manager);
    let manager = idle(store).await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    (manager, vessel)
}

async fn sealed_snapshots_are_restored_and_stored_later(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let mut made = Vec::new();
    for value in ["one", "two", "three"] {
        sh(&vessel, &format!("echo {value} > only-{value}; rm -f only-one")).await;
        made.push(seal(&vessel, value).await);
        assert_eq!(made.last().unwrap().mode, Some(SnapshotMode::Sealed));
        assert!(!made.last().unwrap().is_stored());
        assert_eq!(vessel.manifest().current_snapshot_id, made.last().unwrap().id);
    }
    vessel.restore_snapshot(&made[0].id).await.unwrap();
    assert_eq!((state(&vessel).await, sh(&vessel, "ls").await), ("one".into(), "state\n".into()));
    let branch = seal(&vessel, "branch").await;
    assert_eq!(branch.parent_id, made[0].id);
    made.push(branch);
    for snapshot in &made {
        let stored = vessel.wait_snapshot(&snapshot.id).await.unwrap();
        assert!(stored.is_stored() && stored.size > 0 && stored.checksum.starts_with("sha256:"));
        let expected =
            SnapshotManifest { checksum: stored.checksum.clone(), size: stored.size, ..snapshot.clone() };
        assert_eq!(stored, expected);
    }
    vessel.close().await.unwrap();
    crate::persistence::wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(state(&vessel).await, "branch");
    for snapshot in &made {
        vessel.restore_snapshot(&snapshot.id).await.unwrap();
        assert_eq!(state(&vessel).await, snapshot.message);
    }
    vessel.close().await.unwrap();
}

/// What another machine would see.
fn in_storage(store: &Store, vessel: &Vessel) -> vesselrt::VesselManifest {
    let path = store.root().join(format!("data/vessels/{}/vessel.dat", vessel.id()));
    vesselrt::VesselManifest::parse(&std::fs::read(path).unwrap()).unwrap()
}

async fn a_sealed_snapshot_is_in_the_storage_only_when_its_archive_is(store: &Store) {
    let (manager, vessel) = unpacked(store).await;
    let one = vessel.create_snapshot("one").await.unwrap();
    let two = seal(&vessel, "two").await;
    let three = seal(&vessel, "three").await;
    let there = in_storage(store, &vessel);
    assert_eq!((there.snapshots.len(), there.current_snapshot_id), (1, one.id.clone()));
    let listed = manager.vessel_manifest(vessel.id()).await.unwrap();
    assert_eq!((listed.snapshots.len(), &listed.current_snapshot_id), (3, &three.id));
    assert_eq!(manager.list_vessels().await.unwrap(), [listed]);
    vessel.set_labels([("k".to_owned(), "v".to_owned())].into()).await.unwrap();
    assert_eq!(in_storage(store, &vessel).snapshots.len(), 1);
    vessel.wait_snapshot(&two.id).await.unwrap();
    let there = in_storage(store, &vessel);
    assert_eq!(there.snapshots.len(), 3, "who waits for one packs all");
    assert_eq!((there.current_snapshot_id, there.labels["k"].as_str()), (three.id, "v"));
    fails(vessel.wait_snapshot("nothing").await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn archives_are_packed_by_whoever_opens_the_vessel_next(store: &Store) {
    let (_idle, vessel) = unpacked(store).await;
    let one = seal(&vessel, "one").await;
    vessel.close().await.unwrap();
    let manager = store.manager().await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(vessel.manifest().current_snapshot_id, one.id);
    until("it is stored", async || in_storage(store, &vessel).snapshot(&one.id).is_some()).await;
    let two = seal(&vessel, "two").await;
    until("so is the next", async || in_storage(store, &vessel).current_snapshot_id == two.id).await;
    vessel.close().await.unwrap();
}

async fn a_snapshot_that_waits_is_deleted(store: &Store) {
    let (manager, vessel) = unpacked(store).await;
    let one = seal(&vessel, "one").await;
    let two = seal(&vessel, "two").await;
    fails(vessel.delete_snapshot(&one.id).await, &ErrorKind::Conflict);
    // The current one: back to its parent.
    vessel.delete_snapshot(&two.id).await.unwrap();
    assert_eq!(state(&vessel).await, "one");
    assert_eq!(vessel.list_snapshots().await.unwrap().len(), 1);
    let branch = seal(&vessel, "branch").await;
    vessel.restore_snapshot(&one.id).await.unwrap();
    vessel.delete_snapshot(&branch.id).await.unwrap();
    vessel.close().await.unwrap();
    manager.wait_snapshot(vessel.id(), None).await.unwrap();
    assert_eq!(in_storage(store, &vessel).snapshots.len(), 1);
    let layers = crate::testkit::leftovers::entries(&store.root().join("layers"));
    assert_eq!(layers.len(), 1, "{layers:?}");
}

async fn an_archive_is_compressed_as_its_snapshot_says(store: &Store) {
    let (manager, vessel) = unpacked(store).await;
    let text: String = (0..60_000u64).map(|n| format!("{}\n", n * n % 7919)).collect();
    let mut sizes = Vec::new();
    for (level, sealed) in
        [(Some(-50), false), (None, true), (Some(19), false), (Some(19), true), (Some(-50), true)]
    {
        vessel.write_file("text", text.clone(), 0o644).await.unwrap();
        let mut options = SnapshotOptions::new(format!("{level:?}"));
        options.level = level;
        options.sealed = sealed;
        let made = vessel.create_snapshot_with(options).await.unwrap();
        // Whoever packs it later does not know what was asked for.
        let later = store.manager().await;
        later.wait_snapshot(vessel.id(), Some(&made.id)).await.unwrap();
        later.close().await.unwrap();
        let path = store.root().join(format!("data/vessels/{}/snapshots/{}.tar.zst", vessel.id(), made.id));
        sizes.push(std::fs::metadata(path).unwrap().len());
        vessel.restore_snapshot(&made.id).await.unwrap();
    }
    let [least, usual, most, most_sealed, least_sealed] = sizes[..] else { panic!("{sizes:?}") };
    let alike = |a: u64, b: u64| a.abs_diff(b) < 100;
    assert!(least > usual + 1000 && (usual > most || alike(usual, most)), "{sizes:?}");
    assert!(alike(most, most_sealed) && alike(least, least_sealed), "{sizes:?}");
    for level in [1000, i32::MIN] {
        fails(
            vessel.create_snapshot_with(SnapshotOptions::new("").level(level)).await,
            &ErrorKind::InvalidArgument,
        );
    }
    vessel.close().await.unwrap();
    drop(manager);
}

async fn a_snapshot_that_waits_loses_its_name_for_good(store: &Store) {
    let (manager, vessel) = unpacked(store).await;
    let one = seal(&vessel, "one").await;
    let two = seal(&vessel, "two").await;
    let squash = vesselrt::SnapshotDeletion::new().squash(true);
    vessel.delete_snapshot_with(&one.id, squash).await.unwrap();
    let names = async |vessel: &Vessel| -> Vec<String> {
        vessel.list_snapshots().await.unwrap().into_iter().map(|snapshot| snapshot.id).collect()
    };
    assert_eq!(names(&vessel).await, [two.id.as_str()]);
    fails(vessel.restore_snapshot(&one.id).await, &ErrorKind::NotFound);
    manager.wait_snapshot(vessel.id(), None).await.unwrap();
    assert_eq!(names(&vessel).await, [two.id.as_str()], "also when its archive is stored");
    vessel.close().await.unwrap();
    crate::persistence::wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!((names(&vessel).await, state(&vessel).await), (vec![two.id], "two".into()));
    vessel.close().await.unwrap();
}

async fn a_durable_snapshot_takes_its_ancestors_along(store: &Store) {
    let (_manager, vessel) = unpacked(store).await;
    seal(&vessel, "one").await;
    seal(&vessel, "two").await;
    let durable = vessel.create_snapshot("three").await.unwrap();
    assert!(durable.is_stored());
    let there = in_storage(store, &vessel);
    assert_eq!(there.chain(&durable.id).unwrap().len(), 3);
    vessel.close().await.unwrap();
}

async fn a_storage_that_fails_keeps_a_snapshot_waiting(store: &Store) {
    let (good, vessel) = unpacked(store).await;
    vessel.close().await.unwrap();
    for failure in [Failure::Before, Failure::After, Failure::Midway] {
        for call in 1.. {
            let when = format!("{failure:?} call {call}");
            let inner = Arc::new(CompressedStorage::local(store.root().join("data")).unwrap());
            let faulty = Arc::new(FaultyStorage::new(inner, failure, call));
            let config = store.config().storage(Arc::clone(&faulty) as Arc<dyn Storage>);
            let bad = Manager::new(config).await.unwrap();
            let sealed = match bad.open_vessel(vessel.id()).await {
                Ok(open) => {
                    open.write_file("state", &when, 0o644).await.unwrap();
                    let options = SnapshotOptions::new(&when).sealed();
                    let sealed = open.create_snapshot_with(options).await.ok();
                    let _ = open.wait_snapshot(sealed.as_ref().map_or("", |snapshot| &snapshot.id)).await;
                    assert_eq!(state(&open).await, when);
                    open.close().await.unwrap();
                    sealed
                }
                Err(_) => None,
            };
            // It waits for the task that the snapshot left.
            bad.close().await.unwrap();
            let listed = good.vessel_manifest(vessel.id()).await.unwrap().snapshots;
            let last = listed.last().map(|snapshot| snapshot.message.as_str());
            assert_eq!(sealed.is_some(), last == Some(when.as_str()), "{when}");
            let stored = good.wait_snapshot(vessel.id(), None).await.unwrap();
            assert!(stored.len() == listed.len() && stored.iter().all(SnapshotManifest::is_stored), "{when}");
            assert_eq!(in_storage(store, &vessel).snapshots, stored, "{when}");
            if !faulty.has_failed() {
                break;
            }
        }
    }
    crate::persistence::wipe(store);
    let again = good.open_vessel(vessel.id()).await.unwrap();
    for snapshot in again.list_snapshots().await.unwrap() {
        again.restore_snapshot(&snapshot.id).await.unwrap();
        assert_eq!(state(&again).await, snapshot.message);
    }
    again.close().await.unwrap();
}

async fn what_waits_survives_garbage_collection(store: &Store) {
    let (manager, vessel) = unpacked(store).await;
    let one = seal(&vessel, "one").await;
    let two = seal(&vessel, "two").await;
    vessel.restore_snapshot(&one.id).await.unwrap();
    manager.collect_garbage().await.unwrap();
    vessel.restore_snapshot(&two.id).await.unwrap();
    assert_eq!(state(&vessel).await, "two");
    vessel.close().await.unwrap();
    // Collecting is also a time to pack.
    let packing = store.manager().await;
    packing.collect_garbage().await.unwrap();
    until("both are stored", async || in_storage(store, &vessel).snapshots.len() == 2).await;
    packing.close().await.unwrap();
}

fn lines(store: &Store, args: &[&str]) -> String {
    let output = store.cli(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn the_command_line_seals_lists_and_waits(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.close().await.unwrap();
    let id = vessel.id();
    lines(store, &["exec", id, "--", "sh", "-c", "head -c 3000000 /dev/urandom > big"]);
    let one = lines(store, &["snapshot", "create", id, "--fast", "-m", "quick"]);
    let json: serde_json::Value =
        serde_json::from_str(&lines(store, &["--json", "snapshot", "ls", id])).unwrap();
    assert_eq!((json[0]["id"].as_str(), json[0]["mode"].as_str()), (Some(one.trim()), Some("sealed")));
    assert!(["packing", "stored"].contains(&json[0]["status"].as_str().unwrap()), "{json}");
    // Nobody else is asked to: the process that `create` left behind does it.
    until("it is stored", async || in_storage(store, &vessel).snapshots.len() == 1).await;
    assert_eq!(lines(store, &["snapshot", "wait", id]), one);
    assert_eq!(lines(store, &["snapshot", "wait", id, one.trim()]), one);
    assert!(lines(store, &["snapshot", "ls", id]).contains("stored"));
    let made: serde_json::Value =
        serde_json::from_str(&lines(store, &["--json", "snapshot", "create", id, "--fast"])).unwrap();
    assert_eq!((made["status"].as_str(), made["checksum"].as_str()), (Some("packing"), Some("")));
    assert_eq!(lines(store, &["snapshot", "wait", id]).lines().count(), 2);
    let nothing = store.cli(&["snapshot", "wait", id, "nothing"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(125));
}

async fn a_vessel_with_waiting_snapshots_is_deleted(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let other = manager.open_vessel(vessel.id()).await.unwrap();
    sh(&vessel, "head -c 20000000 /dev/urandom > big").await;
    seal(&vessel, "one").await;
    // While its archive is packed.
    vessel.close().await.unwrap();
    other.close().await.unwrap();
    manager.delete_vessel(vessel.id()).await.unwrap();
    until("nothing is left", async || {
        let of = |dir: &str| crate::testkit::leftovers::entries(&store.root().join(dir)).len();
        of("layers") + of("data/vessels") == 0
    })
    .await;
}
