//! Archives and manifests that come from elsewhere: another driver, another image, another version, another order.
#![forbid(unsafe_code)]

use std::fs;
use std::sync::Arc;

use vesselrt::{CompressedStorage, ErrorKind, Manager, OverlayDriver, Vessel};

use super::{snapshot, state};
use crate::persistence::wipe;
use crate::testkit::image::{BASE, base_layer};
use crate::testkit::{Cap, Store, fails, leftovers, need, sh, tests, tree};

tests!(
    archives_of_one_driver_are_restored_by_the_other,
    another_image_of_the_same_name_is_not_taken_for_the_base,
    a_manifest_of_a_later_version_is_unsupported,
    parents_that_go_in_circles_are_refused,
    a_wrong_parent_gives_what_the_manifest_says_and_damages_nothing,
);

/// Another store with the same storage.
async fn elsewhere(store: &Store, name: &str, driver: OverlayDriver) -> Manager {
    let archives = CompressedStorage::local(store.root().join("data")).unwrap();
    let config = store.config().root(store.beside(name)).overlay(driver);
    Manager::new(config.storage(Arc::new(archives))).await.unwrap()
}

async fn archives_of_one_driver_are_restored_by_the_other(store: &Store) {
    if !need(&[Cap::Fuse, Cap::Overlay]) {
        return;
    }
    for (name, there, here) in [
        ("kernel", OverlayDriver::Kernel, OverlayDriver::Fuse),
        ("fuse", OverlayDriver::Fuse, OverlayDriver::Kernel),
    ] {
        let origin = elsewhere(store, name, there).await;
        store.stock(&origin).await;
        let vessel = origin.create_vessel(BASE, "/work").await.unwrap();
        sh(&vessel, "mkdir -p a/b gone; echo x > a/b/x; echo y > a/y; echo z > gone/z; ln -s a link").await;
        vessel.create_snapshot("one").await.unwrap();
        sh(&vessel, "rm a/y; rm -r a/b; mkdir a/b; echo n > a/b/n; ln a/b/n hard; rm -r gone; rm /etc/motd; chmod 4711 hard").await;
        let two = vessel.create_snapshot("two").await.unwrap();
        let expected = tree::inside(&vessel, "/work", false).await;
        vessel.close().await.unwrap();
        let other = elsewhere(store, &format!("{name}-other"), here).await;
        store.stock(&other).await;
        let moved = other.open_vessel(vessel.id()).await.unwrap();
        assert_eq!(tree::inside(&moved, "/work", false).await, expected, "made by {name}");
        fails(moved.stat("/etc/motd").await, &ErrorKind::NotFound);
        // What is made there is on top of it.
        sh(&moved, "rm hard; echo more > a/b/more").await;
        let three = moved.create_snapshot("three").await.unwrap();
        moved.restore_snapshot(&two.id).await.unwrap();
        assert_eq!(tree::inside(&moved, "/work", false).await, expected, "made by {name}, restored");
        moved.restore_snapshot(&three.id).await.unwrap();
        assert_eq!(sh(&moved, "cat a/b/more; ls").await, "more\na\nlink\n");
        moved.close().await.unwrap();
        other.delete_vessel(vessel.id()).await.unwrap();
    }
}

async fn another_image_of_the_same_name_is_not_taken_for_the_base(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    vessel.close().await.unwrap();
    let other = elsewhere(store, "other", store.driver()).await;
    let tar = store.beside("other.tar");
    fs::write(&tar, base_layer().file("etc/other", 0o644, 0, b"another image").finish()).unwrap();
    other.import_image(&tar, BASE, |_| {}).await.unwrap();
    let error = fails(other.open_vessel(vessel.id()).await, &ErrorKind::NotFound);
    assert!(error.chain().contains("base image not found"), "{}", error.chain());
    // The files of the snapshots do not need it; those of the image do.
    let read = vesselrt::SnapshotRead::default();
    assert!(other.open_snapshot_file(vessel.id(), &one.id, "state", read).await.is_ok());
    fails(other.open_snapshot_file(vessel.id(), &one.id, "/etc/other", read).await, &ErrorKind::NotFound);
    assert!(leftovers::entries(&store.beside("other/layers")).is_empty());
    store.stock(&other).await;
    let moved = other.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(state(&moved).await, "one");
    moved.close().await.unwrap();
}

/// The stored manifest, changed.
fn rewrite(store: &Store, vessel: &Vessel, change: impl Fn(&str) -> String) -> String {
    let path = store.root().join(format!("data/vessels/{}/vessel.dat", vessel.id()));
    let good = fs::read_to_string(&path).unwrap();
    let bad = change(&good);
    assert_ne!(bad, good);
    fs::write(&path, bad).unwrap();
    good
}

async fn a_manifest_of_a_later_version_is_unsupported(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    vessel.close().await.unwrap();
    let good = rewrite(store, &vessel, |text| text.replace("\"version\":1", "\"version\":99"));
    let unsupported = |error: vesselrt::Error| {
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{}", error.chain());
    };
    unsupported(manager.open_vessel(vessel.id()).await.unwrap_err());
    unsupported(manager.vessel_manifest(vessel.id()).await.unwrap_err());
    let read = vesselrt::SnapshotRead::default();
    unsupported(manager.open_snapshot_file(vessel.id(), &one.id, "state", read).await.unwrap_err());
    rewrite(store, &vessel, |_| good.clone());
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(state(&vessel).await, "one");
    vessel.close().await.unwrap();
}

async fn parents_that_go_in_circles_are_refused(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    let two = snapshot(&vessel, "two").await;
    vessel.close().await.unwrap();
    for parent in [&one.id, &two.id] {
        let good = rewrite(store, &vessel, |text| {
            text.replacen("\"parentId\":\"\"", &format!("\"parentId\":\"{parent}\""), 1)
        });
        fails(manager.open_vessel(vessel.id()).await, &ErrorKind::IntegrityViolation);
        rewrite(store, &vessel, |_| good.clone());
    }
}

async fn a_wrong_parent_gives_what_the_manifest_says_and_damages_nothing(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir d; echo 1 > d/one; echo 1 > gone").await;
    let one = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo 2 > d/two; rm gone").await;
    let two = vessel.create_snapshot("").await.unwrap();
    vessel.close().await.unwrap();
    wipe(store);
    // The second on the image itself: what it deletes is not there, what it changes it brings along.
    let parent = format!("\"parentId\":\"{}\"", one.id);
    let good = rewrite(store, &vessel, |text| text.replace(&parent, "\"parentId\":\"\""));
    let opened = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&opened, "find . -type f | sort; cat d/two").await, "./d/two\n2\n");
    fails(opened.read_snapshot_file(&two.id, "d/one").await, &ErrorKind::NotFound);
    opened.close().await.unwrap();
    wipe(store);
    rewrite(store, &vessel, |_| good.clone());
    let opened = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&opened, "find . -type f | sort").await, "./d/one\n./d/two\n");
    opened.close().await.unwrap();
}
