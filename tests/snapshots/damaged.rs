//! Archives and manifests that are not what they were.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use vesselrt::{ErrorKind, Vessel};

use super::{snapshot, state};
use crate::persistence::wipe;
use crate::testkit::{Store, fails, leftovers, sh, tests, tests_on_each_driver};

tests_on_each_driver!(a_damaged_archive_is_refused_and_changes_nothing);

tests!(
    a_vessel_opens_only_on_archives_that_are_whole,
    a_missing_archive_is_an_error_and_changes_nothing,
    a_damaged_manifest_is_refused,
    a_damaged_local_state_is_refused,
);

fn archive_of(store: &Store, vessel: &Vessel, snapshot: &str) -> PathBuf {
    store.root().join(format!("data/vessels/{}/snapshots/{snapshot}.tar.zst", vessel.id()))
}

/// Where the seek table of an archive begins, which a restore does not look at: a frame of 8 bytes and 12 per frame
/// of the archive, and 9 that end it, of which the first four are their number.
fn table_of(archive: &[u8]) -> usize {
    let footer = &archive[archive.len() - 9..];
    archive.len() - 17 - 12 * u32::from_le_bytes(footer[..4].try_into().unwrap()) as usize
}

/// Ways to damage a zstd archive of a tar.
fn damaged(good: &[u8], other: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let flipped = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x20;
        bytes
    };
    let tar = zstd::decode_all(good).unwrap();
    let repacked = |tar: &[u8]| zstd::encode_all(tar, 1).unwrap();
    let mut changed = tar.clone();
    let at = changed.windows(5).position(|window| window == b"MARK:").unwrap();
    changed[at] = b'm';
    vec![
        ("a flipped bit at the beginning", flipped(1)),
        ("a flipped bit in the middle", flipped(good.len() / 2)),
        ("a flipped bit at the end", flipped(table_of(good) - 2)),
        ("half of it", good[..good.len() / 2].to_vec()),
        ("one byte too few", good[..good.len() - 1].to_vec()),
        ("nothing", Vec::new()),
        ("no archive", b"not an archive".repeat(99)),
        ("another snapshot's", other.to_vec()),
        ("one changed letter, packed again", repacked(&changed)),
        ("more behind its end", repacked(&[tar.as_slice(), &[0; 1024]].concat())),
        ("a whole block less", repacked(&tar[..tar.len() - 512])),
    ]
}

async fn a_damaged_archive_is_refused_and_changes_nothing(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "head -c 100000 /dev/urandom > random").await;
    vessel.write_file("marked", "MARK:1", 0o644).await.unwrap();
    let one = snapshot(&vessel, "one").await;
    vessel.write_file("marked", "MARK:2", 0o644).await.unwrap();
    let two = snapshot(&vessel, "two").await;
    // Back to the first, so that the second is needed for nothing but restoring it.
    vessel.restore_snapshot(&one.id).await.unwrap();
    vessel.write_file("unsaved", "x", 0o644).await.unwrap();
    let archive = archive_of(store, &vessel, &two.id);
    let (good, other) = (fs::read(&archive).unwrap(), fs::read(archive_of(store, &vessel, &one.id)).unwrap());
    vessel.close().await.unwrap();
    crate::testkit::store::remove(&store.root().join("layers").join(&two.id)).unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    for (what, bad) in damaged(&good, &other) {
        fs::write(&archive, bad).unwrap();
        let error = vessel.restore_snapshot(&two.id).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::IntegrityViolation, "{what}: {}", error.chain());
        assert_eq!(vessel.manifest().current_snapshot_id, one.id, "{what}");
        assert_eq!(vessel.read_file("unsaved").await.unwrap(), b"x", "{what}");
    }
    assert_eq!(sh(&vessel, "cat state unsaved marked").await, "onexMARK:1");
    let names: Vec<_> = leftovers::entries(&store.root().join("layers"));
    assert!(!names.iter().any(|path| path.ends_with(&two.id)), "{names:?}");
    fs::write(&archive, good).unwrap();
    vessel.restore_snapshot(&two.id).await.unwrap();
    assert_eq!(state(&vessel).await, "two");
    vessel.close().await.unwrap();
}

async fn a_vessel_opens_only_on_archives_that_are_whole(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    vessel.write_file("marked", "MARK:", 0o644).await.unwrap();
    let one = snapshot(&vessel, "one").await;
    vessel.close().await.unwrap();
    let archive = archive_of(store, &vessel, &one.id);
    let good = fs::read(&archive).unwrap();
    drop(manager);
    for (what, bad) in damaged(&good, b"") {
        wipe(store);
        fs::write(&archive, bad).unwrap();
        let error = store.manager().await.open_vessel(vessel.id()).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::IntegrityViolation, "{what}: {}", error.chain());
    }
    fs::write(&archive, good).unwrap();
    let vessel = store.manager().await.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(state(&vessel).await, "one");
    vessel.close().await.unwrap();
}

async fn a_missing_archive_is_an_error_and_changes_nothing(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    let two = snapshot(&vessel, "two").await;
    vessel.restore_snapshot(&one.id).await.unwrap();
    vessel.write_file("unsaved", "x", 0o644).await.unwrap();
    vessel.close().await.unwrap();
    crate::testkit::store::remove(&store.root().join("layers").join(&two.id)).unwrap();
    fs::remove_file(archive_of(store, &vessel, &two.id)).unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    let error = vessel.restore_snapshot(&two.id).await.unwrap_err();
    let typed = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IntegrityViolation);
    assert!(typed && error.chain().contains(&two.id), "{:?} {}", error.kind(), error.chain());
    assert_eq!(sh(&vessel, "cat state unsaved").await, "onex");
    // A copy that is still here needs no archive.
    fs::remove_file(archive_of(store, &vessel, &one.id)).unwrap();
    vessel.restore_snapshot(&one.id).await.unwrap();
    assert_eq!(state(&vessel).await, "one");
    vessel.close().await.unwrap();
}

async fn a_damaged_manifest_is_refused(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    snapshot(&vessel, "one").await;
    vessel.close().await.unwrap();
    let path = store.root().join(format!("data/vessels/{}/vessel.dat", vessel.id()));
    let good = fs::read_to_string(&path).unwrap();
    let bads = [
        String::new(),
        "{".to_owned(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"workDir\":\"/work\"", "\"workDir\":7"),
        good.replace(vessel.id(), "../../escape"),
        good.replace("\"parentId\":\"\"", "\"parentId\":\"0123456789abcdef\""),
    ];
    for bad in bads {
        assert_ne!(bad, good);
        fs::write(&path, &bad).unwrap();
        fails(manager.open_vessel(vessel.id()).await, &ErrorKind::IntegrityViolation);
        fails(manager.list_vessels().await, &ErrorKind::IntegrityViolation);
    }
    fs::write(&path, good).unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(state(&vessel).await, "one");
    vessel.close().await.unwrap();
}

async fn a_damaged_local_state_is_refused(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    vessel.write_file("unsaved", "x", 0o644).await.unwrap();
    vessel.close().await.unwrap();
    let path = store.root().join(format!("vessels/{}/state.json", vessel.id()));
    let good = fs::read_to_string(&path).unwrap();
    for bad in ["", "{", "null", "{\"version\":99}", &good.replace("\"generation\":", "\"generation\":-")] {
        fs::write(&path, bad).unwrap();
        fails(manager.open_vessel(vessel.id()).await, &ErrorKind::IntegrityViolation);
    }
    fs::write(&path, good).unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(vessel.read_file("unsaved").await.unwrap(), b"x");
    vessel.close().await.unwrap();
}
