//! The file API: what each verb does, and the kind of each failure.
#![forbid(unsafe_code)]

use std::io::SeekFrom;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use vesselrt::{ErrorKind, ExecOptions, FileType, Limits, Manager, OpenOptions, OverlayDriver, Vessel};

use crate::testkit::commands::must;
use crate::testkit::image::{BASE_TIME, Layer, MOTD};
use crate::testkit::random::Random;
use crate::testkit::{BASE, Cap, Store, fails, need, sh, tests, tests_on_each_driver};

tests_on_each_driver!(
    what_is_written_outside_is_read_inside_and_back,
    options_open_as_in_the_standard_library,
    a_file_reads_writes_and_seeks,
    deleting_renaming_and_making_directories,
    files_of_other_users_and_modes_are_readable,
    copying_in_and_out_keeps_modes_times_and_links,
    hard_links_keep_their_content,
);

tests!(
    errors_have_the_kind_of_their_cause,
    stat_tells_what_the_vessel_sees,
    a_directory_is_listed_by_name,
    writing_a_file_replaces_it_as_a_whole,
    write_file_keeps_what_others_have_open,
    a_mode_is_taken_as_it_is,
    an_open_file_outlives_its_name,
    large_files_come_through,
    reading_is_bounded_by_the_limit,
    sparse_files_have_their_size,
    files_of_the_image_are_copied_when_written,
    many_operations_run_at_once,
    a_damaged_archive_to_copy_in_is_refused,
    a_closed_vessel_is_reopened_or_refused_and_never_wrong,
);

fn read() -> OpenOptions {
    OpenOptions::new().read(true)
}

fn write() -> OpenOptions {
    OpenOptions::new().write(true)
}

async fn put(vessel: &Vessel, path: &str, options: &OpenOptions, data: &str) {
    let mut file = vessel.open_file(path, options).await.unwrap();
    file.write_all(data.as_bytes()).await.unwrap();
    file.close().await.unwrap();
}

async fn what_is_written_outside_is_read_inside_and_back(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("out.txt", "from outside\n", 0o644).await.unwrap();
    assert_eq!(sh(&vessel, "cat out.txt; echo from inside > in.txt").await, "from outside\n");
    assert_eq!(vessel.read_file("in.txt").await.unwrap(), b"from inside\n");
    vessel.write_file("empty", "", 0o600).await.unwrap();
    assert_eq!(vessel.read_file("empty").await.unwrap(), b"");
    assert_eq!(sh(&vessel, "stat -c '%a %u %g %s' out.txt empty").await, "644 0 0 13\n600 0 0 0\n");
    vessel.close().await.unwrap();
}

async fn errors_have_the_kind_of_their_cause(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir -p dir/full; echo x > file").await;
    let not_found = &ErrorKind::NotFound;
    fails(vessel.read_file("missing").await, not_found);
    fails(vessel.open_file("missing", &read()).await, not_found);
    fails(vessel.open_file("missing", &write()).await, not_found);
    fails(vessel.stat("missing").await, not_found);
    fails(vessel.delete_file("missing").await, not_found);
    fails(vessel.delete_all("missing").await, not_found);
    fails(vessel.read_dir("missing").await, not_found);
    fails(vessel.rename_file("missing", "x").await, not_found);
    fails(vessel.copy_out("missing", tokio::io::sink()).await, not_found);
    fails(vessel.copy_in("missing", Layer::new().finish().as_slice()).await, not_found);
    // Directories above are not made.
    fails(vessel.write_file("no/such/dir", "x", 0o644).await, not_found);
    fails(vessel.make_dir("no/such/dir", 0o755).await, not_found);
    fails(vessel.rename_file("file", "no/such/dir").await, not_found);
    fails(vessel.make_dir("dir", 0o755).await, &ErrorKind::AlreadyExists);
    fails(vessel.make_dir("file", 0o755).await, &ErrorKind::AlreadyExists);
    fails(vessel.open_file("file", &write().exclusive(true)).await, &ErrorKind::AlreadyExists);
    fails(vessel.read_dir("file").await, &ErrorKind::InvalidArgument);
    fails(vessel.read_file("dir").await, &ErrorKind::InvalidArgument);
    for (what, error) in [
        ("write over a directory", vessel.write_file("dir", "x", 0o644).await.unwrap_err()),
        ("a file as a directory", vessel.write_file("file/x", "x", 0o644).await.unwrap_err()),
        ("delete a full directory", vessel.delete_file("dir").await.unwrap_err()),
        ("delete the root", vessel.delete_file("/").await.unwrap_err()),
        ("rename into itself", vessel.rename_file("dir", "dir/full/x").await.unwrap_err()),
        ("rename onto a full directory", {
            vessel.make_dir("other", 0o755).await.unwrap();
            vessel.rename_file("other", "dir").await.unwrap_err()
        }),
    ] {
        let internal = matches!(error.kind(), ErrorKind::Internal | ErrorKind::Unavailable);
        assert!(!internal, "{what}: {:?} {}", error.kind(), error.chain());
        let text = error.chain();
        assert!(!text.is_empty() && !text.ends_with('.') && !text.contains("store"), "{what}: {text}");
    }
    assert_eq!(sh(&vessel, "cat file; ls dir").await, "x\nfull\n");
    vessel.close().await.unwrap();
}

async fn options_open_as_in_the_standard_library(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    put(&vessel, "f", &write().create(true).mode(0o640), "one").await;
    assert_eq!(vessel.stat("f").await.unwrap().mode, 0o640);
    // Without truncating, the rest stays.
    put(&vessel, "f", &write(), "TW").await;
    assert_eq!(vessel.read_file("f").await.unwrap(), b"TWe");
    put(&vessel, "f", &OpenOptions::new().append(true), "+end").await;
    assert_eq!(vessel.read_file("f").await.unwrap(), b"TWe+end");
    put(&vessel, "f", &write().create(true).truncate(true).mode(0o777), "x").await;
    assert_eq!(vessel.read_file("f").await.unwrap(), b"x");
    assert_eq!(vessel.stat("f").await.unwrap().mode, 0o640, "the mode is that of a new file only");
    put(&vessel, "new", &OpenOptions::new().append(true).create(true), "a").await;
    put(&vessel, "new", &read().write(true), "b").await;
    assert_eq!(vessel.read_file("new").await.unwrap(), b"b");
    put(&vessel, "once", &write().create(true).exclusive(true), "1").await;
    fails(vessel.open_file("once", &write().create(true).exclusive(true)).await, &ErrorKind::AlreadyExists);
    let refused = [OpenOptions::new(), OpenOptions::new().create(true), read().truncate(true)];
    for options in refused {
        fails(vessel.open_file("f", &options).await, &ErrorKind::InvalidArgument);
    }
    let mut reader = vessel.open_file("f", &read()).await.unwrap();
    assert!(
        async {
            reader.write_all(b"no").await?;
            reader.flush().await
        }
        .await
        .is_err()
    );
    let mut writer = vessel.open_file("f", &write()).await.unwrap();
    assert!(writer.read_u8().await.is_err());
    drop((reader, writer));
    assert_eq!(vessel.read_file("f").await.unwrap(), b"x");
    vessel.close().await.unwrap();
}

async fn a_file_reads_writes_and_seeks(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mut file = vessel.open_file("f", &read().write(true).create(true)).await.unwrap();
    assert_eq!(file.name(), Path::new("/work/f"));
    file.write_all(b"0123456789").await.unwrap();
    assert_eq!(file.seek(SeekFrom::Start(2)).await.unwrap(), 2);
    file.write_all(b"ab").await.unwrap();
    assert_eq!(file.seek(SeekFrom::Current(1)).await.unwrap(), 5);
    let mut two = [0; 2];
    file.read_exact(&mut two).await.unwrap();
    assert_eq!(&two, b"56");
    file.write_at(b"XY", 8).await.unwrap();
    let mut four = [0; 4];
    assert_eq!(file.read_at(&mut four, 7).await.unwrap(), 3);
    assert_eq!(&four[..3], b"7XY");
    assert_eq!(file.read_at(&mut four, 100).await.unwrap(), 0);
    assert_eq!(file.stream_position().await.unwrap(), 7, "positioned calls do not move");
    assert_eq!(file.seek(SeekFrom::End(-1)).await.unwrap(), 9);
    assert!(file.seek(SeekFrom::Current(-100)).await.is_err());
    file.truncate(4).await.unwrap();
    assert_eq!(file.stat().await.unwrap().size, 4);
    file.truncate(6).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(vessel.read_file("f").await.unwrap(), b"01ab\0\0");
    let info = file.stat().await.unwrap();
    assert_eq!((info.mode, info.uid, info.gid, info.file_type), (0o644, 0, 0, FileType::File));
    file.close().await.unwrap();
    assert_eq!(sh(&vessel, "od -An -c f | tr -d ' \\n'").await, "01ab\\0\\0");
    vessel.close().await.unwrap();
}

async fn deleting_renaming_and_making_directories(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.make_dir("d", 0o700).await.unwrap();
    vessel.make_dir_all("d/a/b/c", 0o750).await.unwrap();
    vessel.make_dir_all("d/a/b/c", 0o777).await.unwrap();
    assert_eq!(vessel.stat("d").await.unwrap().mode, 0o700);
    assert_eq!(vessel.stat("d/a/b/c").await.unwrap().mode, 0o750);
    vessel.write_file("d/a/f", "1", 0o644).await.unwrap();
    vessel.rename_file("d/a", "d/z").await.unwrap();
    assert_eq!(vessel.read_file("d/z/f").await.unwrap(), b"1");
    fails(vessel.stat("d/a").await, &ErrorKind::NotFound);
    vessel.write_file("g", "2", 0o644).await.unwrap();
    vessel.rename_file("g", "d/z/f").await.unwrap();
    assert_eq!(vessel.read_file("d/z/f").await.unwrap(), b"2");
    vessel.delete_file("d/z/f").await.unwrap();
    vessel.delete_file("d/z/b/c").await.unwrap();
    vessel.delete_all("d").await.unwrap();
    assert!(vessel.read_dir("").await.unwrap().is_empty());
    // What comes from the image goes too, and directories of it move.
    vessel.delete_file("/srv/link").await.unwrap();
    vessel.rename_file("/srv/sub", "/srv/moved").await.unwrap();
    assert_eq!(vessel.read_file("/srv/moved/b").await.unwrap(), b"b\n");
    fails(vessel.stat("/srv/sub").await, &ErrorKind::NotFound);
    vessel.delete_all("/srv").await.unwrap();
    assert_eq!(sh(&vessel, "ls / | grep -c srv || true").await, "0\n");
    vessel.make_dir("/srv", 0o755).await.unwrap();
    assert!(vessel.read_dir("/srv").await.unwrap().is_empty(), "the image's own do not shine through");
    vessel.close().await.unwrap();
}

async fn stat_tells_what_the_vessel_sees(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let info = vessel.stat("/etc/motd").await.unwrap();
    assert_eq!((info.file_type, info.size, info.mode), (FileType::File, MOTD.len() as u64, 0o644));
    assert_eq!(info.modified, SystemTime::UNIX_EPOCH + Duration::from_secs(BASE_TIME));
    let link = vessel.symlink_stat("/srv/link").await.unwrap();
    assert_eq!((link.file_type, link.link_target.as_deref()), (FileType::Symlink, Some(Path::new("sub/b"))));
    let followed = vessel.stat("/srv/link").await.unwrap();
    assert_eq!((followed.file_type, followed.link_target), (FileType::File, None));
    sh(&vessel, "mkfifo fifo; mkdir -m 1711 dir; echo x > set; chmod 6755 set; ln set set2; touch -d @5 set")
        .await;
    assert_eq!(vessel.stat("fifo").await.unwrap().file_type, FileType::Fifo);
    let dir = vessel.stat("dir").await.unwrap();
    assert_eq!((dir.is_dir(), dir.mode), (true, 0o1711));
    let set = vessel.stat("set").await.unwrap();
    assert_eq!((set.mode, set.nlink), (0o6755, 2));
    assert_eq!(set.modified, SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    assert_eq!(set.ino, vessel.stat("set2").await.unwrap().ino);
    vessel.close().await.unwrap();
}

async fn a_directory_is_listed_by_name(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    assert!(vessel.read_dir("").await.unwrap().is_empty());
    sh(&vessel, "for i in $(seq 1 1000); do echo $i > f$i; done; mkdir Z; ln -s nowhere a; touch .hidden")
        .await;
    let entries = vessel.read_dir("").await.unwrap();
    assert_eq!(entries.len(), 1003);
    assert!(entries.is_sorted_by_key(|entry| entry.name.clone()));
    let find = |name: &str| entries.iter().find(|entry| entry.name == *name).unwrap();
    assert!(find("Z").info.is_dir() && find("a").info.is_symlink() && find(".hidden").info.is_file());
    assert_eq!(find("f1000").info.size, 5);
    vessel.close().await.unwrap();
}

async fn writing_a_file_replaces_it_as_a_whole(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("f", "0".repeat(100_000), 0o600).await.unwrap();
    let writer = vessel.clone();
    let writing = tokio::spawn(async move {
        for round in 1..40u8 {
            writer.write_file("f", vec![b'0' + round % 10; 100_000], 0o644).await.unwrap();
        }
    });
    while !writing.is_finished() {
        let data = vessel.read_file("f").await.unwrap();
        assert!(data.len() == 100_000 && data.iter().all(|&b| b == data[0]), "a mixture was read");
    }
    writing.await.unwrap();
    assert_eq!(sh(&vessel, "ls -a | wc -l").await.trim(), "3", "nothing half-written is left beside it");
    vessel.close().await.unwrap();
}

async fn write_file_keeps_what_others_have_open(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("f", "old", 0o644).await.unwrap();
    let mut before = vessel.open_file("f", &read()).await.unwrap();
    vessel.write_file("f", "new", 0o644).await.unwrap();
    let mut text = String::new();
    before.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "old");
    assert_eq!(vessel.read_file("f").await.unwrap(), b"new");
    vessel.close().await.unwrap();
}

async fn a_mode_is_taken_as_it_is(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for mode in [0o777, 0o666, 0o600, 0o400, 0o000] {
        let name = format!("f{mode:o}");
        vessel.write_file(&name, "x", mode).await.unwrap();
        vessel.make_dir(format!("d{mode:o}"), mode).await.unwrap();
        vessel.open_file(format!("o{mode:o}"), &write().create(true).mode(mode)).await.unwrap();
        for kind in ["f", "d", "o"] {
            assert_eq!(vessel.stat(format!("{kind}{mode:o}")).await.unwrap().mode, mode, "{kind}");
        }
        // Its owner may read it by the API, whatever the mode.
        assert_eq!(vessel.read_file(&name).await.unwrap(), b"x");
    }
    vessel.close().await.unwrap();
}

async fn an_open_file_outlives_its_name(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("f", "still here", 0o644).await.unwrap();
    let mut file = vessel.open_file("f", &read()).await.unwrap();
    vessel.delete_file("f").await.unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).await.unwrap();
    assert_eq!((text.as_str(), file.stat().await.unwrap().nlink), ("still here", 0));
    drop(file);
    vessel.close().await.unwrap();
}

async fn large_files_come_through(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let data = Random::new().bytes(24 << 20);
    vessel.write_file("big", &data, 0o644).await.unwrap();
    let sum = sh(&vessel, "sha256sum < big | cut -c1-64").await;
    assert_eq!(sum.trim(), crate::testkit::image::sha256(&data));
    assert!(vessel.read_file("big").await.unwrap() == data);
    vessel.close().await.unwrap();
}

async fn reading_is_bounded_by_the_limit(store: &Store) {
    let _ = store.stocked().await;
    let mut limits = Limits::default();
    limits.read_file_bytes = 1000;
    let manager = Manager::new(store.config().limits(limits)).await.unwrap();
    let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
    sh(&vessel, "head -c 1000 /dev/zero > fits; head -c 1001 /dev/zero > over; truncate -s 100G huge").await;
    assert_eq!(vessel.read_file("fits").await.unwrap().len(), 1000);
    for name in ["over", "huge"] {
        fails(vessel.read_file(name).await, &ErrorKind::LimitExceeded);
    }
    let mut huge = vessel.open_file("huge", &read()).await.unwrap();
    let mut end = [1; 8];
    assert_eq!(huge.read_at(&mut end, (100 << 30) - 4).await.unwrap(), 4);
    drop(huge);
    vessel.close().await.unwrap();
}

async fn sparse_files_have_their_size(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mut file = vessel.open_file("sparse", &read().write(true).create(true)).await.unwrap();
    file.write_at(b"end", 1 << 30).await.unwrap();
    file.close().await.unwrap();
    assert_eq!(vessel.stat("sparse").await.unwrap().size, (1 << 30) + 3);
    let blocks: u64 = sh(&vessel, "stat -c %b sparse").await.trim().parse().unwrap();
    assert!(blocks < 2048, "{blocks} blocks");
    vessel.close().await.unwrap();
}

async fn files_of_other_users_and_modes_are_readable(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let (_manager, vessel) = store.vessel().await;
    let user =
        ExecOptions::new(["sh", "-c", "umask 077; echo mine > /tmp/secret; mkdir /tmp/d; echo x > /tmp/d/f"]);
    must(&vessel, user.user("user").persist_result(true)).await;
    let info = vessel.stat("/tmp/secret").await.unwrap();
    assert_eq!((info.uid, info.gid, info.mode), (1000, 1000, 0o600));
    assert_eq!(vessel.read_file("/tmp/secret").await.unwrap(), b"mine\n");
    assert_eq!(vessel.read_file("/tmp/d/f").await.unwrap(), b"x\n");
    assert_eq!(vessel.read_dir("/tmp/d").await.unwrap().len(), 1);
    let mut file = vessel.open_file("/tmp/secret", &read().write(true)).await.unwrap();
    assert_eq!(file.stat().await.unwrap().uid, 1000);
    file.write_all(b"ours").await.unwrap();
    file.close().await.unwrap();
    // Replacing it keeps the owner's hand off nothing: the new file is root's, as a new file is.
    vessel.write_file("/tmp/d/f", "y", 0o644).await.unwrap();
    assert_eq!(vessel.read_file("/tmp/secret").await.unwrap(), b"ours\n");
    let cat = must(&vessel, ExecOptions::new(["cat", "/tmp/secret"]).user("1000:1000")).await;
    assert_eq!(cat, "ours\n");
    vessel.delete_all("/tmp/d").await.unwrap();
    vessel.close().await.unwrap();
}

async fn copying_in_and_out_keeps_modes_times_and_links(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    // fuse-overlayfs 1.10 cannot change the mode of a FIFO.
    let fifo = if store.driver() == OverlayDriver::Fuse { "true" } else { "mkfifo a/fifo" };
    let script = "mkdir -p a/b; echo 1 > a/f; chmod 4750 a/f; ln a/f a/hard; ln -s ../f a/b/soft; truncate -s 1M a/sparse
        echo wh > a/.wh.x; printf '' > a/empty; chmod 0500 a/b; touch -d @1000 a/f a/sparse a/b a";
    sh(&vessel, &format!("{script}; {fifo}")).await;
    let mut tar = Vec::new();
    vessel.copy_out("a", &mut tar).await.unwrap();
    vessel.make_dir("copy", 0o755).await.unwrap();
    vessel.copy_in("copy", tar.as_slice()).await.unwrap();
    let list =
        "find . | sort | while read -r p; do stat -c '%n %f %h' \"$p\"; done; cat f .wh.x; stat -c %Y f b";
    let original = must(&vessel, ExecOptions::new(["sh", "-c", list]).work_dir("a")).await;
    let top = sh(&vessel, "[ -d copy/a ] && echo copy/a || echo copy").await;
    let copied = must(&vessel, ExecOptions::new(["sh", "-c", list]).work_dir(top.trim())).await;
    let inner = |text: &str| {
        text.lines().filter(|line| !line.starts_with(". ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(inner(&copied), inner(&original));
    // It is directories that are copied; a single file is read and written.
    fails(vessel.copy_out("a/f", tokio::io::sink()).await, &ErrorKind::InvalidArgument);
    vessel.close().await.unwrap();
}

async fn hard_links_keep_their_content(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "echo 1 > one; ln one two").await;
    put(&vessel, "one", &write().truncate(true), "2").await;
    assert_eq!(vessel.read_file("two").await.unwrap(), b"2");
    vessel.delete_file("one").await.unwrap();
    assert_eq!(vessel.read_file("two").await.unwrap(), b"2");
    vessel.close().await.unwrap();
}

async fn files_of_the_image_are_copied_when_written(store: &Store) {
    let (manager, one) = store.vessel().await;
    let two = manager.create_vessel(BASE, "/work").await.unwrap();
    put(&one, "/etc/motd", &write().truncate(true), "mine").await;
    one.write_file("/srv/a", "mine", 0o600).await.unwrap();
    one.delete_file("/srv/sub/b").await.unwrap();
    assert_eq!(two.read_file("/etc/motd").await.unwrap(), MOTD);
    assert_eq!(two.read_file("/srv/a").await.unwrap(), b"a\n");
    assert_eq!(two.read_file("/srv/sub/b").await.unwrap(), b"b\n");
    assert_eq!(one.read_file("/etc/motd").await.unwrap(), b"mine");
    one.close().await.unwrap();
    two.close().await.unwrap();
}

async fn many_operations_run_at_once(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let tasks: Vec<_> = (0..32u32)
        .map(|i| {
            let vessel = vessel.clone();
            tokio::spawn(async move {
                let (dir, data) = (format!("d{i}"), vec![u8::try_from(i).unwrap(); 10_000]);
                vessel.make_dir(&dir, 0o755).await.unwrap();
                for n in 0..8 {
                    let path = format!("{dir}/f{n}");
                    vessel.write_file(&path, &data, 0o644).await.unwrap();
                    assert_eq!(vessel.read_file(&path).await.unwrap(), data);
                }
                assert_eq!(vessel.read_dir(&dir).await.unwrap().len(), 8);
                vessel.delete_all(&dir).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(vessel.read_dir("").await.unwrap().is_empty());
    vessel.close().await.unwrap();
}

async fn a_damaged_archive_to_copy_in_is_refused(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let good = Layer::new().file("f", 0o644, 0, &[7; 5000]).finish();
    let mut flipped = good.clone();
    flipped[20] ^= 0xff;
    for bad in [good[..2000].to_vec(), flipped, b"not a tar at all".repeat(100)] {
        fails(vessel.copy_in("", bad.as_slice()).await, &ErrorKind::IntegrityViolation);
    }
    vessel.copy_in("", good.as_slice()).await.unwrap();
    assert_eq!(vessel.read_file("f").await.unwrap().len(), 5000);
    vessel.close().await.unwrap();
}

async fn a_closed_vessel_is_reopened_or_refused_and_never_wrong(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    vessel.write_file("f", "x", 0o644).await.unwrap();
    vessel.close().await.unwrap();
    vessel.close().await.unwrap();
    if let Ok(data) = vessel.read_file("f").await {
        assert_eq!(data, b"x");
    }
    vessel.close().await.unwrap();
    let status = manager.vessel_status(vessel.id()).await.unwrap();
    assert!(!status.running);
}
