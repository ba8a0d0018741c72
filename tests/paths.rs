//! What a path means: one rule for every verb of the file API.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use vesselrt::{Error, ErrorKind, ExecOptions, OpenOptions, Vessel};

use crate::testkit::canary::Canary;
use crate::testkit::commands::must;
use crate::testkit::{Store, fails, sh, tests, tests_on_each_driver};

tests_on_each_driver!(
    relative_paths_begin_at_the_working_directory,
    symlinks_lead_to_what_they_mean_inside,
    a_loop_of_symlinks_is_an_error,
);

tests!(
    every_verb_cleans_and_clamps_its_path,
    a_nul_byte_is_an_invalid_argument_everywhere,
    names_that_are_not_utf8_work,
    long_names_and_paths_are_typed_errors,
    a_dangling_symlink_is_not_found_or_written_inside,
    what_is_no_regular_file_is_never_opened,
    proc_and_dev_of_the_host_cannot_be_reached,
);

/// Path, what it means in a vessel with the working directory `/work/here`.
const TABLE: [(&str, &str); 12] = [
    ("f", "/work/here/f"),
    ("./f", "/work/here/f"),
    ("d/../f", "/work/here/f"),
    ("../f", "/work/f"),
    ("../../f", "/f"),
    ("../../../../f", "/f"),
    ("/f", "/f"),
    ("//tmp//f", "/tmp/f"),
    ("/tmp/./f", "/tmp/f"),
    ("/../../tmp/f", "/tmp/f"),
    ("missing/../f", "/work/here/f"),
    ("..f", "/work/here/..f"),
];

async fn vessel_at(store: &Store, work_dir: &str) -> Vessel {
    store.stocked().await.create_vessel(crate::testkit::BASE, work_dir).await.unwrap()
}

async fn relative_paths_begin_at_the_working_directory(store: &Store) {
    let vessel = vessel_at(store, "/work/here").await;
    for (path, inside) in TABLE {
        vessel.write_file(path, path, 0o644).await.unwrap();
        assert_eq!(vessel.read_file(inside).await.unwrap(), path.as_bytes(), "{path:?}");
        let cat = must(&vessel, ExecOptions::new(["cat", inside])).await;
        assert_eq!(cat, path, "{path:?}");
        vessel.delete_file(path).await.unwrap();
        fails(vessel.stat(inside).await, &ErrorKind::NotFound);
    }
    // The empty path and `.` are the working directory itself; `..` is above it.
    let here = vessel.stat("/work/here").await.unwrap().ino;
    for path in ["", ".", "./", "x/.."] {
        assert_eq!(vessel.stat(path).await.unwrap().ino, here, "{path:?}");
    }
    assert_eq!(vessel.stat("..").await.unwrap().ino, vessel.stat("/work").await.unwrap().ino);
    assert_eq!(vessel.stat("../../../..").await.unwrap().ino, vessel.stat("/").await.unwrap().ino);
    vessel.close().await.unwrap();
}

async fn every_verb_cleans_and_clamps_its_path(store: &Store) {
    let vessel = vessel_at(store, "/work/here").await;
    let up = |name: &str| format!("../../../..//tmp/./x/../{name}");
    vessel.make_dir(up("dir"), 0o700).await.unwrap();
    vessel.make_dir_all(up("dir/a/b"), 0o700).await.unwrap();
    vessel.write_file(up("dir/a/f"), "x", 0o600).await.unwrap();
    let file = vessel.open_file(up("dir/a/f"), &OpenOptions::new().read(true)).await.unwrap();
    assert_eq!(file.name(), Path::new("/tmp/dir/a/f"));
    drop(file);
    assert_eq!(vessel.read_file(up("dir/a/f")).await.unwrap(), b"x");
    assert_eq!(vessel.read_dir(up("dir/a")).await.unwrap().len(), 2);
    vessel.rename_file(up("dir/a/f"), up("dir/g")).await.unwrap();
    assert_eq!(vessel.symlink_stat(up("dir/g")).await.unwrap().size, 1);
    vessel.delete_file(up("dir/a/b")).await.unwrap();
    let mut tar = Vec::new();
    vessel.copy_out(up("dir"), &mut tar).await.unwrap();
    vessel.make_dir("/tmp/copy", 0o755).await.unwrap();
    vessel.copy_in(up("copy"), tar.as_slice()).await.unwrap();
    assert_eq!(sh(&vessel, "find /tmp/copy -name g | wc -l").await.trim(), "1");
    vessel.delete_all(up("dir")).await.unwrap();
    assert_eq!(sh(&vessel, "ls /tmp").await, "copy\n");
    vessel.close().await.unwrap();
}

/// What each verb says about `path`.
async fn every_verb(vessel: &Vessel, path: &OsStr) -> Vec<(&'static str, Result<(), Error>)> {
    let options = OpenOptions::new().read(true);
    let create = OpenOptions::new().write(true).create(true);
    vec![
        ("open", vessel.open_file(path, &options).await.map(drop)),
        ("create", vessel.open_file(path, &create).await.map(drop)),
        ("read", vessel.read_file(path).await.map(drop)),
        ("write", vessel.write_file(path, "x", 0o644).await),
        ("delete", vessel.delete_file(path).await),
        ("delete all", vessel.delete_all(path).await),
        ("rename from", vessel.rename_file(path, "other").await),
        ("rename to", vessel.rename_file("there", path).await),
        ("stat", vessel.stat(path).await.map(drop)),
        ("symlink stat", vessel.symlink_stat(path).await.map(drop)),
        ("make dir", vessel.make_dir(path, 0o755).await),
        ("make dir all", vessel.make_dir_all(path, 0o755).await),
        ("read dir", vessel.read_dir(path).await.map(drop)),
        ("copy in", vessel.copy_in(path, [0u8; 1024].as_slice()).await),
        ("copy out", vessel.copy_out(path, tokio::io::sink()).await),
    ]
}

async fn a_nul_byte_is_an_invalid_argument_everywhere(store: &Store) {
    let vessel = vessel_at(store, "/work").await;
    vessel.write_file("there", "x", 0o644).await.unwrap();
    for path in ["a\0b", "\0", "/etc/motd\0"] {
        for (verb, result) in every_verb(&vessel, OsStr::new(path)).await {
            let error = result.expect_err(verb);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{verb} {path:?}: {}", error.chain());
        }
    }
    assert_eq!(vessel.read_dir("").await.unwrap().len(), 1);
    vessel.close().await.unwrap();
}

async fn names_that_are_not_utf8_work(store: &Store) {
    let vessel = vessel_at(store, "/work").await;
    for name in [b"\xff\xfe".as_slice(), b"a\nb", b"\x1b[31m", b" ", b".\t", b"-", b"a\\b", "é".as_bytes()] {
        let path = OsStr::from_bytes(name);
        vessel.write_file(path, name, 0o644).await.unwrap();
        assert_eq!(vessel.read_file(path).await.unwrap(), name);
        let entries = vessel.read_dir("").await.unwrap();
        assert_eq!(entries.iter().map(|e| e.name.as_bytes()).collect::<Vec<_>>(), [name]);
        assert_eq!(
            sh(&vessel, "find . -type f -exec cat {} +").await.as_bytes(),
            String::from_utf8_lossy(name).as_bytes()
        );
        vessel.rename_file(path, "plain").await.unwrap();
        vessel.rename_file("plain", path).await.unwrap();
        vessel.delete_file(path).await.unwrap();
    }
    assert!(vessel.read_dir("").await.unwrap().is_empty());
    vessel.close().await.unwrap();
}

async fn long_names_and_paths_are_typed_errors(store: &Store) {
    let vessel = vessel_at(store, "/work").await;
    let longest = "n".repeat(255);
    vessel.write_file(&longest, "x", 0o644).await.unwrap();
    assert_eq!(vessel.read_file(&longest).await.unwrap(), b"x");
    vessel.write_file("there", "x", 0o644).await.unwrap();
    for path in ["n".repeat(256), "d/".repeat(3000), "n".repeat(70_000)] {
        for (verb, result) in every_verb(&vessel, OsStr::new(&path)).await {
            let Err(error) = result else { panic!("{verb} of {} bytes", path.len()) };
            assert!(
                !matches!(error.kind(), ErrorKind::Internal | ErrorKind::Unavailable),
                "{verb}: {}",
                error.chain()
            );
        }
    }
    assert_eq!(vessel.read_file("there").await.unwrap(), b"x");
    vessel.close().await.unwrap();
}

async fn symlinks_lead_to_what_they_mean_inside(store: &Store) {
    let canary = Canary::new(store);
    let vessel = vessel_at(store, "/work").await;
    let victim = canary.victim();
    let script = format!(
        "echo inside > /tmp/target; mkdir -p /tmp/dir; echo deep > /tmp/dir/f
         ln -s /tmp/target absolute; ln -s ../../../../../tmp/target up; ln -s /tmp/dir dir
         ln -s {victim}/secret secret; ln -s {victim} victim; ln -s /etc/shadow shadow",
        victim = victim.display()
    );
    sh(&vessel, &script).await;
    for path in ["absolute", "up"] {
        assert_eq!(vessel.read_file(path).await.unwrap(), b"inside\n");
        assert!(vessel.stat(path).await.unwrap().is_file());
        let link = vessel.symlink_stat(path).await.unwrap();
        assert!(link.is_symlink() && link.link_target.is_some());
    }
    assert_eq!(vessel.read_file("dir/f").await.unwrap(), b"deep\n");
    for path in ["secret", "shadow", "victim/hello"] {
        fails(vessel.read_file(path).await, &ErrorKind::NotFound);
        fails(vessel.stat(path).await, &ErrorKind::NotFound);
    }
    // A path of the host means a path inside, which may be made there.
    vessel.make_dir_all(&victim, 0o755).await.unwrap();
    vessel.write_file("victim/hello", "theirs", 0o644).await.unwrap();
    vessel.write_file("victim/new", "theirs", 0o644).await.unwrap();
    assert_eq!(vessel.read_file(victim.join("hello")).await.unwrap(), b"theirs");
    vessel.delete_all("victim/dir").await.unwrap_err();
    vessel.delete_file("victim/hello").await.unwrap();
    let mut tar = Vec::new();
    vessel.copy_out("/work", &mut tar).await.unwrap();
    assert!(!canary.is_told_by(&tar));
    vessel.delete_all("/work").await.unwrap();
    canary.is_unharmed();
    vessel.close().await.unwrap();
}

async fn a_loop_of_symlinks_is_an_error(store: &Store) {
    let vessel = vessel_at(store, "/work").await;
    sh(&vessel, "ln -s self self; ln -s two one; ln -s one two; ln -s . dot; echo x > f").await;
    for path in ["self", "one", "self/x", "two/../f/x"] {
        let error = vessel.read_file(path).await.unwrap_err();
        assert!(!matches!(error.kind(), ErrorKind::Internal | ErrorKind::Unavailable), "{}", error.chain());
    }
    let many = format!("{}f", "dot/".repeat(20));
    assert_eq!(vessel.read_file(many).await.unwrap(), b"x\n");
    vessel.delete_file("self").await.unwrap();
    vessel.delete_all("/work/one").await.unwrap();
    vessel.close().await.unwrap();
}

async fn a_dangling_symlink_is_not_found_or_written_inside(store: &Store) {
    let vessel = vessel_at(store, "/work").await;
    sh(&vessel, "ln -s /tmp/nowhere dangling; ln -s /no/dir/at/all far").await;
    fails(vessel.read_file("dangling").await, &ErrorKind::NotFound);
    let exclusive = OpenOptions::new().write(true).create(true).exclusive(true);
    fails(vessel.open_file("dangling", &exclusive).await, &ErrorKind::AlreadyExists);
    fails(vessel.open_file("far", &OpenOptions::new().write(true).create(true)).await, &ErrorKind::NotFound);
    // A plain create goes where the link points, or is refused; in no case does it go elsewhere.
    match vessel.open_file("dangling", &OpenOptions::new().write(true).create(true)).await {
        Ok(_) => assert!(vessel.stat("/tmp/nowhere").await.unwrap().is_file()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain()),
    }
    vessel.close().await.unwrap();
}

async fn what_is_no_regular_file_is_never_opened(store: &Store) {
    let vessel = vessel_at(store, "/work").await;
    sh(&vessel, "mkfifo fifo; mkdir dir; ln -s fifo link").await;
    // A FIFO without a peer blocks whoever opens it: that it fails at once is what is tested.
    for path in ["fifo", "link", "dir", "."] {
        for options in [OpenOptions::new().read(true), OpenOptions::new().write(true)] {
            let opening = vessel.open_file(path, &options);
            let opened = crate::testkit::within(crate::testkit::PATIENCE, path, opening).await;
            fails(opened, &ErrorKind::InvalidArgument);
        }
        let reading = crate::testkit::within(crate::testkit::PATIENCE, path, vessel.read_file(path)).await;
        fails(reading, &ErrorKind::InvalidArgument);
    }
    vessel.close().await.unwrap();
}

async fn proc_and_dev_of_the_host_cannot_be_reached(store: &Store) {
    let canary = Canary::new(store);
    let vessel = vessel_at(store, "/work").await;
    let secret = canary.victim().join("secret");
    let paths = ["/proc/self/root", "/proc/1/root", "/proc/self/cwd", "/proc/self/fd/0", "/dev/fd/0"];
    for path in paths {
        for full in [path.to_owned(), format!("{path}{}", secret.display()), format!("{path}/etc/shadow")] {
            fails(vessel.read_file(&full).await, &ErrorKind::NotFound);
        }
    }
    for device in ["/dev/null", "/dev/zero", "/dev/stdin", "/proc/version", "/sys/kernel"] {
        // The file API sees the layers, and no mounts of a container.
        fails(vessel.stat(device).await, &ErrorKind::NotFound);
    }
    canary.is_unharmed();
    vessel.close().await.unwrap();
}
