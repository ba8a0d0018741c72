//! `snapshot push` and `snapshot pull`: a vessel with all its snapshots on another machine.
#![forbid(unsafe_code)]

use vesselrt::{CommitOptions, ErrorKind, Manager, Vessel, VesselManifest};

use super::{manager, same_trees, vessel};
use crate::commit::commit;
use crate::testkit::image::BASE;
use crate::testkit::registry::Registry;
use crate::testkit::tools::tool;
use crate::testkit::{Cap, Store, fails, fails_with, need, sh, tests};

tests!(
    every_snapshot_restores_elsewhere,
    a_second_push_of_a_history_sends_nothing_and_a_new_snapshot_only_itself,
    a_history_gets_ids_of_its_own_where_they_are_taken,
    a_history_without_its_base_needs_it_from_elsewhere,
    a_damaged_history_makes_no_vessel,
    what_is_no_history_is_refused,
);

/// Branches too: the second snapshot has two children.
async fn with_branches(store: &Store) -> (Manager, Vessel) {
    let (manager, vessel) = vessel(store).await;
    let second = vessel.list_snapshots().await.unwrap()[1].id.clone();
    sh(&vessel, "touch '/work/.wh.kept'").await;
    vessel.create_snapshot("third").await.unwrap();
    vessel.restore_snapshot(&second).await.unwrap();
    sh(&vessel, "echo branch > /work/branch").await;
    vessel.create_snapshot("branch").await.unwrap();
    (manager, vessel)
}

async fn all_restore(one: &Vessel, other: &Vessel) {
    let (ours, theirs) = (one.list_snapshots().await.unwrap(), other.list_snapshots().await.unwrap());
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(
            (&ours.checksum, ours.size, &ours.message),
            (&theirs.checksum, theirs.size, &theirs.message)
        );
        assert_eq!(ours.create_time, theirs.create_time);
        one.restore_snapshot(&ours.id).await.unwrap();
        other.restore_snapshot(&theirs.id).await.unwrap();
        same_trees(one, other).await;
    }
}

async fn every_snapshot_restores_elsewhere(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let (here, vessel) = with_branches(store).await;
    let name = registry.reference("team/history:1");
    let report = here.push_snapshots(vessel.id(), &name, true, |_| {}).await.unwrap();
    assert!(report.uploaded >= 4 + 4 + 2, "{report:?}");
    let there = manager(store, "there").await;
    let pulled = there.pull_snapshots(&name, None, |_| {}).await.unwrap();
    assert_eq!(pulled, here.vessel_manifest(vessel.id()).await.unwrap());
    let copy = there.open_vessel(vessel.id()).await.unwrap();
    // Nothing is only in the other store: this one has base and archives of its own.
    drop(registry);
    assert_eq!(sh(&copy, "cat /work/branch").await, "branch\n");
    all_restore(&vessel, &copy).await;
    let names: Vec<_> =
        there.list_images().await.unwrap().into_iter().filter_map(|image| image.reference).collect();
    assert_eq!(names, [BASE]);
    // What only passed through is not kept.
    assert_eq!(there.prune_images(false).await.unwrap().bytes / 4096, 0);
    copy.close().await.unwrap();
    vessel.close().await.unwrap();
    there.close().await.unwrap();
}

async fn a_second_push_of_a_history_sends_nothing_and_a_new_snapshot_only_itself(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let (here, vessel) = vessel(store).await;
    let name = registry.reference("history");
    let push = async || here.push_snapshots(vessel.id(), &name, true, |_| {}).await.unwrap();
    let first = push().await;
    registry.forget();
    let second = push().await;
    assert_eq!((second.uploaded, &second.digest), (0, &first.digest));
    assert!(registry.uploads().is_empty(), "{:?}", registry.uploads());
    sh(&vessel, "echo more > /work/more").await;
    vessel.create_snapshot("third").await.unwrap();
    // Its archive and manifest, and the vessel's manifest.
    assert_eq!(push().await.uploaded, 3);
    vessel.close().await.unwrap();
}

async fn a_history_gets_ids_of_its_own_where_they_are_taken(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let (here, vessel) = with_branches(store).await;
    let name = registry.reference("history:1");
    here.push_snapshots(vessel.id(), &name, true, |_| {}).await.unwrap();
    let taken = here.pull_snapshots(&name, None, |_| {}).await;
    fails_with(taken, &ErrorKind::AlreadyExists, vessel.id());
    fails(here.pull_snapshots(&name, Some("../x"), |_| {}).await, &ErrorKind::InvalidArgument);
    let copied = here.pull_snapshots(&name, Some("copy"), |_| {}).await.unwrap();
    let ours = here.vessel_manifest(vessel.id()).await.unwrap();
    let ids = |manifest: &VesselManifest| manifest.snapshots.iter().map(|s| s.id.clone()).collect::<Vec<_>>();
    assert!(ids(&copied).iter().all(|id| !ids(&ours).contains(id)));
    let origin = format!("{}/{}", vessel.id(), ours.snapshots[0].id);
    assert_eq!(copied.snapshots[0].labels["vesselrt.origin"], origin);
    let copy = here.open_vessel("copy").await.unwrap();
    all_restore(&vessel, &copy).await;
    copy.close().await.unwrap();
    // One goes, the other stays whole.
    here.delete_vessel("copy").await.unwrap();
    for snapshot in &ours.snapshots {
        vessel.restore_snapshot(&snapshot.id).await.unwrap();
    }
    vessel.close().await.unwrap();
}

async fn a_history_without_its_base_needs_it_from_elsewhere(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let here = manager(store, "store").await;
    store.stock(&here).await;
    let base = registry.reference("base:1");
    here.tag_image(BASE, &base).await.unwrap();
    let vessel = here.create_vessel(&base, "/work").await.unwrap();
    sh(&vessel, "echo x > x").await;
    vessel.create_snapshot("").await.unwrap();
    vessel.close().await.unwrap();
    let name = registry.reference("history:1");
    here.push_snapshots(vessel.id(), &name, false, |_| {}).await.unwrap();
    let there = manager(store, "there").await;
    fails_with(there.pull_snapshots(&name, None, |_| {}).await, &ErrorKind::NotFound, "base image not found");
    assert!(there.list_vessels().await.unwrap().is_empty());
    here.push_image(&base, None, |_| {}).await.unwrap();
    there.pull_snapshots(&name, None, |_| {}).await.unwrap();
    let copy = there.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&copy, "cat x").await, "x\n");
    copy.close().await.unwrap();
    there.close().await.unwrap();
}

async fn a_damaged_history_makes_no_vessel(store: &Store) {
    if !need(&[Cap::Registry, Cap::Root]) {
        return;
    }
    let registry = Registry::open(store);
    let (here, vessel) = vessel(store).await;
    vessel.close().await.unwrap();
    let name = registry.reference("history:1");
    here.push_snapshots(vessel.id(), &name, true, |_| {}).await.unwrap();
    // Every blob of the registry's own disk that is an archive, with one bit changed.
    let script = "for f in $(find . -path '*registry-open*/blobs/*' -name data); do \
        if [ \"$(head -c 4 $f | od -An -tx1 | tr -d ' ')\" = 28b52ffd ]; then \
        printf '\\001' | dd of=$f bs=1 seek=40 conv=notrunc 2>/dev/null; echo $f; fi; done";
    assert!(tool(store, "sh", &["-c", script]).lines().count() >= 2);
    let there = manager(store, "there").await;
    fails(there.pull_snapshots(&name, None, |_| {}).await, &ErrorKind::IntegrityViolation);
    assert!(there.list_vessels().await.unwrap().is_empty());
    assert!(!store.beside("there/data/vessels").join(vessel.id()).exists());
    there.close().await.unwrap();
}

async fn what_is_no_history_is_refused(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let (here, vessel) = vessel(store).await;
    let name = registry.reference("made:1");
    commit(&here, vessel.id(), CommitOptions::new(&name)).await;
    here.push_image(&name, None, |_| {}).await.unwrap();
    let error = fails(here.pull_snapshots(&name, None, |_| {}).await, &ErrorKind::InvalidArgument);
    assert_eq!(error.remedy(), Some("vesselrt pull, if it is an image"));
    fails(here.pull_snapshots(&registry.reference("none"), None, |_| {}).await, &ErrorKind::NotFound);
    let pinned = format!("{}@{}", registry.reference("x"), vesselrt::Digest::sha256(b""));
    fails(here.push_snapshots(vessel.id(), &pinned, true, |_| {}).await, &ErrorKind::InvalidArgument);
    fails(here.push_snapshots("none", &name, true, |_| {}).await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}
