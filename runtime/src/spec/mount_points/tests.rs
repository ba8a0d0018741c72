//! Tests of [`super`]: images with hostile and merely odd mount destinations.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;

struct Tree {
    dir: tempfile::TempDir,
    root: Root,
}

/// A tree `fs` next to a directory `victim`, which nothing may touch.
fn tree() -> Tree {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("fs/etc")).unwrap();
    fs::create_dir(dir.path().join("victim")).unwrap();
    let root = Root::open_path(&dir.path().join("fs")).unwrap();
    Tree { dir, root }
}

impl Tree {
    fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join("fs").join(inside.trim_start_matches('/'))
    }

    fn victim_is_untouched(&self) {
        assert_eq!(fs::read_dir(self.dir.path().join("victim")).unwrap().count(), 0);
    }

    fn bound(&self) -> Vec<PathBuf> {
        let points = prepare_mount_points(&self.root).unwrap();
        points.etc_files.into_iter().map(|file| file.destination).collect()
    }
}

#[test]
fn missing_destinations_are_created_and_removed_again() {
    let tree = tree();
    let points = prepare_mount_points(&tree.root).unwrap();
    let created: Vec<_> = points.created.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(created, ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/proc", "/dev", "/sys"]);
    for (path, mode) in [("/etc/hosts", 0o644), ("/proc", 0o755)] {
        assert_eq!(fs::metadata(tree.path(path)).unwrap().permissions().mode() & 0o7777, mode, "{path}");
    }
    assert!(
        prepare_mount_points(&tree.root).unwrap().created.is_empty(),
        "the second time everything is there"
    );
    remove_placeholders(&tree.root, &points.created).unwrap();
    assert_eq!(fs::read_dir(tree.path("/")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(tree.path("/etc")).unwrap().count(), 0);
    remove_placeholders(&tree.root, &points.created).unwrap();
}

#[test]
fn placeholders_that_were_filled_or_replaced_stay() {
    let tree = tree();
    let points = prepare_mount_points(&tree.root).unwrap();
    fs::write(tree.path("/etc/hosts"), "127.0.0.1 me").unwrap();
    fs::create_dir(tree.path("/sys/x")).unwrap();
    fs::remove_file(tree.path("/etc/hostname")).unwrap();
    symlink("x", tree.path("/etc/hostname")).unwrap();
    remove_placeholders(&tree.root, &points.created).unwrap();
    assert!(tree.path("/etc/hosts").exists() && tree.path("/sys/x").exists());
    assert!(tree.path("/etc/hostname").is_symlink());
}

#[test]
fn symlinks_as_destinations_are_refused() {
    for path in ["/proc", "/dev", "/sys", "/dev/pts", "/dev/shm", "/dev/mqueue", "/etc"] {
        for target in ["../victim", "/inside", "/nowhere", "/../../../victim"] {
            let tree = tree();
            fs::create_dir_all(tree.path("inside")).unwrap();
            fs::remove_dir(tree.path("etc")).unwrap();
            fs::create_dir_all(tree.path(path).parent().unwrap()).unwrap();
            symlink(target, tree.path(path)).unwrap();
            let error = prepare_mount_points(&tree.root).unwrap_err();
            assert!(
                matches!(&error, MountPointError::Symlink { path: found } if found == Path::new(path)),
                "{error:?}"
            );
            assert!(error.remedy().unwrap().contains(path));
            assert_eq!(fs::read_dir(tree.path("inside")).unwrap().count(), 0);
            tree.victim_is_untouched();
        }
    }
}

#[test]
fn a_parent_that_is_a_symlink_is_refused() {
    let tree = tree();
    fs::create_dir_all(tree.path("other/pts")).unwrap();
    symlink("other", tree.path("dev")).unwrap();
    assert!(matches!(prepare_mount_points(&tree.root), Err(MountPointError::Symlink { .. })));
}

#[test]
fn other_types_as_destinations_are_refused() {
    for path in ["/proc", "/dev", "/sys", "/dev/pts", "/dev/shm"] {
        let tree = tree();
        fs::create_dir_all(tree.path(path).parent().unwrap()).unwrap();
        fs::write(tree.path(path), "").unwrap();
        assert!(
            matches!(prepare_mount_points(&tree.root), Err(MountPointError::NotDirectory { .. })),
            "{path}"
        );
    }
}

#[test]
fn symlinked_etc_files_are_bound_over_their_target_inside() {
    let tree = tree();
    fs::create_dir_all(tree.path("run/systemd/resolve")).unwrap();
    fs::write(tree.path("run/systemd/resolve/stub.conf"), "").unwrap();
    symlink("../run/systemd/resolve/stub.conf", tree.path("etc/resolv.conf")).unwrap();
    // Absolute, by way of another symlink and out of the top: still inside.
    symlink("/run/../../../r/systemd/./resolve/stub.conf", tree.path("etc/hosts")).unwrap();
    symlink("run", tree.path("r")).unwrap();
    let target = PathBuf::from("/run/systemd/resolve/stub.conf");
    assert_eq!(tree.bound(), [target.clone(), target, PathBuf::from("/etc/hostname")]);
}

#[test]
fn etc_files_that_lead_nowhere_are_skipped() {
    let targets = ["../../victim/x", "/gone", "hosts", "/dev/x", "/etc", "a/b"];
    for target in targets {
        let tree = tree();
        fs::create_dir(tree.path("dev")).unwrap();
        fs::write(tree.path("dev/x"), "").unwrap();
        symlink(target, tree.path("etc/hosts")).unwrap();
        let points = prepare_mount_points(&tree.root).unwrap();
        assert_eq!(points.skipped.len(), 1, "{target}: {points:?}");
        assert_eq!(points.skipped[0].path, Path::new("/etc/hosts"));
        assert!(!points.etc_files.iter().any(|file| file.name == "hosts"));
        tree.victim_is_untouched();
    }
}

#[test]
fn etc_files_of_another_type_are_skipped_without_blocking() {
    let tree = tree();
    fs::create_dir(tree.path("etc/hosts")).unwrap();
    let mode = Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, tree.path("etc/hostname"), FileType::Fifo, mode, 0).unwrap();
    assert_eq!(tree.bound(), [Path::new("/etc/resolv.conf")]);
}

#[test]
fn without_etc_nothing_is_bound_or_created_there() {
    let tree = tree();
    fs::remove_dir(tree.path("etc")).unwrap();
    assert!(tree.bound().is_empty());
    assert!(!tree.path("etc").exists());
}

#[test]
fn long_chains_of_symlinks_end() {
    let tree = tree();
    for index in 0..60 {
        symlink(format!("l{}", index + 1), tree.path(&format!("etc/l{index}"))).unwrap();
    }
    fs::write(tree.path("etc/l60"), "").unwrap();
    symlink("l0", tree.path("etc/hosts")).unwrap();
    symlink("l50", tree.path("etc/hostname")).unwrap();
    assert_eq!(tree.bound(), [Path::new("/etc/resolv.conf"), Path::new("/etc/l60")]);
}
