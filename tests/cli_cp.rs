//! `cp`: files and trees both ways, as `docker cp` and `cp -a` place them.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::shell::Shell;
use crate::testkit::canary::Canary;
use crate::testkit::image::sha256;

/// Sets permission bits and a modification time with a fraction.
fn dress(path: &Path, mode: u32, seconds: u64) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// A tree with files, an empty directory, links, odd names and modes.
fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("sub/empty")).unwrap();
    fs::write(dir.join("sub/file"), "content").unwrap();
    fs::write(dir.join("run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"odd\xff\n")), "odd").unwrap();
    fs::write(dir.join(".wh.kept"), "not a whiteout").unwrap();
    fs::hard_link(dir.join("run"), dir.join("run-too")).unwrap();
    symlink("sub/file", dir.join("link")).unwrap();
    symlink("/etc/shadow", dir.join("outward")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    dress(&dir.join("sub/file"), 0o640, 1_000_000_001);
    dress(&dir.join("run"), 0o755, 1_000_000_002);
    dress(&dir.join("sub/empty"), 0o711, 1_000_000_003);
    dress(&dir.join("sub"), 0o750, 1_000_000_004);
    dress(dir, 0o755, 1_000_000_005);
}

/// Every path with type, mode, time, and content or target.
fn listing(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        let content = match meta.file_type() {
            kind if kind.is_dir() => {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                Vec::new()
            }
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            _ => sha256(&fs::read(&path).unwrap()).into_bytes(),
        };
        let name = path.strip_prefix(dir).unwrap();
        let time = if meta.is_symlink() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        lines.push(format!("{name:?} {:o} {time:?} {:?}", meta.mode(), String::from_utf8_lossy(&content)));
    }
    lines.sort();
    lines
}

#[test]
fn a_tree_goes_in_and_comes_out_the_same() {
    let shell = Shell::new();
    let id = shell.vessel();
    let source = shell.beside("tree");
    tree(&source);
    shell.call(["cp"]).arg(&source).arg(format!("{id}:/work/")).succeeds();
    let inside = shell.sh(&id, "stat -c '%a %Y %n' tree tree/sub tree/sub/file tree/sub/empty tree/run; readlink tree/outward; tree/run");
    let expected = "755 1000000005 tree\n750 1000000004 tree/sub\n640 1000000001 tree/sub/file\n711 1000000003 tree/sub/empty\n\
                    755 1000000002 tree/run\n/etc/shadow\nran\n";
    assert_eq!(inside, expected);
    assert_eq!(shell.sh(&id, "stat -c %i tree/run tree/run-too | uniq | wc -l"), "1\n");
    let back = shell.beside("back");
    shell.call(["cp"]).arg(format!("{id}:/work/tree")).arg(&back).succeeds();
    assert_eq!(listing(&back), listing(&source));
    assert_eq!(
        fs::metadata(back.join("run")).unwrap().ino(),
        fs::metadata(back.join("run-too")).unwrap().ino()
    );
    let snapshot = shell.call(["snapshot", "create", &id]).succeeds().line();
    shell.sh(&id, "rm -rf tree");
    shell.call(["snapshot", "restore", &id, &snapshot]).succeeds();
    let again = shell.beside("again");
    shell.call(["cp"]).arg(format!("{id}:tree")).arg(&again).succeeds();
    assert_eq!(listing(&again), listing(&source));
    shell.assert_idle();
}

#[test]
fn where_things_land() {
    let shell = Shell::new();
    let id = shell.vessel();
    let dir = shell.beside("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("f"), "f").unwrap();
    let file = shell.file("file", b"file");
    let into = |source: &Path, to: &str| shell.call(["cp"]).arg(source).arg(format!("{id}:{to}")).run().code;
    assert_eq!(into(&file, "/work/"), 0);
    assert_eq!(into(&file, "/work/renamed"), 0);
    assert_eq!(into(&file, "relative"), 0);
    assert_eq!(into(&file, "/tmp"), 0);
    assert_eq!(into(&dir, "/work"), 0);
    assert_eq!(into(&dir, "/work/new"), 0);
    assert_eq!(into(&dir.join("."), "/work/contents"), 0);
    assert_eq!(into(&dir, "/work/contents"), 0);
    let found = shell.sh(&id, "find /work /tmp -type f | sort");
    let expected = [
        "/tmp/file",
        "/work/contents/dir/f",
        "/work/contents/f",
        "/work/dir/f",
        "/work/file",
        "/work/new/f",
        "/work/relative",
        "/work/renamed",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
    assert_eq!(into(&file, "/no/such/dir/"), 125);
    assert_eq!(into(&dir, "/work/file"), 125);
    assert_eq!(into(&shell.beside("missing"), "/work/"), 125);
}

#[test]
fn where_things_land_outside() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "mkdir -p d/e; echo f > d/f; echo g > d/e/g");
    let out = shell.beside("out");
    fs::create_dir(&out).unwrap();
    let from = |path: &str, to: &Path| shell.call(["cp"]).arg(format!("{id}:{path}")).arg(to).run().code;
    assert_eq!(from("d/f", &out), 0);
    assert_eq!(from("d/f", &out.join("renamed")), 0);
    assert_eq!(from("/work/d", &out), 0);
    assert_eq!(from("d", &out.join("new")), 0);
    assert_eq!(from("d/.", &out.join("e")), 0);
    for (path, content) in [
        ("f", "f\n"),
        ("renamed", "f\n"),
        ("d/e/g", "g\n"),
        ("new/e/g", "g\n"),
        ("e/f", "f\n"),
        ("e/e/g", "g\n"),
    ] {
        assert_eq!(fs::read_to_string(out.join(path)).unwrap(), content, "{path}");
    }
    assert_eq!(from("missing", &out), 125);
    assert_eq!(from("d", &out.join("f")), 125);
    assert_eq!(from("d/f", &out.join("no/such/dir/")), 125);
}

#[test]
fn a_copy_replaces_files_and_merges_directories() {
    let shell = Shell::new();
    let id = shell.vessel();
    let dir = shell.beside("d");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("both"), "host").unwrap();
    shell.sh(&id, "mkdir d; echo vessel > d/both; echo only > d/only; ln -s /etc/motd d/link");
    fs::write(dir.join("link"), "a file now").unwrap();
    shell.call(["cp"]).arg(&dir).arg(format!("{id}:/work")).succeeds();
    assert_eq!(
        shell.sh(&id, "cat d/both; echo; cat d/only; cat d/link; echo; cat /etc/motd"),
        "host\nonly\na file now\nthe base image\n"
    );
}

#[test]
fn a_copy_out_never_leaves_its_target() {
    let shell = Shell::new();
    let id = shell.vessel();
    let canary = Canary::new(shell.store());
    let victim = canary.victim();
    let shown = victim.to_str().unwrap();
    shell.sh(&id, &format!("mkdir -p d/sub; ln -s {shown} d/abs; ln -s ../../canary/victim d/rel; echo x > d/sub/hello; mkdir d/z; echo y > d/z/hello"));
    let out = shell.beside("out");
    fs::create_dir(&out).unwrap();
    // What is there already may be links of somebody else.
    fs::create_dir(out.join("d")).unwrap();
    symlink(&victim, out.join("d/sub")).unwrap();
    symlink(victim.join("hello"), out.join("d/z")).unwrap();
    shell.call(["cp"]).arg(format!("{id}:/work/d")).arg(&out).run();
    shell.call(["cp"]).arg(format!("{id}:/work/d/abs")).arg(&out).run();
    shell.call(["cp"]).arg(format!("{id}:/work/d/abs/secret")).arg(&out).exits(125);
    canary.is_unharmed();
}

#[test]
fn a_copy_in_follows_links_of_the_vessel_inside_it() {
    let shell = Shell::new();
    let id = shell.vessel();
    let canary = Canary::new(shell.store());
    let victim = canary.victim();
    let shown = victim.to_str().unwrap();
    shell.sh(
        &id,
        &format!("ln -s {shown} out; ln -s /proc/self/root/etc proc; ln -s ../../../../../../etc/motd motd"),
    );
    let file = shell.file("hello", b"changed");
    for target in ["out/hello", "out/", "out", "proc/hello", "motd"] {
        shell.call(["cp"]).arg(&file).arg(format!("{id}:{target}")).run();
    }
    canary.is_unharmed();
    assert_ne!(fs::read("/etc/motd").unwrap_or_default(), b"changed");
}

#[test]
fn devices_and_sockets_are_not_copied_out() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "mkdir d; mkfifo d/fifo; echo x > d/f");
    let out = shell.beside("out");
    shell.call(["cp"]).arg(format!("{id}:d")).arg(&out).run();
    assert_eq!(fs::read(out.join("f")).unwrap(), b"x\n");
    assert!(
        shell.call(["cp"]).arg(format!("{id}:/dev/zero")).arg(shell.beside("zero")).run().code != 0
            || !shell.beside("zero").is_file()
    );
}

#[test]
fn both_sides_or_none_in_a_vessel_is_no_copy() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["cp", "a", "b"]).refused("invalid_argument");
    let inside = format!("{id}:a");
    shell.call(["cp", &inside, &inside]).exits(125);
    shell.call(["cp", "only-one"]).exits(125);
}

#[test]
fn many_files_are_copied() {
    let shell = Shell::new();
    let id = shell.vessel();
    let dir = shell.beside("many");
    for n in 0..3000 {
        let sub = dir.join(format!("d{}", n % 30));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("f{n}")), n.to_string()).unwrap();
    }
    fs::write(dir.join("big"), vec![7; 20 << 20]).unwrap();
    shell.call(["cp"]).arg(&dir).arg(format!("{id}:/work/")).succeeds();
    assert_eq!(
        shell.sh(&id, "find many -type f | wc -l; cat many/d7/f2467; echo; stat -c %s many/big"),
        "3001\n2467\n20971520\n"
    );
    let back = shell.beside("back");
    shell.call(["cp"]).arg(format!("{id}:many")).arg(&back).succeeds();
    assert_eq!(listing(&back), listing(&dir));
}
