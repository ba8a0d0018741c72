//! Making and removing directories and deep trees.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// Nests `depth` directories `d` below `path`, beyond what a path can name.
fn nest(path: &Path, depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut dir = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        drop(rustix::fs::openat(&dir, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap());
        dir = rustix::fs::openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
}

#[test]
fn directories_have_exactly_the_mode_asked_for() {
    let tree = tree();
    for mode in [0o777, 0o700, 0o1777, 0o755, 0o2775] {
        let path = format!("m{mode:o}");
        make_dir(&tree.root, path.as_bytes(), mode, false).unwrap();
        assert_eq!(fs::metadata(tree.path(&path)).unwrap().permissions().mode() & 0o7777, mode);
    }
    make_dir(&tree.root, b"a/b/c", 0o770, true).unwrap();
    for path in ["a", "a/b", "a/b/c"] {
        assert_eq!(fs::metadata(tree.path(path)).unwrap().permissions().mode() & 0o7777, 0o770);
    }
}

#[test]
fn make_dir_tells_what_is_in_the_way() {
    let tree = tree();
    fs::write(tree.path("file"), "").unwrap();
    symlink("/real", tree.path("link")).unwrap();
    fs::create_dir(tree.path("real")).unwrap();
    fails(make_dir(&tree.root, b"file", 0o755, false), FaultKind::AlreadyExists);
    fails(make_dir(&tree.root, b"real", 0o755, false), FaultKind::AlreadyExists);
    fails(make_dir(&tree.root, b"gone/x", 0o755, false), FaultKind::NotFound);
    fails(make_dir(&tree.root, b"file", 0o755, true), FaultKind::InvalidArgument);
    fails(make_dir(&tree.root, b"file/x/y", 0o755, true), FaultKind::InvalidArgument);
    make_dir(&tree.root, b"real", 0o755, true).unwrap();
    make_dir(&tree.root, b"link/x/../y/z", 0o755, true).unwrap();
    assert!(tree.path("real/x").is_dir() && tree.path("real/y/z").is_dir());
}

#[test]
fn remove_takes_files_and_empty_directories_only() {
    let tree = tree();
    fs::create_dir_all(tree.path("full/sub")).unwrap();
    fs::create_dir(tree.path("empty")).unwrap();
    fs::write(tree.path("file"), "").unwrap();
    symlink("full", tree.path("link")).unwrap();
    for path in ["empty", "file", "link"] {
        remove(&tree.root, path.as_bytes(), false).unwrap();
        fails(remove(&tree.root, path.as_bytes(), false), FaultKind::NotFound);
        fails(remove(&tree.root, path.as_bytes(), true), FaultKind::NotFound);
    }
    let fault = fails(remove(&tree.root, b"full", false), FaultKind::InvalidArgument);
    assert_eq!(fault.message, "failed to remove \"full\": directory not empty");
    assert!(tree.path("full/sub").exists());
}

#[test]
fn recursive_removal_does_not_follow_symlinks() {
    let tree = tree();
    fs::create_dir_all(tree.path("t/a/b")).unwrap();
    fs::create_dir(tree.path("kept")).unwrap();
    fs::write(tree.path("kept/f"), "").unwrap();
    symlink(tree.victim(), tree.path("t/out")).unwrap();
    symlink("../../../victim/dir", tree.path("t/a/b/out")).unwrap();
    symlink("/kept", tree.path("t/a/in")).unwrap();
    mkfifo(&tree.path("t/a/fifo"));
    remove(&tree.root, b"t", true).unwrap();
    assert!(!tree.path("t").exists() && tree.path("kept/f").exists());
    tree.canary_is_well();
}

#[test]
fn w11_a_tree_of_depth_5000_is_removed_without_recursion() {
    let tree = tree();
    fs::create_dir(tree.path("deep")).unwrap();
    nest(&tree.path("deep"), 5000);
    let before = fs::read_dir("/proc/self/fd").unwrap().count();
    // A small stack would overflow, were it recursive.
    let removed = std::thread::scope(|scope| {
        let remove = || remove(&tree.root, b"deep", true);
        std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, remove).unwrap().join().unwrap()
    });
    removed.unwrap();
    assert!(!tree.path("deep").exists());
    assert!(fs::read_dir("/proc/self/fd").unwrap().count() < before + 200);
}

#[test]
fn wide_trees_are_removed_in_batches() {
    let tree = tree();
    for index in 0..5000 {
        fs::create_dir_all(tree.path(&format!("wide/{index}/x"))).unwrap();
    }
    remove(&tree.root, b"wide", true).unwrap();
    assert!(!tree.path("wide").exists());
}

#[test]
fn a_deep_tree_is_copied_too() {
    let tree = tree();
    fs::create_dir(tree.path("deep")).unwrap();
    nest(&tree.path("deep"), 700);
    moves::by_copy(&tree, "deep", "copy").unwrap();
    assert!(!tree.path("deep").exists());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut dir = rustix::fs::open(tree.path("copy"), flags, Mode::empty()).unwrap();
    for _ in 0..700 {
        rustix::fs::statat(&dir, "f", AtFlags::empty()).unwrap();
        dir = rustix::fs::openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
    remove(&tree.root, b"copy", true).unwrap();
}
