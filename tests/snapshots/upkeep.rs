//! Snapshots that go with others, or give up their names; pruning and labels.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vesselrt::{ErrorKind, Manager, SnapshotDeletion, SnapshotPruning, Storage, Vessel};
use vesselrt_storage::MemoryStorage;

use super::{messages, snapshot, state};
use crate::testkit::faulty::{Failure, FaultyStorage};
use crate::testkit::{Store, fails, fails_with, leftovers, sh, tests, tests_on_each_driver};

tests_on_each_driver!(a_squashed_snapshot_leaves_its_data_to_those_based_on_it);

tests!(
    a_snapshot_goes_with_all_that_is_based_on_it,
    what_the_vessel_lies_on_goes_only_by_force,
    a_squashed_snapshot_is_neither_listed_nor_restored,
    what_was_squashed_goes_with_the_last_that_needs_it,
    squashed_snapshots_survive_without_their_layers,
    pruning_keeps_what_it_has_to,
    labels_are_replaced_and_those_of_ours_stay,
    archives_that_nobody_mentions_are_collected,
    a_removal_happens_or_does_not,
);

fn archives(store: &Store, vessel: &Vessel) -> Vec<PathBuf> {
    leftovers::entries(&store.root().join(format!("data/vessels/{}/snapshots", vessel.id())))
}

async fn all_layers(store: &Store, manager: &Manager) -> usize {
    manager.collect_garbage().await.unwrap();
    leftovers::entries(&store.root().join("layers")).len()
}

/// Snapshots `a`, `b` on it, `c` and `d` on that; the vessel lies on `d`. Each has a file of its own, and removes one of the
/// one before.
async fn branched(vessel: &Vessel) -> [String; 4] {
    sh(vessel, "echo a > in-a; echo a > gone; mkdir dir; echo a > dir/a").await;
    let a = snapshot(vessel, "a").await.id;
    sh(vessel, "echo b > in-b; rm gone; rm -r dir; mkdir dir; echo b > dir/b").await;
    let b = snapshot(vessel, "b").await.id;
    let c = snapshot(vessel, "c").await.id;
    vessel.restore_snapshot(&b).await.unwrap();
    sh(vessel, "echo d > in-d; rm in-a").await;
    let d = snapshot(vessel, "d").await.id;
    [a, b, c, d]
}

async fn a_squashed_snapshot_leaves_its_data_to_those_based_on_it(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let [a, b, c, d] = branched(&vessel).await;
    let before = crate::testkit::tree::inside(&vessel, "/work", false).await;
    for id in [&b, &a] {
        let done = vessel.delete_snapshot_with(id, SnapshotDeletion::new().squash(true)).await.unwrap();
        assert_eq!((done.deleted, done.squashed), (vec![], vec![id.clone()]));
    }
    assert_eq!(messages(&vessel).await, ["c", "d"]);
    vessel.restore_snapshot(&c).await.unwrap();
    assert_eq!(
        sh(&vessel, "cat state in-a in-b; ls . dir").await,
        "ca\nb\n.:\ndir\nin-a\nin-b\nstate\n\ndir:\nb\n"
    );
    vessel.restore_snapshot(&d).await.unwrap();
    assert_eq!(crate::testkit::tree::inside(&vessel, "/work", false).await, before);
    vessel.close().await.unwrap();
}

async fn a_snapshot_goes_with_all_that_is_based_on_it(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let [a, b, c, d] = branched(&vessel).await;
    vessel.restore_snapshot(&a).await.unwrap();
    vessel.write_file("unsaved", "x", 0o644).await.unwrap();
    let error = fails(vessel.delete_snapshot(&b).await, &ErrorKind::Conflict);
    assert_eq!(error.to_string(), format!("cannot delete snapshot with children: {b}"));
    let done = vessel.delete_snapshot_with(&b, SnapshotDeletion::new().recursive(true)).await.unwrap();
    assert_eq!((done.deleted, done.squashed), (vec![b.clone(), c, d], vec![]));
    assert_eq!(messages(&vessel).await, ["a"]);
    assert_eq!(vessel.read_file("unsaved").await.unwrap(), b"x");
    assert_eq!((archives(store, &vessel).len(), all_layers(store, &manager).await), (1, 1));
    fails(
        vessel.delete_snapshot_with(&b, SnapshotDeletion::new().recursive(true)).await,
        &ErrorKind::NotFound,
    );
    vessel.close().await.unwrap();
}

async fn what_the_vessel_lies_on_goes_only_by_force(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let [a, b, _, _] = branched(&vessel).await;
    vessel.write_file("unsaved", "x", 0o644).await.unwrap();
    let recursive = SnapshotDeletion::new().recursive(true);
    let error = fails(vessel.delete_snapshot_with(&b, recursive).await, &ErrorKind::Conflict);
    assert!(error.remedy().unwrap().contains("--force"), "{error:?}");
    // Nothing is below the first to go back to.
    fails(vessel.delete_snapshot_with(&a, recursive.force(true)).await, &ErrorKind::Conflict);
    assert_eq!(messages(&vessel).await, ["a", "b", "c", "d"]);
    assert_eq!(vessel.read_file("unsaved").await.unwrap(), b"x");
    let done = vessel.delete_snapshot_with(&b, recursive.force(true)).await.unwrap();
    assert_eq!(done.deleted.len(), 3);
    assert_eq!((vessel.manifest().current_snapshot_id, state(&vessel).await.as_str()), (a, "a"));
    fails(vessel.stat("unsaved").await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn a_squashed_snapshot_is_neither_listed_nor_restored(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let [a, b, c, d] = branched(&vessel).await;
    let squash = SnapshotDeletion::new().squash(true);
    vessel.delete_snapshot_with(&b, squash).await.unwrap();
    let parents: Vec<(String, String)> =
        vessel.list_snapshots().await.unwrap().into_iter().map(|s| (s.id, s.parent_id)).collect();
    assert_eq!(parents, [(a.clone(), String::new()), (c, a.clone()), (d.clone(), a.clone())]);
    let missing = format!("snapshot not found: {b}");
    fails_with(vessel.restore_snapshot(&b).await, &ErrorKind::NotFound, &missing);
    fails_with(vessel.delete_snapshot(&b).await, &ErrorKind::NotFound, &missing);
    fails_with(vessel.delete_snapshot_with(&b, squash).await, &ErrorKind::NotFound, &missing);
    fails_with(vessel.set_snapshot_labels(&b, BTreeMap::new()).await, &ErrorKind::NotFound, &missing);
    let fork = vesselrt::ForkOptions::new().from(&b);
    fails_with(manager.fork_vessel(vessel.id(), fork).await, &ErrorKind::NotFound, &missing);
    // What the vessel lies on keeps its name as long as others are based on it.
    vessel.restore_snapshot(&a).await.unwrap();
    fails(vessel.delete_snapshot_with(&a, squash).await, &ErrorKind::Conflict);
    // One that nothing is based on simply goes.
    let done = vessel.delete_snapshot_with(&d, squash).await.unwrap();
    assert_eq!((done.deleted, done.squashed), (vec![d], vec![]));
    vessel.close().await.unwrap();
}

async fn what_was_squashed_goes_with_the_last_that_needs_it(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let [a, b, c, d] = branched(&vessel).await;
    vessel.delete_snapshot_with(&b, SnapshotDeletion::new().squash(true)).await.unwrap();
    vessel.delete_snapshot(&c).await.unwrap();
    assert_eq!(archives(store, &vessel).len(), 3);
    // The current one goes: back to what is below and has a name.
    vessel.delete_snapshot(&d).await.unwrap();
    assert_eq!(vessel.manifest().current_snapshot_id, a);
    assert_eq!(sh(&vessel, "cat state gone dir/a").await, "aa\na\n");
    assert_eq!((archives(store, &vessel).len(), all_layers(store, &manager).await), (1, 1));
    fails(vessel.delete_snapshot(&a).await, &ErrorKind::Conflict);
    vessel.close().await.unwrap();
}

async fn squashed_snapshots_survive_without_their_layers(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let [a, b, _, d] = branched(&vessel).await;
    for id in [&a, &b] {
        vessel.delete_snapshot_with(id, SnapshotDeletion::new().squash(true)).await.unwrap();
    }
    vessel.close().await.unwrap();
    manager.close().await.unwrap();
    for dir in ["layers", "vessels"] {
        crate::testkit::store::remove(&store.root().join(dir)).unwrap();
    }
    let vessel = store.manager().await.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "cat state in-b in-d; ls dir").await, "db\nd\nb\n");
    assert_eq!(vessel.manifest().current_snapshot_id, d);
    vessel.close().await.unwrap();
}

async fn pruning_keeps_what_it_has_to(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let [a, b, c, d] = branched(&vessel).await;
    fails(vessel.prune_snapshots(SnapshotPruning::new()).await, &ErrorKind::InvalidArgument);
    let old = SnapshotPruning::new().keep_last(0).older_than(Duration::from_secs(3600));
    assert_eq!(vessel.prune_snapshots(old).await.unwrap(), vesselrt::SnapshotsDeleted::default());
    let all = SnapshotPruning::new().keep_last(0);
    let dry = vessel.prune_snapshots(all.dry_run(true).squash(true)).await.unwrap();
    assert_eq!((dry.deleted, dry.squashed), (vec![c.clone()], vec![a.clone(), b.clone()]));
    assert_eq!(messages(&vessel).await, ["a", "b", "c", "d"], "nothing was done");
    let done = vessel.prune_snapshots(all).await.unwrap();
    assert_eq!((done.deleted, done.squashed), (vec![c], vec![]));
    let done = vessel.prune_snapshots(all.squash(true)).await.unwrap();
    assert_eq!((done.deleted, done.squashed), (vec![], vec![a, b]));
    assert_eq!(messages(&vessel).await, ["d"]);
    assert_eq!(sh(&vessel, "cat state in-b in-d").await, "db\nd\n");
    for n in 0..4 {
        snapshot(&vessel, &n.to_string()).await;
    }
    let done = vessel.prune_snapshots(SnapshotPruning::new().keep_last(2).squash(true)).await.unwrap();
    assert_eq!((done.squashed.len(), &done.squashed[0]), (3, &d));
    assert_eq!(messages(&vessel).await, ["2", "3"]);
    assert_eq!((archives(store, &vessel).len(), all_layers(store, &manager).await), (7, 7));
    assert_eq!(sh(&vessel, "cat state in-b in-d").await, "3b\nd\n");
    vessel.close().await.unwrap();
}

async fn labels_are_replaced_and_those_of_ours_stay(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    let two = snapshot(&vessel, "two").await;
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let changed = vessel.set_snapshot_labels(&one.id, labels(&[("a", "1"), ("b", "2")])).await.unwrap();
    assert_eq!(changed.labels, labels(&[("a", "1"), ("b", "2")]));
    vessel.set_snapshot_labels(&one.id, labels(&[("a", "3")])).await.unwrap();
    let listed = vessel.list_snapshots().await.unwrap();
    assert_eq!(listed[0], vesselrt::SnapshotManifest { labels: labels(&[("a", "3")]), ..one.clone() });
    assert_eq!(listed[1], two);
    for bad in [&[("vesselrt.unnamed", "")], &[("", "x")]] {
        fails(vessel.set_snapshot_labels(&one.id, labels(bad)).await, &ErrorKind::InvalidArgument);
    }
    vessel.close().await.unwrap();
    assert_eq!(manager.vessel_manifest(vessel.id()).await.unwrap().snapshots, listed);
}

async fn archives_that_nobody_mentions_are_collected(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    vessel.close().await.unwrap();
    let dir = store.root().join(format!("data/vessels/{}/snapshots", vessel.id()));
    for name in ["0123456789abcdef.tar.zst", "other.tar"] {
        std::fs::write(dir.join(name), "what a crash left").unwrap();
    }
    manager.collect_garbage().await.unwrap();
    assert_eq!(archives(store, &vessel), [dir.join(format!("{}.tar.zst", one.id))]);
    // With a storage that others may use too, only what is old goes.
    std::fs::write(dir.join("young.tar"), "in the making, somewhere").unwrap();
    std::fs::write(dir.join("old.tar"), "left").unwrap();
    let past = std::time::SystemTime::now() - Duration::from_secs(7200);
    std::fs::File::options().write(true).open(dir.join("old.tar")).unwrap().set_modified(past).unwrap();
    let shared = Arc::new(vesselrt::CompressedStorage::local(store.root().join("data")).unwrap());
    let other = Manager::new(store.config().storage(shared)).await.unwrap();
    other.collect_garbage().await.unwrap();
    assert!(dir.join("young.tar").exists() && !dir.join("old.tar").exists());
}

/// Whichever call of the storage fails: all of it is done, or nothing, and it can be done then.
async fn a_removal_happens_or_does_not(store: &Store) {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let manager = Manager::new(store.config().storage(Arc::clone(&memory))).await.unwrap();
    store.stock(&manager).await;
    let mut vessel = manager.create_vessel(crate::testkit::BASE, "/work").await.unwrap();
    let first = snapshot(&vessel, "first").await.id;
    let recursive = SnapshotDeletion::new().recursive(true).force(true);
    for (failure, how) in [Failure::Before, Failure::After]
        .into_iter()
        .flat_map(|failure| [(failure, recursive), (failure, SnapshotDeletion::new().squash(true))])
    {
        for call in 1.. {
            let when = format!("{failure:?} call {call} {how:?}");
            let [a, ..] = branched(&vessel).await;
            let before = vessel.list_snapshots().await.unwrap();
            vessel.close().await.unwrap();
            let faulty = Arc::new(FaultyStorage::new(Arc::clone(&memory), failure, call));
            let bad = Manager::new(store.config().storage(faulty.clone())).await.unwrap();
            let done = match bad.open_vessel(vessel.id()).await {
                Ok(open) => {
                    let done = open.delete_snapshot_with(&a, how).await;
                    open.close().await.unwrap();
                    done.map(drop)
                }
                Err(error) => Err(error),
            };
            drop(bad);
            let open = manager.open_vessel(vessel.id()).await.unwrap();
            let left = open.list_snapshots().await.unwrap();
            assert!(left.len() == before.len() || left.iter().all(|s| s.id != a), "{when}: {done:?}");
            assert!(done.is_err() || left.len() < before.len(), "{when}");
            for snapshot in &left {
                open.restore_snapshot(&snapshot.id).await.unwrap();
                assert_eq!(state(&open).await, snapshot.message, "{when}");
            }
            // Back to where it began, for the next.
            open.restore_snapshot(&first).await.unwrap();
            for child in open.list_snapshots().await.unwrap().iter().filter(|s| s.parent_id == first) {
                open.delete_snapshot_with(&child.id, recursive).await.unwrap();
            }
            assert_eq!(open.manifest().snapshots.len(), 1, "{when}");
            vessel.clone_from(&open);
            if !faulty.has_failed() {
                break;
            }
            assert!(call < 40, "it never stops calling");
        }
    }
    vessel.close().await.unwrap();
}
