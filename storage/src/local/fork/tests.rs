use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::backend::{ByteStream, Storage};
use crate::local::LocalStorage;

fn body(bytes: &[u8]) -> ByteStream {
    Box::pin(io::Cursor::new(bytes.to_vec()))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn prepared(root: &Path) -> LocalStorage {
    let storage = LocalStorage::new(root).unwrap();
    storage.save_snapshot("v", "s", body(&[9; 100_000])).await.unwrap();
    storage.save_vessel_manifest("v", b"{}").await.unwrap();
    storage
}

#[tokio::test]
async fn forks_share_one_file_and_take_next_to_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = prepared(tmp.path()).await;
    let forks: Vec<VesselFork> = (0..50).map(|n| VesselFork::new(format!("f{n}"), b"{}".to_vec())).collect();
    storage.fork_vessel("v", &["s".to_owned()], &forks).await.unwrap();
    let original = std::fs::metadata(tmp.path().join("vessels/v/snapshots/s.tar")).unwrap();
    // One is the name of the archive itself.
    assert_eq!(original.nlink(), 52);
    let of_fork = std::fs::metadata(tmp.path().join("vessels/f49/snapshots/s.tar")).unwrap();
    assert_eq!(of_fork.ino(), original.ino());
    let listed = storage.list_archives("f7").await.unwrap().unwrap();
    assert_eq!((listed[0].holders, listed[0].content), (51, Some((original.dev(), original.ino()))));
    assert!(listed[0].bytes >= 100_000);
    assert!(names(&tmp.path().join("vessels")).iter().all(|name| !name.starts_with('.')));
    // One that is replaced is not replaced for the others.
    storage.save_snapshot("f1", "s", body(b"other")).await.unwrap();
    assert_eq!(std::fs::metadata(tmp.path().join("vessels/f2/snapshots/s.tar")).unwrap().len(), 100_000);
}

#[tokio::test]
async fn what_one_who_was_killed_left_is_swept_and_what_others_make_is_not() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = prepared(tmp.path()).await;
    let vessels = tmp.path().join("vessels");
    std::fs::create_dir_all(vessels.join(".fork-0011223344556677/f/snapshots")).unwrap();
    let alive = Staging::new(&storage.shared.vessels).unwrap();
    alive
        .make(&VesselFork::new("g", b"{}".to_vec()), &storage.shared.origin("v", &[]).unwrap(), true)
        .unwrap();
    assert_eq!(storage.list_vessels().await.unwrap(), ["v"]);
    storage.fork_vessel("v", &["s".to_owned()], &[VesselFork::new("f", b"{}".to_vec())]).await.unwrap();
    assert_eq!(names(&vessels), [alive.name.as_str(), "f", "v"]);
    assert!(alive.publish("g").unwrap());
    drop(alive);
    assert_eq!(names(&vessels), ["f", "g", "v"]);
}

#[tokio::test]
async fn an_archive_in_another_compression_is_replaced() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = prepared(tmp.path()).await;
    storage.save_snapshot("w", "s", body(b"\x28\xb5\x2f\xfdpacked")).await.unwrap();
    storage.copy_snapshot("w", "s", "v").await.unwrap();
    assert_eq!(names(&tmp.path().join("vessels/v/snapshots")), ["s.tar.zst"]);
    storage.copy_snapshot("w", "s", "v").await.unwrap();
    assert_eq!(names(&tmp.path().join("vessels/v/snapshots")), ["s.tar.zst"]);
}
