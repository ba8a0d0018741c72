//! Forks in storages that fail, that know nothing of forks, and that are used from elsewhere.
#![forbid(unsafe_code)]

use std::sync::Arc;

use vesselrt::{ErrorKind, ForkOptions, Manager, Storage};
use vesselrt_storage::MemoryStorage;

use super::state;
use crate::testkit::faulty::{Failure, FaultyStorage};
use crate::testkit::{BASE, Store, leftovers, sh, tests};

tests!(
    a_fork_is_a_vessel_on_another_machine,
    all_forks_are_made_or_none,
    forks_come_to_stores_that_know_the_origin
);

/// A vessel in `storage` with the snapshot `one`, and a change.
async fn vessel_in(store: &Store, storage: &Arc<dyn Storage>) -> (Manager, String) {
    let manager = Manager::new(store.config().storage(Arc::clone(storage))).await.unwrap();
    store.stock(&manager).await;
    let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
    sh(&vessel, "echo one > state; rm /etc/motd").await;
    vessel.create_snapshot("one").await.unwrap();
    sh(&vessel, "echo now > state").await;
    vessel.close().await.unwrap();
    (manager, vessel.id().to_owned())
}

async fn a_fork_is_a_vessel_on_another_machine(store: &Store) {
    let memory = Arc::new(MemoryStorage::new());
    // One with the trait's own way of forking, by copies.
    let plain: Arc<dyn Storage> = Arc::new(FaultyStorage::new(memory.clone(), Failure::Before, u64::MAX));
    let (here, origin) = vessel_in(store, &plain).await;
    let made = here.fork_vessel(&origin, ForkOptions::new().count(3)).await.unwrap();
    here.delete_vessel(&origin).await.unwrap();
    here.delete_vessel(&made[0].id).await.unwrap();
    here.close().await.unwrap();
    let there = Manager::new(store.config().root(store.beside("elsewhere")).storage(plain)).await.unwrap();
    store.stock(&there).await;
    for fork in &made[1..] {
        let open = there.open_vessel(&fork.id).await.unwrap();
        assert_eq!(sh(&open, "cat state; ls /etc | grep -c motd || true").await, "now\n0\n");
        open.restore_snapshot(&fork.snapshots[0].id).await.unwrap();
        assert_eq!(state(&open).await, "one\n");
        open.close().await.unwrap();
    }
    there.delete_vessel(&made[1].id).await.unwrap();
    there.collect_garbage().await.unwrap();
    let open = there.open_vessel(&made[2].id).await.unwrap();
    open.restore_snapshot(&made[2].current_snapshot_id).await.unwrap();
    assert_eq!(state(&open).await, "now\n");
    open.close().await.unwrap();
    there.close().await.unwrap();
}

async fn all_forks_are_made_or_none(store: &Store) {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let (manager, origin) = vessel_in(store, &memory).await;
    let mut vessels = 1;
    for failure in [Failure::Before, Failure::After] {
        for call in 1.. {
            let when = format!("{failure:?} call {call}");
            let faulty = Arc::new(FaultyStorage::new(Arc::clone(&memory), failure, call));
            let bad =
                Manager::new(store.config().storage(Arc::clone(&faulty) as Arc<dyn Storage>)).await.unwrap();
            let made = bad.fork_vessel(&origin, ForkOptions::new().count(2)).await;
            match &made {
                Ok(_) => vessels += 2,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{when}: {}", error.chain()),
            }
            drop(bad);
            manager.collect_garbage().await.unwrap();
            let listed = manager.list_vessels().await.unwrap();
            assert_eq!(listed.len(), vessels, "{when}: {made:?}");
            assert_eq!(leftovers::entries(&store.root().join("vessels")).len(), vessels, "{when}");
            let now = manager.open_vessel(&listed.last().unwrap().id).await.unwrap();
            assert_eq!(state(&now).await, "now\n", "{when}");
            now.close().await.unwrap();
            if !faulty.has_failed() {
                break;
            }
            assert!(call < 60, "it never stops calling");
        }
    }
}

/// Two stores with one storage: the origin is made in one and forked in the other, and the fork comes to the first, where
/// nobody knows that the origin was forked. Its layer is the origin's, which goes while the fork runs.
async fn forks_come_to_stores_that_know_the_origin(store: &Store) {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let (here, origin) = vessel_in(store, &memory).await;
    let from = here.vessel_manifest(&origin).await.unwrap().current_snapshot_id;
    let there = Manager::new(store.config().root(store.beside("elsewhere")).storage(memory)).await.unwrap();
    store.stock(&there).await;
    let fork = there.fork_vessel(&origin, ForkOptions::new().from(&from)).await.unwrap().remove(0);
    there.close().await.unwrap();
    let open = here.open_vessel(&fork.id).await.unwrap();
    here.delete_vessel(&origin).await.unwrap();
    here.collect_garbage().await.unwrap();
    let layers = || leftovers::entries(&store.root().join("layers")).len();
    assert_eq!(layers(), 1);
    assert_eq!(sh(&open, "cat state").await, "one\n");
    open.close().await.unwrap();
    here.delete_vessel(&fork.id).await.unwrap();
    here.close().await.unwrap();
    assert_eq!(layers(), 0);
}
