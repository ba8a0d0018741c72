//! The command line is killed while it forks, squashes and prunes.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{prepared, state};
use crate::testkit::random::Random;
use crate::testkit::{Store, leftovers, sh, tests};

tests!(
    forks_that_are_listed_are_whole_whenever_their_maker_is_killed,
    snapshots_that_are_listed_are_whole_whenever_their_remover_is_killed,
);

const ROUNDS: u32 = 10;

/// Runs a command and kills it at a random moment of the time it takes, about.
fn killed(random: &mut Random, mut command: Command, usual: Duration) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(random.moment(usual + usual / 4 + Duration::from_millis(1)));
    let _ = child.kill();
    child.wait().unwrap();
}

fn names(dir: &Path) -> BTreeSet<String> {
    let name = |path: std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    leftovers::entries(dir).into_iter().map(name).collect()
}

async fn forks_that_are_listed_are_whole_whenever_their_maker_is_killed(store: &Store) {
    let (manager, vessel, _) = prepared(store).await;
    let mut random = Random::new();
    let fork = |count: &str| store.cli(&["fork", vessel.id(), "-n", count]);
    let begin = Instant::now();
    assert!(fork("70").output().unwrap().status.success());
    let usual = begin.elapsed();
    for round in 0..ROUNDS {
        killed(&mut random, fork("70"), usual);
        leftovers::none_locked(&store.root().join("vessels"));
        let listed: BTreeSet<String> =
            manager.list_vessels().await.unwrap().into_iter().map(|vessel| vessel.id).collect();
        manager.collect_garbage().await.unwrap();
        assert_eq!(names(&store.root().join("vessels")), listed, "round {round}");
        // One of the newest, and whatever was made meanwhile is as good.
        let some = listed.iter().find(|id| *id != vessel.id()).unwrap();
        let open = manager.open_vessel(some).await.unwrap();
        assert_eq!(state(&open).await, "now\n");
        open.close().await.unwrap();
        for id in listed.iter().filter(|id| *id != vessel.id()) {
            for snapshot in manager.wait_snapshot(id, None).await.unwrap() {
                assert!(super::archive(store, id, &snapshot.id).exists(), "{id} {}", snapshot.id);
            }
            manager.delete_vessel(id).await.unwrap();
        }
        let again = fork("1").output().unwrap();
        assert!(again.status.success(), "{again:?}");
    }
    // The storage sweeps what is half made when it next makes or deletes something.
    let last = manager.fork_vessel(vessel.id(), vesselrt::ForkOptions::new()).await.unwrap();
    manager.delete_vessel(&last[0].id).await.unwrap();
    let left = names(&store.root().join("data/vessels"));
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
}

async fn snapshots_that_are_listed_are_whole_whenever_their_remover_is_killed(store: &Store) {
    let (manager, vessel, [one, two]) = prepared(store).await;
    let mut random = Random::new();
    let mut usual = Duration::from_millis(50);
    for round in 0..ROUNDS {
        let open = manager.open_vessel(vessel.id()).await.unwrap();
        open.restore_snapshot(&two.id).await.unwrap();
        let mut made = Vec::new();
        for n in 0..3 {
            sh(&open, &format!("echo -n {n} > state")).await;
            made.push(open.create_snapshot(&n.to_string()).await.unwrap());
        }
        open.close().await.unwrap();
        let args: Vec<&str> = match round % 3 {
            0 => vec!["snapshot", "rm", vessel.id(), &made[0].id, "--recursive", "--force"],
            1 => vec!["snapshot", "rm", vessel.id(), &made[1].id, "--squash"],
            _ => vec!["snapshot", "prune", vessel.id(), "--keep-last", "0", "--squash"],
        };
        let begin = Instant::now();
        if round < 1 {
            assert!(store.cli(&args).output().unwrap().status.success());
            usual = begin.elapsed();
        } else {
            killed(&mut random, store.cli(&args), usual);
        }
        let open = manager.open_vessel(vessel.id()).await.unwrap();
        let now = sh(&open, "cat state later").await;
        assert!(now == "2x\n" || (round % 3 == 0 && now == "two\nx\n"), "{now:?} in round {round}");
        for snapshot in open.list_snapshots().await.unwrap() {
            open.restore_snapshot(&snapshot.id).await.unwrap();
            assert_eq!(state(&open).await.trim_end(), snapshot.message, "round {round}");
        }
        if round % 3 != 2 {
            open.restore_snapshot(&two.id).await.unwrap();
        }
        // Whatever is left to do can be done now: back to where the round began.
        let raw = manager.vessel_manifest(vessel.id()).await.unwrap();
        if raw.named(&one.id).is_none() || raw.named(&two.id).is_none() {
            break;
        }
        for child in made.iter().filter(|snapshot| raw.named(&snapshot.id).is_some()) {
            let how = vesselrt::SnapshotDeletion::new().recursive(true).force(true);
            let _ = open.delete_snapshot_with(&child.id, how).await;
        }
        open.close().await.unwrap();
    }
    manager.collect_garbage().await.unwrap();
    let raw = manager.vessel_manifest(vessel.id()).await.unwrap();
    let mentioned: BTreeSet<String> = raw.snapshots.iter().map(|s| format!("{}.tar.zst", s.id)).collect();
    let kept = names(&store.root().join(format!("data/vessels/{}/snapshots", vessel.id())));
    assert_eq!(kept, mentioned, "neither an archive too many nor one too few");
    let layers: BTreeSet<String> = raw.snapshots.iter().map(|s| s.id.clone()).collect();
    assert_eq!(names(&store.root().join("layers")), layers);
}
