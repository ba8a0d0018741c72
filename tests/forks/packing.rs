//! Forks of a state whose archive is not stored yet: whoever goes, goes without taking it from the others.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vesselrt::{
    CompressedStorage, ErrorKind, ForkOptions, Manager, Packer, SnapshotManifest, SnapshotOptions, Storage,
    Vessel,
};

use super::{archive, file_of, layers_of, state};
use crate::persistence::wipe;
use crate::testkit::faulty::{Failure, FaultyStorage};
use crate::testkit::random::Random;
use crate::testkit::{Store, fails, leftovers, sh, tests, tests_on_each_driver, tree};

tests_on_each_driver!(
    forks_of_an_unsaved_state_run_at_once_and_share_one_archive,
    without_the_parent_the_forks_pack_for_themselves,
);

tests!(
    a_fork_that_goes_takes_nothing_from_the_others,
    forks_of_forks_wait_for_the_same_archive,
    hundreds_of_forks_wait_at_once,
    a_snapshot_that_the_parent_deletes_is_kept_for_its_forks,
    a_long_chain_without_archives_is_forked_and_merged,
    garbage_collection_beside_forks_that_wait_takes_nothing,
    a_layer_that_a_crash_left_without_its_name_is_forked,
    an_archive_that_is_not_where_it_was_is_packed_again,
    a_storage_that_fails_keeps_forks_waiting,
    forks_of_what_changes_are_whole_whenever_their_maker_is_killed,
);

/// A manager that leaves archives to others, who never come.
async fn idle(store: &Store) -> Manager {
    let never = Packer::Process { program: "/bin/true".into(), arguments: Vec::new() };
    Manager::new(store.config().packer(never)).await.unwrap()
}

/// A closed vessel with the stored snapshot `one` and the state `now`, which nobody packs.
async fn unsaved(store: &Store) -> (Manager, Vessel, SnapshotManifest) {
    let (busy, vessel) = store.vessel().await;
    sh(&vessel, "echo one > state; mkdir d; echo below > d/f").await;
    let one = vessel.create_snapshot("one").await.unwrap();
    vessel.close().await.unwrap();
    drop(busy);
    let manager = idle(store).await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    sh(&vessel, "echo now > state; rm -r d; mkdir d; cp state d/copy; head -c 300000 /dev/urandom > big")
        .await;
    vessel.close().await.unwrap();
    (manager, vessel, one)
}

/// What all of them show that began at [`unsaved`].
async fn is_as_forked(vessel: &Vessel) {
    assert_eq!(sh(vessel, "cat state d/copy; ls; wc -c < big").await, "now\nnow\nbig\nd\nstate\n300000\n");
}

/// The same, with another file in it.
async fn is_as_forked_but(vessel: &Vessel, another: &str) {
    assert_eq!(
        sh(vessel, &format!("rm {another}; cat state d/copy; wc -c < big")).await,
        "now\nnow\n300000\n"
    );
}

async fn fork(manager: &Manager, id: &str, count: usize) -> Vec<String> {
    let made = manager.fork_vessel(id, ForkOptions::new().count(count)).await.unwrap();
    for fork in &made {
        let top = fork.snapshot(&fork.current_snapshot_id).unwrap();
        assert!(!top.is_stored() && top.vessel_id == fork.id, "{top:?}");
    }
    made.into_iter().map(|fork| fork.id).collect()
}

/// Waits for a vessel's archives, and says which file the newest is.
async fn stored(store: &Store, manager: &Manager, id: &str) -> (PathBuf, (u64, u64)) {
    let all = manager.wait_snapshot(id, None).await.unwrap();
    assert!(all.iter().all(SnapshotManifest::is_stored));
    let path = archive(store, id, &all.last().unwrap().id);
    let file = file_of(&path);
    (path, file)
}

/// All of these are as they were forked: as they are, from their layers, and from their archives alone.
async fn all_are_whole(store: &Store, manager: &Manager, ids: &[&String], one: &SnapshotManifest) {
    for archives_alone in [false, true] {
        for id in ids {
            if archives_alone {
                manager.wait_snapshot(id, None).await.unwrap();
            }
        }
        if archives_alone {
            wipe(store);
        }
        for id in ids {
            let open = manager.open_vessel(id).await.unwrap();
            let top = open.manifest().current_snapshot_id;
            is_as_forked(&open).await;
            open.restore_snapshot(&one.id).await.unwrap();
            assert_eq!(sh(&open, "cat state d/f").await, "one\nbelow\n");
            open.restore_snapshot(&top).await.unwrap();
            is_as_forked(&open).await;
            open.close().await.unwrap();
        }
    }
}

async fn forks_of_an_unsaved_state_run_at_once_and_share_one_archive(store: &Store) {
    let (manager, vessel, one) = unsaved(store).await;
    let made = fork(&manager, vessel.id(), 3).await;
    let (a, b) = (manager.open_vessel(&made[0]).await.unwrap(), manager.open_vessel(&made[1]).await.unwrap());
    is_as_forked(&a).await;
    sh(&a, "echo a > state; rm big").await;
    is_as_forked(&b).await;
    let mine = a.create_snapshot_with(SnapshotOptions::new("mine").sealed()).await.unwrap();
    let listed = manager.vessel_manifest(&made[0]).await.unwrap();
    assert_eq!(listed.snapshots.iter().filter(|snapshot| !snapshot.is_stored()).count(), 2);
    a.close().await.unwrap();
    b.close().await.unwrap();
    // In the storage is what can be restored elsewhere, and no more.
    let raw = std::fs::read(store.root().join(format!("data/vessels/{}/vessel.dat", made[1]))).unwrap();
    let there = vesselrt::VesselManifest::parse(&raw).unwrap();
    assert_eq!((there.snapshots.len(), &there.current_snapshot_id), (1, &one.id));
    // Whoever is waited for first packs; for the others it is there.
    let (_, first) = stored(store, &manager, &made[2]).await;
    let (_, second) = stored(store, &manager, &made[1]).await;
    let (_, origin) = stored(store, &manager, vessel.id()).await;
    assert_eq!((first, second), (origin, origin), "it is kept once");
    let all = manager.wait_snapshot(&made[0], None).await.unwrap();
    assert_eq!(all.last().unwrap().id, mine.id);
    assert_eq!(file_of(&archive(store, &made[0], &all[1].id)), origin);
    all_are_whole(store, &manager, &[&made[1], &made[2], &vessel.id().to_owned()], &one).await;
    let a = manager.open_vessel(&made[0]).await.unwrap();
    assert_eq!(state(&a).await, "a\n");
    a.close().await.unwrap();
}

async fn without_the_parent_the_forks_pack_for_themselves(store: &Store) {
    let (manager, vessel, one) = unsaved(store).await;
    let made = fork(&manager, vessel.id(), 2).await;
    manager.delete_vessel(vessel.id()).await.unwrap();
    manager.collect_garbage().await.unwrap();
    let (_, first) = stored(store, &manager, &made[1]).await;
    let (_, second) = stored(store, &manager, &made[0]).await;
    assert_eq!(first, second);
    all_are_whole(store, &manager, &[&made[0], &made[1]], &one).await;
}

async fn a_fork_that_goes_takes_nothing_from_the_others(store: &Store) {
    let (manager, vessel, one) = unsaved(store).await;
    let made = fork(&manager, vessel.id(), 4).await;
    manager.delete_vessel(&made[0]).await.unwrap();
    manager.collect_garbage().await.unwrap();
    stored(store, &manager, &made[1]).await;
    // It was the one that packed: its archive goes with it, and what is written down about it is wrong.
    manager.delete_vessel(&made[1]).await.unwrap();
    manager.collect_garbage().await.unwrap();
    stored(store, &manager, &made[2]).await;
    all_are_whole(store, &manager, &[&made[2], &made[3], &vessel.id().to_owned()], &one).await;
}

async fn forks_of_forks_wait_for_the_same_archive(store: &Store) {
    let (manager, vessel, one) = unsaved(store).await;
    let child = fork(&manager, vessel.id(), 1).await.remove(0);
    let grandchild = fork(&manager, &child, 1).await.remove(0);
    let open = manager.open_vessel(&grandchild).await.unwrap();
    is_as_forked(&open).await;
    sh(&open, "echo more > more").await;
    open.close().await.unwrap();
    // Two snapshots that wait, of which it has made one.
    let last = fork(&manager, &grandchild, 2).await;
    for gone in [vessel.id(), &child, &grandchild] {
        manager.delete_vessel(gone).await.unwrap();
        manager.collect_garbage().await.unwrap();
    }
    let (_, file) = stored(store, &manager, &last[0]).await;
    assert_eq!(stored(store, &manager, &last[1]).await.1, file);
    wipe(store);
    let open = manager.open_vessel(&last[1]).await.unwrap();
    assert_eq!(sh(&open, "cat state more; wc -c < big").await, "now\nmore\n300000\n");
    open.restore_snapshot(&one.id).await.unwrap();
    assert_eq!(state(&open).await, "one\n");
    open.close().await.unwrap();
}

async fn hundreds_of_forks_wait_at_once(store: &Store) {
    // Each holds two descriptors meanwhile, and no thread.
    const MANY: usize = 250;
    let (manager, vessel, _) = unsaved(store).await;
    let open = manager.open_vessel(vessel.id()).await.unwrap();
    sh(&open, "head -c 20000000 /dev/urandom > large").await;
    open.close().await.unwrap();
    let made = fork(&manager, vessel.id(), MANY).await;
    let mut tasks = tokio::task::JoinSet::new();
    for id in made.clone() {
        let manager = manager.clone();
        tasks.spawn(async move { manager.wait_snapshot(&id, None).await.unwrap() });
    }
    // Some go meanwhile, whether it was they who packed or not.
    for id in made.iter().skip(1).step_by(50) {
        tasks.spawn({
            let (manager, id) = (manager.clone(), id.clone());
            async move {
                manager.delete_vessel(&id).await.unwrap();
                Vec::new()
            }
        });
    }
    let (mut stored, mut gone) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(all) if all.is_empty() => {}
            Ok(all) => stored += usize::from(all.iter().all(SnapshotManifest::is_stored)),
            Err(error) => {
                assert!(error.to_string().contains("vessel not found"), "{error}");
                gone += 1;
            }
        }
    }
    assert!(stored + gone == MANY && gone <= MANY / 50, "{stored} are stored, {gone} are gone");
    let files: HashSet<(u64, u64)> = manager
        .list_vessels()
        .await
        .unwrap()
        .iter()
        .filter(|one| one.id != vessel.id())
        .map(|one| file_of(&archive(store, &one.id, &one.current_snapshot_id)))
        .collect();
    assert_eq!(files.len(), 1, "it is kept once");
    for id in made.iter().step_by(100) {
        let open = manager.open_vessel(id).await.unwrap();
        is_as_forked_but(&open, "large").await;
        open.close().await.unwrap();
    }
}

async fn a_snapshot_that_the_parent_deletes_is_kept_for_its_forks(store: &Store) {
    let (manager, vessel, one) = unsaved(store).await;
    let made = fork(&manager, vessel.id(), 2).await;
    let top = manager.vessel_manifest(&made[0]).await.unwrap().current_snapshot_id;
    let origin = manager.open_vessel(vessel.id()).await.unwrap();
    origin.restore_snapshot(&one.id).await.unwrap();
    origin.delete_snapshot(&top).await.unwrap();
    fails(origin.restore_snapshot(&top).await, &ErrorKind::NotFound);
    let fork = manager.open_vessel(&made[0]).await.unwrap();
    fork.restore_snapshot(&one.id).await.unwrap();
    fork.delete_snapshot(&top).await.unwrap();
    manager.collect_garbage().await.unwrap();
    fork.close().await.unwrap();
    origin.close().await.unwrap();
    all_are_whole(store, &manager, &[&made[1]], &one).await;
    manager.delete_vessel(&made[1]).await.unwrap();
    manager.collect_garbage().await.unwrap();
    let left = layers_of(store);
    assert!(!left.iter().any(|path| path.ends_with(&top)), "the last that had it is gone: {left:?}");
}

async fn a_long_chain_without_archives_is_forked_and_merged(store: &Store) {
    let (manager, vessel, _) = unsaved(store).await;
    let open = manager.open_vessel(vessel.id()).await.unwrap();
    for n in 0..33 {
        sh(&open, &format!("echo {n} > f{}; rm -rf d; mkdir d; echo {n} > d/{n}", n % 5)).await;
        open.create_snapshot_with(SnapshotOptions::new(n.to_string()).sealed()).await.unwrap();
    }
    let expected = tree::inside(&open, "/work", false).await;
    open.close().await.unwrap();
    let made = fork(&manager, vessel.id(), 2).await;
    manager.delete_vessel(vessel.id()).await.unwrap();
    let packing = store.manager().await;
    packing.upkeep_vessel(&made[1]).await.unwrap();
    if store.driver() != vesselrt::OverlayDriver::Fuse {
        let is_merged = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('+');
        assert!(layers_of(store).iter().any(is_merged));
    }
    packing.collect_garbage().await.unwrap();
    packing.close().await.unwrap();
    drop(manager);
    for archives_alone in [false, true] {
        if archives_alone {
            packing.wait_snapshot(&made[0], None).await.unwrap();
            wipe(store);
        }
        for id in &made {
            let open = packing.open_vessel(id).await.unwrap();
            let links = |text: &str| text.replace(" links\n", "\n");
            assert_eq!(links(&tree::inside(&open, "/work", false).await), links(&expected));
            open.close().await.unwrap();
        }
    }
}

async fn garbage_collection_beside_forks_that_wait_takes_nothing(store: &Store) {
    let (manager, vessel, one) = unsaved(store).await;
    let (collector, stop) = (store.manager().await, Arc::new(tokio::sync::Notify::new()));
    let told = Arc::clone(&stop);
    let collecting = tokio::spawn(async move {
        let mut rounds = 0;
        loop {
            // It packs what waits, too.
            collector.collect_garbage().await.unwrap();
            rounds += 1;
            let pause = tokio::time::sleep(Duration::from_millis(1));
            tokio::select! { () = told.notified() => return (collector, rounds), () = pause => {} }
        }
    });
    let mut kept = Vec::new();
    for round in 0..6 {
        let made = manager.fork_vessel(vessel.id(), ForkOptions::new().count(3)).await.unwrap();
        manager.delete_vessel(&made[round % 3].id).await.unwrap();
        kept.extend(made.into_iter().enumerate().filter(|(n, _)| *n != round % 3).map(|(_, fork)| fork.id));
        let open = manager.open_vessel(kept.last().unwrap()).await.unwrap();
        is_as_forked(&open).await;
        open.close().await.unwrap();
    }
    manager.delete_vessel(vessel.id()).await.unwrap();
    stop.notify_one();
    let (collector, rounds) = collecting.await.unwrap();
    assert!(rounds > 3);
    collector.collect_garbage().await.unwrap();
    collector.close().await.unwrap();
    all_are_whole(store, &manager, &kept.iter().collect::<Vec<_>>(), &one).await;
}

async fn a_layer_that_a_crash_left_without_its_name_is_forked(store: &Store) {
    let (manager, vessel, one) = unsaved(store).await;
    let open = manager.open_vessel(vessel.id()).await.unwrap();
    let sealed = open.create_snapshot_with(SnapshotOptions::new("sealed").sealed()).await.unwrap();
    open.close().await.unwrap();
    leftovers::none_locked(&store.root().join("vessels"));
    // As if the power had failed after the state was written: the rename and the next layer have not happened.
    let dir = store.root().join("vessels").join(vessel.id());
    let state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("state.json")).unwrap()).unwrap();
    let pending = &state["pending"];
    assert_eq!((&pending["kind"], &pending["snapshot"]), (&"sealed".into(), &sealed.id.as_str().into()));
    crate::testkit::store::remove(&dir.join(format!("gen-{}", state["generation"]))).unwrap();
    let before = dir.join(format!("gen-{}", pending["generation"]));
    std::fs::rename(store.root().join("layers").join(&sealed.id), &before).unwrap();
    let made = fork(&manager, vessel.id(), 2).await;
    assert!(!before.exists() && layers_of(store).len() == 2);
    manager.delete_vessel(vessel.id()).await.unwrap();
    all_are_whole(store, &manager, &[&made[0], &made[1]], &one).await;
}

async fn an_archive_that_is_not_where_it_was_is_packed_again(store: &Store) {
    let (manager, vessel, one) = unsaved(store).await;
    let made = fork(&manager, vessel.id(), 3).await;
    let (first, _) = stored(store, &manager, &made[0]).await;
    let good = std::fs::read(&first).unwrap();
    std::fs::remove_file(&first).unwrap();
    let (second, _) = stored(store, &manager, &made[1]).await;
    assert_eq!(std::fs::read(&second).unwrap(), good, "the same layer, the same bytes");
    // A note that says nothing.
    let top = manager.vessel_manifest(&made[0]).await.unwrap().current_snapshot_id;
    std::fs::write(store.root().join("layers").join(top).join("archive.json"), "{").unwrap();
    let (third, _) = stored(store, &manager, &made[2]).await;
    assert_eq!(std::fs::read(&third).unwrap(), good);
    all_are_whole(store, &manager, &[&made[1], &made[2]], &one).await;
}

async fn a_storage_that_fails_keeps_forks_waiting(store: &Store) {
    let (good, vessel, _) = unsaved(store).await;
    let from = fork(&good, vessel.id(), 1).await.remove(0);
    let mut met = 0;
    for failure in [Failure::Before, Failure::After, Failure::Midway] {
        for call in 1.. {
            let when = format!("{failure:?} call {call}");
            let made = fork(&good, &from, 2).await;
            let inner = Arc::new(CompressedStorage::local(store.root().join("data")).unwrap());
            let faulty = Arc::new(FaultyStorage::new(inner, failure, call));
            let config = store.config().storage(Arc::clone(&faulty) as Arc<dyn Storage>);
            let bad = Manager::new(config).await.unwrap();
            for id in &made {
                let _ = bad.wait_snapshot(id, None).await;
            }
            bad.close().await.unwrap();
            for id in &made {
                let open = good.open_vessel(id).await.unwrap();
                is_as_forked(&open).await;
                open.close().await.unwrap();
            }
            let (first, second) =
                (stored(store, &good, &made[0]).await, stored(store, &good, &made[1]).await);
            assert_eq!(first.1, second.1, "{when}");
            for id in made {
                good.delete_vessel(&id).await.unwrap();
            }
            if !faulty.has_failed() {
                break;
            }
            met += 1;
            assert!(call < 60, "it never stops calling");
        }
    }
    assert!(met > 8, "only {met} calls failed");
}

async fn forks_of_what_changes_are_whole_whenever_their_maker_is_killed(store: &Store) {
    let (manager, vessel, one) = unsaved(store).await;
    let mut random = Random::new();
    let mut usual = Duration::from_millis(400);
    for round in 0..8 {
        let open = manager.open_vessel(vessel.id()).await.unwrap();
        sh(&open, &format!("echo {round} > round")).await;
        open.close().await.unwrap();
        let before: HashSet<String> =
            manager.list_vessels().await.unwrap().into_iter().map(|vessel| vessel.id).collect();
        let begin = std::time::Instant::now();
        let mut child =
            store.cli(&["fork", vessel.id(), "-n", "5"]).stdout(std::process::Stdio::null()).spawn().unwrap();
        if round == 0 {
            assert!(child.wait().unwrap().success());
            usual = begin.elapsed();
        } else {
            std::thread::sleep(random.moment(usual + usual / 4));
            let _ = child.kill();
            child.wait().unwrap();
        }
        let made: Vec<String> = manager.list_vessels().await.unwrap().into_iter().map(|v| v.id).collect();
        manager.collect_garbage().await.unwrap();
        for id in made.iter().filter(|id| !before.contains(*id)) {
            manager.wait_snapshot(id, None).await.unwrap();
            let open = manager.open_vessel(id).await.unwrap();
            assert_eq!(sh(&open, "cat round state").await, format!("{round}\nnow\n"));
            open.restore_snapshot(&one.id).await.unwrap();
            assert_eq!(state(&open).await, "one\n");
            open.close().await.unwrap();
            manager.delete_vessel(id).await.unwrap();
        }
        let open = manager.open_vessel(vessel.id()).await.unwrap();
        assert_eq!(sh(&open, "cat round state").await, format!("{round}\nnow\n"));
        open.close().await.unwrap();
    }
}
