//! Where manifests, archives and images are kept: the contract of a storage, images it offers, and its failures.
#![forbid(unsafe_code)]

use std::sync::Arc;

use vesselrt::{CompressedStorage, ErrorKind, LocalStorage, Manager, Storage, Vessel};
use vesselrt_storage::{MemoryStorage, conformance};

use crate::testkit::faulty::{Failure, FaultyStorage};
use crate::testkit::image::{MOTD, base_tar};
use crate::testkit::{BASE, PATIENCE, Store, fails, sh, tests, within};

tests!(
    each_storage_keeps_the_contract,
    an_image_of_the_storage_is_found_by_its_reference,
    a_vessel_moves_with_its_storage_to_another_store,
    a_snapshot_is_made_whole_or_not_at_all,
    a_restore_happens_or_does_not,
    a_creation_happens_or_leaves_nothing,
    a_deletion_that_fails_can_be_repeated,
    a_storage_that_stops_reading_ends_the_snapshot,
);

async fn each_storage_keeps_the_contract(store: &Store) {
    let local = |name: &str| LocalStorage::new(store.beside(name)).unwrap();
    conformance::run(local("plain")).await.unwrap();
    conformance::run(CompressedStorage::new(local("compressed"))).await.unwrap();
    conformance::run(CompressedStorage::new(MemoryStorage::new())).await.unwrap();
    conformance::run(FaultyStorage::new(Arc::new(MemoryStorage::new()), Failure::Before, u64::MAX))
        .await
        .unwrap();
}

async fn an_image_of_the_storage_is_found_by_its_reference(store: &Store) {
    let manager = store.manager().await;
    let images = store.root().join("data/images/localhost");
    std::fs::create_dir_all(&images).unwrap();
    let plain = base_tar();
    let zstd = zstd::encode_all(plain, 1).unwrap();
    for (name, bytes) in [("plain:1.tar", plain), ("packed:1.tar.zst", zstd.as_slice())] {
        std::fs::write(images.join(name), bytes).unwrap();
        let reference = format!("localhost/{}", name.split(".tar").next().unwrap());
        let vessel = manager.create_vessel(&reference, "/work").await.unwrap();
        assert_eq!(vessel.read_file("/etc/motd").await.unwrap(), MOTD, "{reference}");
        vessel.close().await.unwrap();
    }
    std::fs::write(images.join("broken:1.tar"), &plain[..plain.len() / 2]).unwrap();
    fails(manager.create_vessel("localhost/broken:1", "/").await, &ErrorKind::IntegrityViolation);
    fails(manager.create_vessel("localhost/none:1", "/").await, &ErrorKind::NotFound);
    // It is not read again: the store has it now.
    std::fs::remove_file(images.join("plain:1.tar")).unwrap();
    manager.create_vessel("localhost/plain:1", "/").await.unwrap().close().await.unwrap();
}

async fn a_vessel_moves_with_its_storage_to_another_store(store: &Store) {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let here = Manager::new(store.config().storage(Arc::clone(&memory))).await.unwrap();
    store.stock(&here).await;
    let vessel = here.create_vessel(BASE, "/work").await.unwrap();
    sh(&vessel, "echo travels > f; rm /etc/motd").await;
    let snapshot = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo stays > g").await;
    vessel.close().await.unwrap();
    let there = Manager::new(store.config().root(store.beside("elsewhere")).storage(memory)).await.unwrap();
    store.stock(&there).await;
    let moved = there.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&moved, "cat f; ls; ls /etc | grep -c motd || true").await, "travels\nf\n0\n");
    assert_eq!(moved.list_snapshots().await.unwrap(), [snapshot]);
    moved.close().await.unwrap();
    there.close().await.unwrap();
}

/// A vessel in memory with a snapshot and something that is in none.
async fn in_memory(store: &Store) -> (Arc<dyn Storage>, Manager, Vessel) {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let manager = Manager::new(store.config().storage(Arc::clone(&memory))).await.unwrap();
    store.stock(&manager).await;
    let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
    sh(&vessel, "echo one > state").await;
    vessel.create_snapshot("one").await.unwrap();
    sh(&vessel, "echo unsaved > unsaved; rm /etc/motd; mkdir d; echo f > d/f").await;
    vessel.close().await.unwrap();
    (memory, manager, vessel)
}

async fn failing(
    store: &Store,
    inner: &Arc<dyn Storage>,
    failure: Failure,
    call: u64,
) -> (Arc<FaultyStorage>, Manager) {
    let faulty = Arc::new(FaultyStorage::new(Arc::clone(inner), failure, call));
    let manager =
        Manager::new(store.config().storage(Arc::clone(&faulty) as Arc<dyn Storage>)).await.unwrap();
    (faulty, manager)
}

const UNSAVED: &str = "cat state unsaved d/f; [ -e /etc/motd ] || echo gone";

async fn is_as_before(vessel: &Vessel, when: &str) {
    assert_eq!(sh(vessel, UNSAVED).await, "one\nunsaved\nf\ngone\n", "{when}");
}

async fn a_snapshot_is_made_whole_or_not_at_all(store: &Store) {
    let (memory, manager, vessel) = in_memory(store).await;
    let mut snapshots = 1;
    for failure in [Failure::Before, Failure::After, Failure::Midway] {
        for call in 1.. {
            let when = format!("{failure:?} call {call}");
            let (faulty, bad) = failing(store, &memory, failure, call).await;
            let made = match bad.open_vessel(vessel.id()).await {
                Ok(open) => {
                    let made = open.create_snapshot(&when).await;
                    // Usable at once, whatever happened.
                    is_as_before(&open, &when).await;
                    open.close().await.unwrap();
                    made.map(Some)
                }
                Err(error) => Err(error),
            };
            drop(bad);
            let good = manager.open_vessel(vessel.id()).await.unwrap();
            is_as_before(&good, &when).await;
            let listed = good.list_snapshots().await.unwrap();
            match &made {
                Ok(_) => snapshots += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{when}: {}", error.chain()),
            }
            assert_eq!(listed.len(), snapshots, "{when}: {made:?}");
            good.restore_snapshot(&listed.last().unwrap().id).await.unwrap();
            if snapshots > 1 {
                is_as_before(&good, &when).await;
            } else {
                sh(&good, "echo unsaved > unsaved; rm /etc/motd; mkdir d; echo f > d/f").await;
            }
            good.close().await.unwrap();
            if !faulty.has_failed() {
                break;
            }
            assert!(call < 30, "it never stops calling");
        }
    }
}

async fn a_restore_happens_or_does_not(store: &Store) {
    let (memory, manager, vessel) = in_memory(store).await;
    let good = manager.open_vessel(vessel.id()).await.unwrap();
    let two = good.create_snapshot("two").await.unwrap().id;
    let one = good.list_snapshots().await.unwrap()[0].id.clone();
    good.close().await.unwrap();
    for failure in [Failure::Before, Failure::After] {
        for call in 1.. {
            let when = format!("{failure:?} call {call}");
            let good = manager.open_vessel(vessel.id()).await.unwrap();
            good.restore_snapshot(&two).await.unwrap();
            sh(&good, "echo more > more").await;
            good.close().await.unwrap();
            let (faulty, bad) = failing(store, &memory, failure, call).await;
            let restored = match bad.open_vessel(vessel.id()).await {
                Ok(open) => {
                    let restored = open.restore_snapshot(&one).await;
                    let now = sh(&open, "ls").await;
                    open.close().await.unwrap();
                    assert_eq!(
                        now,
                        if restored.is_ok() { "state\n" } else { "d\nmore\nstate\nunsaved\n" },
                        "{when}"
                    );
                    restored
                }
                Err(error) => Err(error),
            };
            let good = manager.open_vessel(vessel.id()).await.unwrap();
            let (current, now) = (good.manifest().current_snapshot_id, sh(&good, "ls").await);
            // What the manifest says and what is there are of one mind, in any case.
            let expected = if current == one { "state\n" } else { "d\nmore\nstate\nunsaved\n" };
            assert_eq!(now, expected, "{when}: {restored:?}");
            assert_eq!(current == one, restored.is_ok(), "{when}: {restored:?}");
            good.close().await.unwrap();
            if !faulty.has_failed() {
                break;
            }
            assert!(call < 30, "it never stops calling");
        }
    }
}

async fn a_creation_happens_or_leaves_nothing(store: &Store) {
    let (memory, manager, vessel) = in_memory(store).await;
    for failure in [Failure::Before, Failure::After] {
        for call in 1.. {
            let (faulty, bad) = failing(store, &memory, failure, call).await;
            let options = vesselrt::CreateOptions::new(BASE).id(format!("new-{call}"));
            match bad.create_vessel_with(options).await {
                Ok(made) => {
                    sh(&made, "true").await;
                    made.close().await.unwrap();
                    manager.delete_vessel(made.id()).await.unwrap();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain()),
            }
            let listed: Vec<String> =
                manager.list_vessels().await.unwrap().into_iter().map(|m| m.id).collect();
            assert_eq!(listed, [vessel.id()], "{failure:?} call {call}");
            if !faulty.has_failed() {
                break;
            }
            assert!(call < 30, "it never stops calling");
        }
    }
}

async fn a_deletion_that_fails_can_be_repeated(store: &Store) {
    let (memory, manager, vessel) = in_memory(store).await;
    for failure in [Failure::Before, Failure::After] {
        for call in 1.. {
            let when = format!("{failure:?} call {call}");
            let good = manager.open_vessel(vessel.id()).await.unwrap();
            let listed = good.list_snapshots().await.unwrap();
            if listed.len() == 1 {
                good.create_snapshot("to be deleted").await.unwrap();
            }
            let doomed = good.list_snapshots().await.unwrap()[1].id.clone();
            good.restore_snapshot(&doomed).await.unwrap();
            good.close().await.unwrap();
            let (faulty, bad) = failing(store, &memory, failure, call).await;
            if let Ok(open) = bad.open_vessel(vessel.id()).await {
                let _ = open.delete_snapshot(&doomed).await;
                open.close().await.unwrap();
            }
            let good = manager.open_vessel(vessel.id()).await.unwrap();
            match good.delete_snapshot(&doomed).await {
                Ok(()) => {}
                // It was deleted although the answer was an error.
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{when}: {}", error.chain()),
            }
            assert_eq!(good.list_snapshots().await.unwrap().len(), 1, "{when}");
            assert_eq!(sh(&good, "ls").await, "state\n", "{when}");
            good.close().await.unwrap();
            if !faulty.has_failed() {
                break;
            }
            assert!(call < 30, "it never stops calling");
        }
    }
}

async fn a_storage_that_stops_reading_ends_the_snapshot(store: &Store) {
    let (memory, manager, vessel) = in_memory(store).await;
    let good = manager.open_vessel(vessel.id()).await.unwrap();
    // More than any pipe holds: whoever packs must not wait for a reader that is gone.
    sh(&good, "head -c 30000000 /dev/urandom > big").await;
    good.close().await.unwrap();
    for failure in [Failure::Before, Failure::Midway] {
        for call in 1..8 {
            let (_faulty, bad) = failing(store, &memory, failure, call).await;
            let Ok(open) = bad.open_vessel(vessel.id()).await else { continue };
            let _ = within(PATIENCE, "the snapshot", open.create_snapshot("")).await;
            is_as_before(&open, "after a failure").await;
            open.close().await.unwrap();
        }
    }
    let good = manager.open_vessel(vessel.id()).await.unwrap();
    is_as_before(&good, "at last").await;
    good.close().await.unwrap();
}
