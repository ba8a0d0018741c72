//! What is particular to a directory; the contract itself is tested in `conformance`.
#![forbid(unsafe_code)]

use std::os::unix::fs::{PermissionsExt, symlink};

use tokio::io::AsyncReadExt;

use super::*;
use crate::error::StorageErrorKind;

async fn text(mut stream: ByteStream) -> String {
    let mut out = String::new();
    stream.read_to_string(&mut out).await.unwrap();
    out
}

fn body(bytes: &[u8]) -> ByteStream {
    Box::pin(io::Cursor::new(bytes.to_vec()))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_layout_is_as_documented_and_private() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("data");
    let storage = LocalStorage::new(&root).unwrap();
    storage.save_vessel_manifest("v1", b"{}").await.unwrap();
    storage.save_snapshot("v1", "plain", body(b"tar")).await.unwrap();
    storage.save_snapshot("v1", "packed", body(b"\x28\xb5\x2f\xfd...")).await.unwrap();
    storage.save_snapshot("v1", "zipped", body(b"\x1f\x8b...")).await.unwrap();
    for file in ["vessel.dat", "snapshots/plain.tar", "snapshots/packed.tar.zst", "snapshots/zipped.tar.gz"] {
        assert_eq!(mode(&root.join("vessels/v1").join(file)), 0o600, "{file}");
    }
    for dir in ["", "vessels", "vessels/v1", "vessels/v1/snapshots", "images"] {
        assert_eq!(mode(&root.join(dir)), 0o700, "{dir}");
    }
    assert_eq!(text(storage.load_snapshot("v1", "plain").await.unwrap()).await, "tar");
}

#[tokio::test]
async fn replacing_leaves_one_archive() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(tmp.path()).unwrap();
    storage.save_snapshot("v", "s", body(b"old")).await.unwrap();
    storage.save_snapshot("v", "s", body(b"\x28\xb5\x2f\xfdnew")).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(tmp.path().join("vessels/v/snapshots")).unwrap().collect();
    assert_eq!(left.len(), 1);
    storage.delete_snapshot("v", "s").await.unwrap();
    let missing = storage.load_snapshot("v", "s").await.err().unwrap();
    assert_eq!(missing.kind(), StorageErrorKind::NotFound);
}

#[tokio::test]
async fn what_a_crash_left_is_invisible_and_swept() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(tmp.path()).unwrap();
    let snapshots = tmp.path().join("vessels/v/snapshots");
    std::fs::create_dir_all(&snapshots).unwrap();
    std::fs::write(snapshots.join(".stage-1"), "half").unwrap();
    std::fs::write(tmp.path().join("vessels/v/.stage-2"), "half").unwrap();
    std::fs::create_dir_all(tmp.path().join("vessels/.trash-3/snapshots")).unwrap();
    assert!(storage.list_vessels().await.unwrap().is_empty());
    storage.save_vessel_manifest("v", b"{}").await.unwrap();
    storage.save_snapshot("v", "s", body(b"x")).await.unwrap();
    storage.delete_vessel("other").await.unwrap();
    assert!(!snapshots.join(".stage-1").exists());
    assert!(!tmp.path().join("vessels/v/.stage-2").exists());
    assert!(!tmp.path().join("vessels/.trash-3").exists());
    assert_eq!(storage.list_vessels().await.unwrap(), ["v"]);
}

#[tokio::test]
async fn links_and_special_files_are_corrupt_not_followed() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(tmp.path().join("data")).unwrap();
    std::fs::write(tmp.path().join("secret"), "secret").unwrap();
    let vessels = tmp.path().join("data/vessels");
    std::fs::create_dir(vessels.join("v")).unwrap();
    symlink(tmp.path().join("secret"), vessels.join("v/vessel.dat")).unwrap();
    std::fs::create_dir_all(vessels.join("d/vessel.dat")).unwrap();
    std::fs::create_dir(tmp.path().join("outside")).unwrap();
    std::fs::write(tmp.path().join("outside/vessel.dat"), "secret").unwrap();
    symlink(tmp.path().join("outside"), vessels.join("l")).unwrap();
    symlink(tmp.path().join("secret"), tmp.path().join("data/images/i.tar")).unwrap();
    for id in ["v", "d", "l"] {
        let error = storage.load_vessel_manifest(id).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation, "{id}");
        assert_eq!(storage.list_vessels().await.unwrap(), ["d", "l", "v"]);
    }
    assert_eq!(storage.load_image("i").await.err().unwrap().kind(), StorageErrorKind::IntegrityViolation);
    assert!(storage.save_vessel_manifest("l", b"x").await.is_err());
    for id in ["v", "d", "l"] {
        storage.delete_vessel(id).await.unwrap();
    }
    assert!(storage.list_vessels().await.unwrap().is_empty());
    assert_eq!(std::fs::read_to_string(tmp.path().join("outside/vessel.dat")).unwrap(), "secret");
    assert_eq!(std::fs::read_to_string(tmp.path().join("secret")).unwrap(), "secret");
}

#[tokio::test]
async fn images_are_found_by_reference_in_order() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(tmp.path()).unwrap();
    let dir = tmp.path().join("images/docker.io/library");
    std::fs::create_dir_all(&dir).unwrap();
    for (suffix, expected) in [(".tar.gz", "gz"), (".tar.zst", "zst"), (".tar", "plain")] {
        std::fs::write(dir.join(format!("alpine:latest{suffix}")), expected).unwrap();
        let stream = storage.load_image("docker.io/library/alpine:latest").await.unwrap();
        assert_eq!(text(stream).await, expected);
    }
    for bad in ["", "..", "../vessels/v/vessel.dat", "/etc/passwd", "a\0"] {
        let error = storage.load_image(bad).await.err().unwrap();
        assert_eq!(error.kind(), StorageErrorKind::InvalidArgument, "{bad:?}");
    }
}

#[tokio::test]
async fn too_large_a_manifest_is_neither_saved_nor_loaded() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(tmp.path()).unwrap();
    let large = vec![b' '; usize::try_from(MAX_MANIFEST_BYTES).unwrap() + 1];
    let error = storage.save_vessel_manifest("v", &large).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::LimitExceeded);
    std::fs::create_dir(tmp.path().join("vessels/v")).unwrap();
    std::fs::write(tmp.path().join("vessels/v/vessel.dat"), &large).unwrap();
    let error = storage.load_vessel_manifest("v").await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::LimitExceeded);
}

#[tokio::test]
async fn a_file_system_that_refuses_is_an_error_of_its_kind() {
    // /dev/full stands for a full disk: opening succeeds and writing does not.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = io::Write::write_all(&mut &full, b"x").unwrap_err();
    assert_eq!(StorageError::io("write", "/dev/full", error).kind(), StorageErrorKind::Unavailable);
    let error = LocalStorage::new("/proc/none/data").unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::NotFound);
}
