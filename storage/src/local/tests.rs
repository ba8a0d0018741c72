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
    for dir in ["", "vessels", "vessels/v1", "vessels/v1/snapshots", "images", "archives"] {
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

/// Where the test below puts its small file system.
const DISK: &str = "VESSELRT_TEST_SMALL_DISK";

/// Runs the test `inner` of this binary in a mount namespace with a tmpfs of a megabyte at `$DISK`.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn on_a_small_disk(inner: &str) {
    let tmp = tempfile::tempdir().unwrap();
    let unshare = || {
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]).env(DISK, tmp.path());
        command
    };
    let mount = format!("mount -t tmpfs -o size=1m,mode=0700 none \"${DISK}\"");
    if !unshare().arg(&mount).output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("VESSELRT_TEST_REQUIRE").is_none(), "user namespaces are required");
        eprintln!("SKIP: no tmpfs in a user namespace");
        return;
    }
    let exe = std::env::current_exe().unwrap();
    let script = format!("{mount}; exec '{}' --ignored --exact {inner}", exe.display());
    let output = unshare().arg(script).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_full_disk_is_unavailable_and_leaves_nothing() {
    on_a_small_disk("local::tests::inside_a_small_disk");
}

#[tokio::test]
#[ignore = "run by a_full_disk_is_unavailable_and_leaves_nothing"]
async fn inside_a_small_disk() {
    let disk = std::path::PathBuf::from(std::env::var_os(DISK).unwrap());
    let storage = LocalStorage::new(disk.join("data")).unwrap();
    storage.save_vessel_manifest("v", b"kept").await.unwrap();
    storage.save_snapshot("v", "kept", body(b"kept")).await.unwrap();
    let snapshots = disk.join("data/vessels/v/snapshots");
    for _ in 0..3 {
        let endless: ByteStream = Box::pin(tokio::io::repeat(7));
        let error = storage.save_snapshot("v", "new", endless).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Unavailable, "{error:?}");
        assert_eq!(std::fs::read_dir(&snapshots).unwrap().count(), 1);
    }
    let large = vec![b' '; 2 << 20];
    let error = storage.save_vessel_manifest("v", &large).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unavailable, "{error:?}");
    let images = crate::ContentStore::open(disk.join("images")).unwrap();
    let error = images.put_blob(io::repeat(7), None).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unavailable, "{error:?}");
    assert_eq!(std::fs::read_dir(disk.join("images/.ingest")).unwrap().count(), 0);

    rustix::mount::mount_remount(&disk, rustix::mount::MountFlags::RDONLY, "").unwrap();
    let storage = LocalStorage::new(disk.join("data")).unwrap();
    assert_eq!(storage.load_vessel_manifest("v").await.unwrap(), b"kept");
    assert_eq!(text(storage.load_snapshot("v", "kept").await.unwrap()).await, "kept");
    assert_eq!(storage.list_vessels().await.unwrap(), ["v"]);
    for error in [
        storage.save_vessel_manifest("v", b"x").await.unwrap_err(),
        storage.save_snapshot("v", "x", body(b"x")).await.unwrap_err(),
        storage.delete_snapshot("v", "kept").await.unwrap_err(),
        storage.delete_vessel("v").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StorageErrorKind::Unavailable, "{error:?}");
    }
    let images = crate::ContentStore::open(disk.join("images")).unwrap();
    assert!(images.list().unwrap().is_empty());
    assert_eq!(images.put_blob(&b"x"[..], None).unwrap_err().kind(), StorageErrorKind::Unavailable);
}

/// Where the test below saves to.
const KILLED: &str = "VESSELRT_TEST_KILLED";

#[test]
fn a_killed_save_leaves_nothing_visible() {
    let tmp = tempfile::tempdir().unwrap();
    let snapshots = tmp.path().join("vessels/v/snapshots");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "local::tests::saves_until_it_is_killed"])
        .env(KILLED, tmp.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let staged = || {
        let names = std::fs::read_dir(&snapshots).into_iter().flatten().flatten();
        names.map(|entry| entry.metadata().map_or(0, |m| m.len())).sum::<u64>()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while staged() < 1_000_000 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(staged() >= 1_000_000, "killed in the middle");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let storage = LocalStorage::new(tmp.path()).unwrap();
        let error = storage.load_snapshot("v", "s").await.err().unwrap();
        assert_eq!(error.kind(), StorageErrorKind::NotFound);
        storage.save_snapshot("v", "s", body(b"whole")).await.unwrap();
        assert_eq!(text(storage.load_snapshot("v", "s").await.unwrap()).await, "whole");
    });
    assert_eq!(std::fs::read_dir(&snapshots).unwrap().count(), 1);
}

#[tokio::test]
#[ignore = "run by a_killed_save_leaves_nothing_visible"]
async fn saves_until_it_is_killed() {
    let storage = LocalStorage::new(std::env::var_os(KILLED).unwrap()).unwrap();
    let first = tokio::io::repeat(7).take(2_000_000);
    let (stuck, _writer) = tokio::io::duplex(1);
    let body: ByteStream = Box::pin(first.chain(stuck));
    let _ =
        tokio::time::timeout(std::time::Duration::from_secs(60), storage.save_snapshot("v", "s", body)).await;
}

/// Names of archives beside those of the snapshots.
fn twins(root: &Path) -> usize {
    std::fs::read_dir(root.join("archives")).unwrap().count()
}

fn inode(root: &Path, vessel: &str, snapshot: &str) -> u64 {
    let path = root.join(format!("vessels/{vessel}/snapshots/{snapshot}.tar"));
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
}

#[tokio::test]
async fn archives_that_are_the_same_are_stored_once_until_the_last_is_gone() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let storage = LocalStorage::new(root).unwrap();
    let same = vec![7; 300_000];
    let other = [&[8; 1], &same[1..]].concat();
    for (vessel, snapshot, bytes) in
        [("v", "a", &same), ("v", "b", &same), ("w", "c", &same), ("w", "d", &other)]
    {
        storage.save_snapshot(vessel, snapshot, body(bytes)).await.unwrap();
    }
    assert_eq!(inode(root, "v", "a"), inode(root, "v", "b"));
    assert_eq!(inode(root, "v", "a"), inode(root, "w", "c"));
    // The same length and the same end, and yet another.
    assert_ne!(inode(root, "v", "a"), inode(root, "w", "d"));
    assert_eq!(twins(root), 1);
    storage.delete_snapshot("v", "a").await.unwrap();
    storage.delete_vessel("v").await.unwrap();
    let mut left = Vec::new();
    storage.load_snapshot("w", "c").await.unwrap().read_to_end(&mut left).await.unwrap();
    assert!(left == same);
    assert_eq!(twins(root), 1);
    storage.delete_vessel("w").await.unwrap();
    assert_eq!(twins(root), 0);
}

#[tokio::test]
async fn replacing_one_of_two_that_are_the_same_leaves_the_other() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(tmp.path()).unwrap();
    for (snapshot, bytes) in [("a", "one"), ("b", "one"), ("a", "two"), ("a", "two")] {
        storage.save_snapshot("v", snapshot, body(bytes.as_bytes())).await.unwrap();
    }
    assert_eq!(text(storage.load_snapshot("v", "a").await.unwrap()).await, "two");
    assert_eq!(text(storage.load_snapshot("v", "b").await.unwrap()).await, "one");
    assert_eq!(twins(tmp.path()), 2);
    storage.save_snapshot("v", "b", body(b"three")).await.unwrap();
    storage.delete_snapshot("v", "a").await.unwrap();
    assert_eq!(twins(tmp.path()), 1);
    storage.delete_snapshot("v", "b").await.unwrap();
    assert_eq!(twins(tmp.path()), 0);
}

#[tokio::test]
async fn a_damaged_archive_is_not_taken_for_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(tmp.path()).unwrap();
    storage.save_snapshot("v", "a", body(b"good")).await.unwrap();
    let path = tmp.path().join("vessels/v/snapshots/a.tar");
    std::fs::write(&path, "evil").unwrap();
    storage.save_snapshot("v", "b", body(b"good")).await.unwrap();
    assert_eq!(text(storage.load_snapshot("v", "b").await.unwrap()).await, "good");
}

#[test]
fn many_who_save_and_delete_the_same_at_once_do_not_disturb_each_other() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(tmp.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let one = |name: String| {
            let storage = storage.clone();
            async move {
                for _ in 0..40 {
                    storage.save_snapshot("v", &name, body(b"the same")).await.unwrap();
                    assert_eq!(text(storage.load_snapshot("v", &name).await.unwrap()).await, "the same");
                    storage.delete_snapshot("v", &name).await.unwrap();
                }
            }
        };
        let tasks: Vec<_> = (0..4).map(|n| tokio::spawn(one(format!("s{n}")))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    let left = std::fs::read_dir(tmp.path().join("vessels/v/snapshots")).unwrap().count();
    assert_eq!(left, 0);
    // One that two removed at the same moment may be left for the next of its kind.
    assert!(twins(tmp.path()) <= 1);
    storage.shared.twins.sweep().unwrap();
    assert_eq!(twins(tmp.path()), 0);
}

#[tokio::test]
async fn a_volatile_vessel_is_there_until_it_is_deleted_or_the_power_is_cut() {
    let tmp = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(tmp.path()).unwrap();
    storage.save_volatile_manifest("v", b"{}").await.unwrap();
    assert_eq!(storage.load_vessel_manifest("v").await.unwrap(), b"{}");
    assert_eq!(storage.list_vessels().await.unwrap(), ["v"]);
    // Its name came to the disk, its content did not.
    std::fs::write(tmp.path().join("vessels/v/volatile.dat"), "").unwrap();
    assert!(storage.list_vessels().await.unwrap().is_empty());
    assert_eq!(storage.load_vessel_manifest("v").await.unwrap_err().kind(), StorageErrorKind::NotFound);
    // It was worth keeping after all.
    storage.save_volatile_manifest("v", b"{}").await.unwrap();
    storage.save_vessel_manifest("v", b"{1}").await.unwrap();
    assert_eq!(storage.load_vessel_manifest("v").await.unwrap(), b"{1}");
    storage.delete_volatile_vessel("v").await.unwrap();
    assert!(!tmp.path().join("vessels/v").exists());
}
