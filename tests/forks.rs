//! Forks: vessels that begin where another is, share what they can with it, and do not know of each other.
#![forbid(unsafe_code)]

mod cli;
mod killed;
mod packing;
mod stores;
mod usage;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use vesselrt::{ErrorKind, ExecOptions, ForkOptions, Manager, SnapshotManifest, Vessel};

use crate::testkit::{Store, fails, fails_with, leftovers, run_in, sh, tests, tests_on_each_driver};

tests_on_each_driver!(
    two_forks_change_the_same_file_and_neither_sees_the_other,
    deleting_the_parent_breaks_neither_fork,
    forks_come_back_from_their_archives,
);

tests!(
    a_fork_begins_at_what_the_vessel_is_now,
    a_vessel_that_did_not_change_gets_no_snapshot_by_being_forked,
    a_change_of_the_root_directory_alone_is_forked,
    a_fork_begins_at_an_earlier_snapshot_and_has_no_later_ones,
    a_fork_has_a_history_of_its_own,
    forks_of_forks_outlive_all_before_them,
    forks_have_the_ids_and_labels_that_were_asked_for,
    a_fork_that_cannot_be_made_leaves_none,
    a_vessel_in_use_is_forked_and_goes_on,
    many_forks_take_little_and_no_process,
    forks_made_at_once_are_all_there,
);

/// A closed vessel with the snapshots `one` and `two`, and something that is in none.
async fn prepared(store: &Store) -> (Manager, Vessel, [SnapshotManifest; 2]) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "echo one > state; mkdir d; echo below > d/f; rm /etc/motd").await;
    let one = vessel.create_snapshot("one").await.unwrap();
    sh(&vessel, "echo two > state; rm d/f; echo x > later").await;
    let two = vessel.create_snapshot("two").await.unwrap();
    sh(&vessel, "echo now > state; chmod 750 d").await;
    vessel.close().await.unwrap();
    (manager, vessel, [one, two])
}

async fn forks(manager: &Manager, id: &str, options: ForkOptions) -> Vec<Vessel> {
    let mut open = Vec::new();
    for made in manager.fork_vessel(id, options).await.unwrap() {
        open.push(manager.open_vessel(&made.id).await.unwrap());
    }
    open
}

async fn close(vessels: &[Vessel]) {
    for vessel in vessels {
        vessel.close().await.unwrap();
    }
}

async fn state(vessel: &Vessel) -> String {
    sh(vessel, "cat state").await
}

fn layers_of(store: &Store) -> Vec<PathBuf> {
    leftovers::entries(&store.root().join("layers"))
}

fn archive(store: &Store, vessel: &str, snapshot: &str) -> PathBuf {
    store.root().join(format!("data/vessels/{vessel}/snapshots/{snapshot}.tar.zst"))
}

fn file_of(path: &Path) -> (u64, u64) {
    let meta = std::fs::metadata(path).unwrap();
    (std::os::unix::fs::MetadataExt::dev(&meta), std::os::unix::fs::MetadataExt::ino(&meta))
}

/// Bytes on disk of all vessels, their archives and manifests.
fn taken(store: &Store) -> u64 {
    let mut du = std::process::Command::new("du");
    du.args(["-s", "-B1", "--total"]).args(["vessels", "data", "layers"].map(|dir| store.root().join(dir)));
    let output = du.output().unwrap();
    let total = String::from_utf8(output.stdout).unwrap();
    total.lines().last().unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

async fn two_forks_change_the_same_file_and_neither_sees_the_other(store: &Store) {
    let (manager, vessel, _) = prepared(store).await;
    let two = forks(&manager, vessel.id(), ForkOptions::new().count(2)).await;
    for (fork, word) in two.iter().zip(["left", "right"]) {
        assert_eq!(state(fork).await, "now\n");
        sh(fork, &format!("echo {word} > state; mv d {word}; ln state hard; rm later")).await;
    }
    for (fork, word) in two.iter().zip(["left", "right"]) {
        assert_eq!(sh(fork, "cat state hard; ls").await, format!("{word}\n{word}\nhard\n{word}\nstate\n"));
        fork.create_snapshot(word).await.unwrap();
    }
    let origin = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&origin, "cat state; ls").await, "now\nd\nlater\nstate\n");
    assert_eq!(origin.list_snapshots().await.unwrap().len(), 3);
    origin.close().await.unwrap();
    close(&two).await;
}

async fn deleting_the_parent_breaks_neither_fork(store: &Store) {
    let (manager, vessel, [one, two]) = prepared(store).await;
    let two_forks = forks(&manager, vessel.id(), ForkOptions::new().count(2)).await;
    sh(&two_forks[0], "echo left > state").await;
    manager.delete_vessel(vessel.id()).await.unwrap();
    manager.collect_garbage().await.unwrap();
    // Both run meanwhile, on the layers of the vessel that is gone.
    assert_eq!(sh(&two_forks[0], "cat state later; ls d").await, "left\nx\n");
    assert_eq!(sh(&two_forks[1], "cat state later; ls d").await, "now\nx\n");
    for (fork, now) in two_forks.iter().zip(["left\n", "now\n"]) {
        let last = fork.create_snapshot("last").await.unwrap();
        for (id, value) in [(&one.id, "one\n"), (&two.id, "two\n"), (&last.id, now)] {
            fork.restore_snapshot(id).await.unwrap();
            assert_eq!(state(fork).await, value);
        }
    }
    close(&two_forks).await;
    fails(manager.open_vessel(vessel.id()).await, &ErrorKind::NotFound);
}

async fn forks_come_back_from_their_archives(store: &Store) {
    let (manager, vessel, [one, two]) = prepared(store).await;
    let made = manager.fork_vessel(vessel.id(), ForkOptions::new().count(2)).await.unwrap();
    manager.delete_vessel(vessel.id()).await.unwrap();
    // It waits for the archives, which one of the forks packs and the other shares.
    manager.close().await.unwrap();
    assert_eq!(layers_of(store).len(), 3, "they are the forks' now");
    // The layers are a cache, and so is all that the store knows of vessels besides their manifests.
    for dir in ["layers", "vessels"] {
        crate::testkit::store::remove(&store.root().join(dir)).unwrap();
    }
    let manager = store.manager().await;
    for fork in &made {
        let fork = manager.open_vessel(&fork.id).await.unwrap();
        assert_eq!(
            sh(&fork, "cat state later; stat -c %a d; ls d; ls /etc | grep -c motd || true").await,
            "now\nx\n750\n0\n"
        );
        fork.restore_snapshot(&one.id).await.unwrap();
        assert_eq!(sh(&fork, "cat state d/f").await, "one\nbelow\n");
        fork.restore_snapshot(&two.id).await.unwrap();
        assert_eq!(state(&fork).await, "two\n");
        fork.close().await.unwrap();
    }
    manager.delete_vessel(&made[0].id).await.unwrap();
    manager.collect_garbage().await.unwrap();
    let left = manager.open_vessel(&made[1].id).await.unwrap();
    assert_eq!(state(&left).await, "two\n");
    left.close().await.unwrap();
}

async fn a_fork_begins_at_what_the_vessel_is_now(store: &Store) {
    let (manager, vessel, [one, two]) = prepared(store).await;
    let made = manager.fork_vessel(vessel.id(), ForkOptions::new().message("before")).await.unwrap();
    manager.wait_snapshot(vessel.id(), None).await.unwrap();
    let stored = manager.wait_snapshot(&made[0].id, None).await.unwrap();
    let origin = manager.vessel_manifest(vessel.id()).await.unwrap();
    let sealed = origin.snapshots.last().unwrap();
    assert_eq!(
        (sealed.message.as_str(), &sealed.parent_id, &origin.current_snapshot_id),
        ("before", &two.id, &sealed.id)
    );
    let fork = manager.vessel_manifest(&made[0].id).await.unwrap();
    assert_eq!((&fork.snapshots, &fork.current_snapshot_id), (&stored, &made[0].current_snapshot_id));
    assert_eq!((&fork.current_snapshot_id, &fork.work_dir), (&sealed.id, &origin.work_dir));
    assert_eq!(
        (&fork.base_image_ref, &fork.base_image_digest),
        (&origin.base_image_ref, &origin.base_image_digest)
    );
    let ids: Vec<&String> = fork.snapshots.iter().map(|snapshot| &snapshot.id).collect();
    assert_eq!(ids, [&one.id, &two.id, &sealed.id]);
    for snapshot in &fork.snapshots {
        assert_eq!(snapshot.vessel_id, fork.id);
        let (ours, theirs) =
            (archive(store, &fork.id, &snapshot.id), archive(store, vessel.id(), &snapshot.id));
        assert_eq!(file_of(&ours), file_of(&theirs), "it is kept once");
    }
    assert!(fork.create_time > origin.create_time);
}

async fn a_vessel_that_did_not_change_gets_no_snapshot_by_being_forked(store: &Store) {
    let (manager, vessel, _) = prepared(store).await;
    let first = manager.fork_vessel(vessel.id(), ForkOptions::new()).await.unwrap();
    manager.wait_snapshot(vessel.id(), None).await.unwrap();
    let before = manager.vessel_manifest(vessel.id()).await.unwrap();
    assert_eq!(before.snapshots.len(), 3);
    let again = manager.fork_vessel(vessel.id(), ForkOptions::new()).await.unwrap();
    // Looking changes nothing.
    let open = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(
        run_in(&open, ExecOptions::new(["cat", "state", "/etc/passwd"])).await.unwrap().result.exit_code,
        0
    );
    let third = manager.fork_vessel(vessel.id(), ForkOptions::new()).await.unwrap();
    open.close().await.unwrap();
    assert_eq!(manager.vessel_manifest(vessel.id()).await.unwrap(), before);
    // Nor was the fork ever opened that is forked here.
    let fourth = manager.fork_vessel(&third[0].id, ForkOptions::new()).await.unwrap();
    for fork in [first, again, third, fourth] {
        assert_eq!(fork[0].current_snapshot_id, before.current_snapshot_id);
        assert_eq!(fork[0].snapshots.len(), 3);
    }
    // One that has no snapshot, and no need of one.
    let bare = manager.create_vessel(crate::testkit::BASE, "/").await.unwrap();
    bare.close().await.unwrap();
    let fork = forks(&manager, bare.id(), ForkOptions::new()).await;
    assert_eq!(fork[0].list_snapshots().await.unwrap(), []);
    assert_eq!(sh(&fork[0], "cat /etc/motd").await, "the base image\n");
    close(&fork).await;
}

async fn a_change_of_the_root_directory_alone_is_forked(store: &Store) {
    let manager = store.stocked().await;
    for (change, look, value) in [
        ("chmod 711 /", "stat -c %a /", "711\n"),
        ("touch -d '2001-02-03 04:05:06' /", "stat -c %Y /", "981173106\n"),
        ("rm -rf /srv", "ls -d /srv 2>/dev/null || echo gone", "gone\n"),
    ] {
        let vessel = manager.create_vessel(crate::testkit::BASE, "/").await.unwrap();
        let untouched = sh(&vessel, look).await;
        assert_ne!(untouched, value);
        sh(&vessel, change).await;
        let fork = forks(&manager, vessel.id(), ForkOptions::new()).await;
        assert_eq!(sh(&fork[0], look).await, value, "{change}");
        close(&fork).await;
        vessel.close().await.unwrap();
    }
}

async fn a_fork_begins_at_an_earlier_snapshot_and_has_no_later_ones(store: &Store) {
    let (manager, vessel, [one, two]) = prepared(store).await;
    let fork = forks(&manager, vessel.id(), ForkOptions::new().from(&one.id)).await;
    assert_eq!(sh(&fork[0], "cat state d/f; ls").await, "one\nbelow\nd\nstate\n");
    let listed = fork[0].list_snapshots().await.unwrap();
    assert_eq!(listed, [SnapshotManifest { vessel_id: fork[0].id().to_owned(), ..one.clone() }]);
    fails(fork[0].restore_snapshot(&two.id).await, &ErrorKind::NotFound);
    close(&fork).await;
    // What the vessel is now is left alone.
    assert_eq!(manager.vessel_manifest(vessel.id()).await.unwrap().snapshots.len(), 2);
    assert_eq!(state(&manager.open_vessel(vessel.id()).await.unwrap()).await, "now\n");
    for missing in ["0123456789abcdef", "", "../x"] {
        let refused = manager.fork_vessel(vessel.id(), ForkOptions::new().from(missing)).await;
        fails_with(refused, &ErrorKind::NotFound, &format!("snapshot not found: {missing}"));
    }
    fails_with(
        manager.fork_vessel("none", ForkOptions::new()).await,
        &ErrorKind::NotFound,
        "vessel not found",
    );
}

async fn a_fork_has_a_history_of_its_own(store: &Store) {
    let (manager, vessel, [one, two]) = prepared(store).await;
    let fork = &forks(&manager, vessel.id(), ForkOptions::new().from(&two.id)).await[0];
    sh(fork, "echo mine > state").await;
    let mine = fork.create_snapshot("mine").await.unwrap();
    assert_eq!((&mine.parent_id, mine.vessel_id.as_str()), (&two.id, fork.id()));
    let origin = manager.open_vessel(vessel.id()).await.unwrap();
    fails(origin.restore_snapshot(&mine.id).await, &ErrorKind::NotFound);
    // A snapshot that both have goes in one and stays in the other.
    origin.restore_snapshot(&one.id).await.unwrap();
    origin.delete_snapshot(&two.id).await.unwrap();
    manager.collect_garbage().await.unwrap();
    fork.restore_snapshot(&two.id).await.unwrap();
    assert_eq!(state(fork).await, "two\n");
    fork.restore_snapshot(&mine.id).await.unwrap();
    assert_eq!(state(fork).await, "mine\n");
    fails(origin.restore_snapshot(&two.id).await, &ErrorKind::NotFound);
    assert_eq!(state(&origin).await, "one\n");
    fork.restore_snapshot(&one.id).await.unwrap();
    fork.delete_snapshot(&mine.id).await.unwrap();
    fork.delete_snapshot(&two.id).await.unwrap();
    manager.collect_garbage().await.unwrap();
    assert_eq!(layers_of(store).len(), 1, "what nobody has any more goes");
    assert_eq!(state(fork).await, "one\n");
    close(&[fork.clone(), origin]).await;
}

async fn forks_of_forks_outlive_all_before_them(store: &Store) {
    let (manager, vessel, _) = prepared(store).await;
    let mut id = vessel.id().to_owned();
    for generation in 0..4 {
        let next = manager.fork_vessel(&id, ForkOptions::new()).await.unwrap().remove(0).id;
        manager.delete_vessel(&id).await.unwrap();
        manager.collect_garbage().await.unwrap();
        let fork = manager.open_vessel(&next).await.unwrap();
        sh(&fork, &format!("cat later; echo {generation} >> generations")).await;
        fork.close().await.unwrap();
        id = next;
    }
    let last = manager.open_vessel(&id).await.unwrap();
    assert_eq!(sh(&last, "cat state generations").await, "now\n0\n1\n2\n3\n");
    assert_eq!(last.list_snapshots().await.unwrap().len(), 6);
    last.close().await.unwrap();
    manager.delete_vessel(&id).await.unwrap();
    manager.close().await.unwrap();
    assert_eq!(layers_of(store), Vec::<PathBuf>::new());
    assert_eq!(leftovers::entries(&store.root().join("data/vessels")), Vec::<PathBuf>::new());
}

async fn forks_have_the_ids_and_labels_that_were_asked_for(store: &Store) {
    let manager = store.stocked().await;
    let options = vesselrt::CreateOptions::new(crate::testkit::BASE).label("a", "1").label("b", "2");
    let vessel = manager.create_vessel_with(options).await.unwrap();
    vessel.close().await.unwrap();
    let options = ForkOptions::new().id("left").id("right").count(3).label("b", "3");
    let made = manager.fork_vessel(vessel.id(), options).await.unwrap();
    assert_eq!((made[0].id.as_str(), made[1].id.as_str(), made.len()), ("left", "right", 3));
    for fork in &made {
        let labels: Vec<_> = fork.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["a=1", "b=3"]);
    }
    let listed: HashSet<String> = manager.list_vessels().await.unwrap().into_iter().map(|v| v.id).collect();
    assert!(made.iter().all(|fork| listed.contains(&fork.id)) && listed.len() == 4);
}

async fn a_fork_that_cannot_be_made_leaves_none(store: &Store) {
    let (manager, vessel, [one, _]) = prepared(store).await;
    manager.fork_vessel(vessel.id(), ForkOptions::new().from(&one.id).id("taken")).await.unwrap();
    let before = manager.list_vessels().await.unwrap();
    let options = ForkOptions::new().from(&one.id).id("free").id("taken");
    let error = fails(manager.fork_vessel(vessel.id(), options).await, &ErrorKind::AlreadyExists);
    assert_eq!(error.to_string(), "vessel exists already: taken");
    for bad in [ForkOptions::new().count(0), ForkOptions::new().id("A"), ForkOptions::new().id("x").id("x")] {
        fails(manager.fork_vessel(vessel.id(), bad).await, &ErrorKind::InvalidArgument);
    }
    assert_eq!(manager.list_vessels().await.unwrap(), before);
    // An archive that is missing: nothing is forked that could not be restored.
    std::fs::remove_file(archive(store, vessel.id(), &one.id)).unwrap();
    let refused =
        manager.fork_vessel(vessel.id(), ForkOptions::new().from(&one.id).id("free").count(5)).await;
    fails_with(refused, &ErrorKind::NotFound, &one.id);
    assert_eq!(manager.list_vessels().await.unwrap(), before);
    assert!(!store.root().join("vessels/free").exists());
    let again = manager.fork_vessel("taken", ForkOptions::new().id("free")).await.unwrap();
    assert_eq!(again[0].id, "free");
}

async fn a_vessel_in_use_is_forked_and_goes_on(store: &Store) {
    let (manager, vessel, [one, _]) = prepared(store).await;
    let open = manager.open_vessel(vessel.id()).await.unwrap();
    let running = open.spawn(ExecOptions::new(["sleep", "600"])).await.unwrap();
    let fork = forks(&manager, vessel.id(), ForkOptions::new().from(&one.id)).await;
    assert_eq!(state(&fork[0]).await, "one\n");
    assert_eq!(manager.vessel_status(vessel.id()).await.unwrap().commands, 1);
    drop(running);
    sh(&open, "echo still here > state").await;
    close(&fork).await;
    open.close().await.unwrap();
}

async fn many_forks_take_little_and_no_process(store: &Store) {
    const MANY: usize = 150;
    let (manager, vessel, _) = prepared(store).await;
    manager.fork_vessel(vessel.id(), ForkOptions::new()).await.unwrap();
    manager.wait_snapshot(vessel.id(), None).await.unwrap();
    let before = taken(store);
    let made = manager.fork_vessel(vessel.id(), ForkOptions::new().count(MANY)).await.unwrap();
    let each = (taken(store) - before) / MANY as u64;
    assert!(each <= 64 << 10, "a fork takes {each} bytes");
    let ids: HashSet<&String> = made.iter().map(|fork| &fork.id).collect();
    assert_eq!(ids.len(), MANY);
    leftovers::none_locked(&store.root().join("vessels"));
    let last = manager.open_vessel(&made[MANY - 1].id).await.unwrap();
    assert_eq!(state(&last).await, "now\n");
    last.close().await.unwrap();
    for fork in made {
        manager.delete_vessel(&fork.id).await.unwrap();
    }
    manager.collect_garbage().await.unwrap();
    let open = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(state(&open).await, "now\n");
    open.close().await.unwrap();
}

async fn forks_made_at_once_are_all_there(store: &Store) {
    let (manager, vessel, [one, _]) = prepared(store).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        // Some of them are other processes' managers, and somebody collects garbage all the time.
        let (manager, id, from) = (store.manager().await, vessel.id().to_owned(), one.id.clone());
        tasks.spawn(async move {
            let made =
                manager.fork_vessel(&id, ForkOptions::new().from(from).id(format!("f{n}")).count(4)).await;
            manager.collect_garbage().await.unwrap();
            made.unwrap()
        });
    }
    let made: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(made.len(), 24);
    for fork in made.iter().take(6) {
        let open = manager.open_vessel(&fork.id).await.unwrap();
        assert_eq!(state(&open).await, "one\n");
        open.close().await.unwrap();
    }
    // One id for two who ask at once is one's.
    let (a, b) = tokio::join!(
        manager.fork_vessel(vessel.id(), ForkOptions::new().from(&one.id).id("same")),
        manager.fork_vessel("f1", ForkOptions::new().from(&one.id).id("same")),
    );
    let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
    fails(lost, &ErrorKind::AlreadyExists);
    let open = manager.open_vessel(&won.unwrap()[0].id).await.unwrap();
    assert_eq!(state(&open).await, "one\n");
    open.close().await.unwrap();
}
