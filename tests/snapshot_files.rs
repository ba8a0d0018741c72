//! Files of snapshots that are not restored: the same as after restoring, whatever the archives are wrapped in, and never
//! others.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use tokio::io::AsyncReadExt;
use vesselrt::{CompressedStorage, ErrorKind, Manager, SnapshotRead, Storage, Vessel};

use crate::persistence::wipe;
use crate::testkit::image::MOTD;
use crate::testkit::{Store, fails, sh, tests, tests_on_each_driver};

tests_on_each_driver!(a_file_of_any_snapshot_is_read_as_if_it_were_restored);

tests!(
    nothing_is_opened_and_nothing_is_unpacked,
    archives_without_a_seek_table_are_read_too,
    a_damaged_archive_never_gives_another_content,
    another_archive_is_noticed_when_asked_for,
    what_is_no_file_of_the_snapshot_is_an_error,
    a_snapshot_whose_archive_is_gone_is_read_from_its_layer,
    the_archive_is_the_same_for_any_number_of_threads,
    a_large_file_is_read_out_of_the_middle,
    the_command_prints_the_file_and_compresses_as_told,
);

fn archive_of(store: &Store, vessel: &Vessel, snapshot: &str) -> PathBuf {
    store.root().join(format!("data/vessels/{}/snapshots/{snapshot}.tar.zst", vessel.id()))
}

async fn read_verified(
    manager: &Manager,
    vessel: &str,
    snapshot: &str,
    path: &str,
) -> Result<Vec<u8>, ErrorKind> {
    let read = SnapshotRead::default().verify(true);
    let mut file =
        manager.open_snapshot_file(vessel, snapshot, path, read).await.map_err(|error| error.kind())?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await.map_err(|_| ErrorKind::IntegrityViolation)?;
    assert_eq!(file.size(), bytes.len() as u64);
    Ok(bytes)
}

/// Three snapshots in which everything happens to files that can.
const STEPS: [&str; 3] = [
    "echo one > a; ln a hard; mkdir -p d/e; echo x > d/e/f; echo y > d/g; ln -s d/e/f link; ln -s /work/a abs
     ln -s ../../../work/d up; truncate -s 3000000 sparse; echo end >> sparse; umask 077; echo s > secret; mkfifo fifo
     printf x > '.wh.odd'; : > empty; ln -s loop loop",
    "echo two > a; rm d/g; rm -r d/e; mkdir d/e; echo new > d/e/h; rm hard; rm /etc/motd; rm -r /srv; echo file > /srv
     chown 1000:1000 secret; chmod 4755 d/e/h",
    "mv d moved; mkdir d; echo again > d/g; ln d/g hard; rm link; ln -s moved/e/h link; rm empty; mkdir empty; echo in > empty/in
     rm -f .wh.odd",
];
const PATHS: [&str; 24] = [
    "a",
    "/work/a",
    "hard",
    "d/e/f",
    "d/e/h",
    "d/g",
    "link",
    "abs",
    "up/e/f",
    "up/g",
    "sparse",
    "secret",
    "fifo",
    ".wh.odd",
    "empty",
    "empty/in",
    "moved/e/h",
    "/etc/motd",
    "/srv",
    "/etc/passwd",
    "loop",
    "d",
    "gone",
    "a/below",
];

async fn a_file_of_any_snapshot_is_read_as_if_it_were_restored(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let mut snapshots = Vec::new();
    for step in STEPS {
        sh(&vessel, &format!("{step}; true")).await;
        snapshots.push(vessel.create_snapshot("").await.unwrap().id);
    }
    let mut files = 0;
    for snapshot in &snapshots {
        vessel.restore_snapshot(snapshot).await.unwrap();
        for path in PATHS {
            let what = format!("{path} of {snapshot}");
            let read = vessel.read_snapshot_file(snapshot, path).await;
            match vessel.read_file(path).await {
                Ok(bytes) => {
                    assert!(read.expect(&what) == bytes, "{what}");
                    assert!(read_verified(&manager, vessel.id(), snapshot, path).await.unwrap() == bytes);
                    files += 1;
                }
                // What is no file is told apart by each in its own way.
                Err(error) if error.kind() == ErrorKind::NotFound => _ = fails(read, &ErrorKind::NotFound),
                Err(_) => _ = fails(read, &ErrorKind::InvalidArgument),
            }
        }
    }
    assert!(files >= 35, "only {files} files were compared");
    vessel.close().await.unwrap();
}

async fn nothing_is_opened_and_nothing_is_unpacked(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "echo one > a").await;
    let one = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo two > a").await;
    vessel.create_snapshot("").await.unwrap();
    vessel.close().await.unwrap();
    wipe(store);
    let mut file =
        manager.open_snapshot_file(vessel.id(), &one.id, "a", SnapshotRead::default()).await.unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).await.unwrap();
    assert_eq!((text.as_str(), file.size(), file.mode()), ("one\n", 4, 0o644));
    for dir in ["vessels", "layers"] {
        assert_eq!(fs::read_dir(store.root().join(dir)).unwrap().count(), 0, "{dir}");
    }
}

/// The archive, wrapped by others.
fn wrapped(tar: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, tar).unwrap();
    [
        ("tar", tar.to_vec()),
        ("tar.gz", gzip.finish().unwrap()),
        ("tar.zst", zstd::encode_all(tar, 3).unwrap()),
    ]
}

async fn archives_without_a_seek_table_are_read_too(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir d; seq 100000 > d/a; echo z > z").await;
    let one = vessel.create_snapshot("").await.unwrap();
    let expected = vessel.read_file("d/a").await.unwrap();
    let archive = archive_of(store, &vessel, &one.id);
    let tar = zstd::decode_all(fs::File::open(&archive).unwrap()).unwrap();
    fs::remove_file(&archive).unwrap();
    for (suffix, bytes) in wrapped(&tar) {
        let other = archive.with_file_name(format!("{}.{suffix}", one.id));
        fs::write(&other, bytes).unwrap();
        assert!(vessel.read_snapshot_file(&one.id, "d/a").await.unwrap() == expected, "{suffix}");
        assert!(read_verified(&manager, vessel.id(), &one.id, "d/a").await.unwrap() == expected, "{suffix}");
        // And restored, too.
        vessel.close().await.unwrap();
        wipe(store);
        let again = manager.open_vessel(vessel.id()).await.unwrap();
        assert!(again.read_file("d/a").await.unwrap() == expected, "{suffix}");
        again.close().await.unwrap();
        fs::remove_file(&other).unwrap();
    }
}

async fn a_damaged_archive_never_gives_another_content(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "seq 300 > a; ln -s a b").await;
    let one = vessel.create_snapshot("").await.unwrap();
    let expected = vessel.read_file("a").await.unwrap();
    let archive = archive_of(store, &vessel, &one.id);
    let good = fs::read(&archive).unwrap();
    vessel.close().await.unwrap();
    let (mut refused, mut checked) = (0, 0);
    let mut check = async |bytes: &[u8], what: String| {
        fs::write(&archive, bytes).unwrap();
        for verify in [false, true] {
            let read = SnapshotRead::default().verify(verify);
            let mut out = Vec::new();
            let result = match manager.open_snapshot_file(vessel.id(), &one.id, "b", read).await {
                Ok(mut file) => file.read_to_end(&mut out).await.map(|_| ()).map_err(|e| e.to_string()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::IntegrityViolation, "{what}: {}", error.chain());
                    Err(error.to_string())
                }
            };
            assert!(result.is_err() || out == expected, "{what}: other content");
            refused += usize::from(result.is_err());
            checked += 1;
        }
    };
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        check(&flipped, format!("bit {} of byte {at}", at % 8)).await;
    }
    for cut in (0..good.len()).step_by(7) {
        check(&good[..cut], format!("cut at {cut}")).await;
    }
    check(&[&good[..], b"more"].concat(), "more".to_owned()).await;
    // The table at the end is of no use to whoever reads all of it, and some of its bits mean nothing.
    assert!(refused * 10 > checked * 8, "{refused} of {checked} are refused");
    fs::write(&archive, good).unwrap();
    assert!(read_verified(&manager, vessel.id(), &one.id, "b").await.unwrap() == expected);
}

async fn another_archive_is_noticed_when_asked_for(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    vessel.write_file("a", "MARK", 0o644).await.unwrap();
    let one = vessel.create_snapshot("").await.unwrap();
    vessel.write_file("a", "EVIL", 0o644).await.unwrap();
    let two = vessel.create_snapshot("").await.unwrap();
    fs::copy(archive_of(store, &vessel, &two.id), archive_of(store, &vessel, &one.id)).unwrap();
    let read = read_verified(&manager, vessel.id(), &one.id, "a").await;
    assert_eq!(read.unwrap_err(), ErrorKind::IntegrityViolation);
    // A chain is only as good as what is below.
    let read = read_verified(&manager, vessel.id(), &two.id, "/etc/motd").await;
    assert_eq!(read.unwrap_err(), ErrorKind::IntegrityViolation);
    assert_eq!(read_verified(&manager, vessel.id(), &two.id, "a").await.unwrap(), b"EVIL");
    vessel.close().await.unwrap();
}

async fn what_is_no_file_of_the_snapshot_is_an_error(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    vessel.write_file("a", "x", 0o644).await.unwrap();
    let one = vessel.create_snapshot("").await.unwrap();
    let read = async |vessel: &str, snapshot: &str, path: &str| {
        manager.open_snapshot_file(vessel, snapshot, path, SnapshotRead::default()).await
    };
    fails(read("nobody", &one.id, "a").await, &ErrorKind::NotFound);
    fails(read(vessel.id(), "0123456789abcdef", "a").await, &ErrorKind::NotFound);
    fails(read(vessel.id(), &one.id, "b").await, &ErrorKind::NotFound);
    for path in ["/", "", "..", "/etc", "a/b", "/etc/motd/x"] {
        fails(read(vessel.id(), &one.id, path).await, &ErrorKind::InvalidArgument);
    }
    for path in ["b/..", "\u{1b}[31m", &"n".repeat(300), &"d/".repeat(3000)] {
        fails(read(vessel.id(), &one.id, path).await, &ErrorKind::NotFound);
    }
    assert_eq!(vessel.read_snapshot_file(&one.id, "/etc/motd").await.unwrap(), MOTD);
    vessel.close().await.unwrap();
}

async fn a_snapshot_whose_archive_is_gone_is_read_from_its_layer(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "echo one > a; mkdir d; echo low > d/low; ln -s d/low link").await;
    let one = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "rm -r d; mkdir d; echo two > d/two; rm /etc/motd").await;
    let two = vessel.create_snapshot("").await.unwrap();
    for snapshot in [&one, &two] {
        fs::remove_file(archive_of(store, &vessel, &snapshot.id)).unwrap();
    }
    assert_eq!(vessel.read_snapshot_file(&one.id, "link").await.unwrap(), b"low\n");
    assert_eq!(vessel.read_snapshot_file(&two.id, "d/two").await.unwrap(), b"two\n");
    assert_eq!(vessel.read_snapshot_file(&two.id, "a").await.unwrap(), b"one\n");
    for path in ["d/low", "link", "/etc/motd"] {
        fails(vessel.read_snapshot_file(&two.id, path).await, &ErrorKind::NotFound);
    }
    vessel.close().await.unwrap();
}

async fn the_archive_is_the_same_for_any_number_of_threads(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(
        &vessel,
        "for i in $(seq 300); do seq $i > f$i; done; head -c 9000000 /dev/urandom > random; ln random link",
    )
    .await;
    let one = vessel.create_snapshot("").await.unwrap();
    let bytes = fs::read(archive_of(store, &vessel, &one.id)).unwrap();
    vessel.close().await.unwrap();
    drop(manager);
    let tar = zstd::decode_all(&bytes[..]).unwrap();
    for threads in [1, 8] {
        let dir = store.beside(&format!("threads-{threads}"));
        let storage = CompressedStorage::local(&dir).unwrap().with_threads(threads);
        storage.save_snapshot("v", "s", Box::pin(std::io::Cursor::new(tar.clone()))).await.unwrap();
        let again = fs::read(dir.join("vessels/v/snapshots/s.tar.zst")).unwrap();
        assert!(again == bytes, "{threads} threads");
    }
}

async fn a_large_file_is_read_out_of_the_middle(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "head -c 12000000 /dev/urandom > a; seq 2000000 > b; head -c 12000000 /dev/urandom > c; echo last > d").await;
    let one = vessel.create_snapshot("").await.unwrap();
    let expected = vessel.read_file("b").await.unwrap();
    assert!(vessel.read_snapshot_file(&one.id, "b").await.unwrap() == expected);
    let archive = archive_of(store, &vessel, &one.id);
    let good = fs::read(&archive).unwrap();
    // What is not needed is not read: damage in the middle of `a` and of `c` is not met.
    let mut damaged = good.clone();
    let end = damaged.len();
    damaged[6_000_000] ^= 1;
    damaged[end - 6_000_000] ^= 1;
    fs::write(&archive, &damaged).unwrap();
    assert!(vessel.read_snapshot_file(&one.id, "b").await.unwrap() == expected);
    assert_eq!(vessel.read_snapshot_file(&one.id, "d").await.unwrap(), b"last\n");
    fails(vessel.read_snapshot_file(&one.id, "a").await, &ErrorKind::IntegrityViolation);
    assert_eq!(
        read_verified(&manager, vessel.id(), &one.id, "b").await.unwrap_err(),
        ErrorKind::IntegrityViolation
    );
    vessel.close().await.unwrap();
}

async fn the_command_prints_the_file_and_compresses_as_told(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "seq 200000 > a").await;
    let id = vessel.id().to_owned();
    let expected = vessel.read_file("a").await.unwrap();
    vessel.close().await.unwrap();
    let create = |level: &str| {
        let output = store.cli(&["snapshot", "create", &id, "--level", level]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let one = create("19");
    let small = fs::metadata(archive_of(store, &vessel, &one)).unwrap().len();
    let shown = store.cli(&["snapshot", "cat", &id, &one, "a", "--verify"]).output().unwrap();
    assert!(shown.status.success() && shown.stdout == expected, "{:?}", shown.stderr);
    let touched = store.cli(&["exec", &id, "--", "touch", "-d", "@1", "a"]).output().unwrap();
    assert!(touched.status.success(), "{touched:?}");
    let two = create("1");
    let large = fs::metadata(archive_of(store, &vessel, &two)).unwrap().len();
    assert!(small * 10 < large * 9, "{small} bytes at level 19, {large} at level 1");
    for bad in ["0", "23", "x"] {
        let output = store.cli(&["snapshot", "create", &id, "--level", bad]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{bad}");
    }
    let missing = store.cli(&["snapshot", "cat", &id, &one, "gone"]).output().unwrap();
    assert!(!missing.status.success() && missing.stdout.is_empty());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("file not found"), "{missing:?}");
}
