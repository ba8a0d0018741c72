//! Faults while layers are merged: the vessel looks the same with the merged layer and without it.
#![forbid(unsafe_code)]

use vesselrt::{Manager, SnapshotOptions};

use super::{Before, CALLS, MANY, Operation, is_met};
use crate::testkit::{BASE, Cap, Store, leftovers, need, sh, tests, tree};

tests!(a_merge_meets_faults_at_every_step);

/// Eight snapshots are merged into one layer.
const LENGTH: usize = 9;

async fn chain(manager: &Manager) -> (String, String) {
    let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
    for n in 0..LENGTH {
        sh(&vessel, &format!("echo {n} > state; rm -rf d{}; mkdir d{0}; echo {n} > d{0}/{n}", n % 3)).await;
        vessel.create_snapshot_with(SnapshotOptions::new(n.to_string()).sealed()).await.unwrap();
    }
    let seen = tree::inside(&vessel, "/work", false).await;
    vessel.close().await.unwrap();
    manager.wait_snapshot(vessel.id(), None).await.unwrap();
    (vessel.id().to_owned(), seen)
}

fn merged(store: &Store) -> Vec<std::path::PathBuf> {
    let mut layers = leftovers::entries(&store.root().join("layers"));
    layers.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with('+'));
    layers
}

async fn a_merge_meets_faults_at_every_step(store: &Store) {
    if !need(&[Cap::Root, Cap::Strace]) {
        return;
    }
    let manager = store.stocked().await;
    let (id, seen) = chain(&manager).await;
    let looks_the_same = async |what: &str| {
        let vessel = manager.open_vessel(&id).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let links = |text: &str| text.replace(" links\n", "\n");
        assert_eq!(links(&tree::inside(&vessel, "/work", false).await), links(&seen), "{what}");
        vessel.close().await.unwrap();
        leftovers::none_locked(&store.root().join("vessels"));
    };
    // What the manager does itself must not be in the way.
    manager.close().await.unwrap();
    let operation = Operation { args: &["upkeep", "ID"], states: &[], listed: &[] };
    let before = Before { id: id.clone(), one: String::new(), two: String::new() };
    let mut met = 0;
    for (call, error) in CALLS {
        for fault in [format!("error={error}"), "signal=KILL".to_owned()] {
            for nth in 1..=MANY {
                let what = format!("{call}:{fault}:when={nth}");
                for layer in merged(store) {
                    std::fs::remove_dir_all(layer).unwrap();
                }
                if !is_met(store, &operation, &before, &what) {
                    assert_eq!(merged(store).len(), 1, "{what}");
                    break;
                }
                assert!(nth < MANY, "{what}: still met");
                met += 1;
                looks_the_same(&what).await;
                assert!(store.cli(&["upkeep", &id]).status().unwrap().success(), "{what}, again");
                assert_eq!(merged(store).len(), 1, "{what}, again");
                looks_the_same(&what).await;
            }
        }
    }
    assert!(met > 10, "only {met} faults were met");
}
