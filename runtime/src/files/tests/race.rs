//! w17: a guest that swaps a directory and a symlink out of the tree as fast as it can.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

const ROUNDS: u32 = 20_000;

/// Ends the swapper also when an assertion of the test fails: the scope waits for it.
struct StopOnDrop<'flag>(&'flag AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on `swapped/…` until the other thread has made its rounds, at least 200 times. Returns how often it
/// succeeded and failed.
fn race(tree: &Tree, mut work: impl FnMut() -> Result<(), Fault>) -> (u32, u32) {
    let (one, other) = (tree.path("swapped"), tree.path("link"));
    let (rounds, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let (mut good, mut bad) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stopper = StopOnDrop(&stop);
        while rounds.load(Ordering::Relaxed) < ROUNDS || good + bad < 200 {
            match work() {
                Ok(()) => good += 1,
                Err(fault) => {
                    assert_ne!(fault.kind, FaultKind::Internal, "{fault:?}");
                    bad += 1;
                }
            }
        }
    });
    (good, bad)
}

/// The tree with `swapped`, a directory that looks like the victim, and `link`, which leads to the victim.
fn trap(absolute: bool) -> Tree {
    let tree = tree();
    fs::create_dir_all(tree.path("swapped/dir")).unwrap();
    fs::write(tree.path("swapped/secret"), "inside").unwrap();
    let target = if absolute { tree.victim() } else { PathBuf::from("../victim") };
    symlink(target, tree.path("link")).unwrap();
    tree
}

#[test]
fn w17_open_never_escapes() {
    for absolute in [true, false] {
        let tree = trap(absolute);
        let (mut good, mut bad) = (0, 0);
        // Both must be met, and when is up to the scheduler.
        for _ in 0..50 {
            let met = race(&tree, || tree.read("swapped/secret").map(|text| assert_eq!(text, "inside")));
            (good, bad) = (good + met.0, bad + met.1);
            if good > 0 && bad > 0 {
                break;
            }
        }
        assert!(good > 0 && bad > 0, "{good} {bad}");
        tree.canary_is_well();
    }
}

#[test]
fn w17_write_and_remove_never_escape() {
    for absolute in [true, false] {
        let tree = trap(absolute);
        race(&tree, || tree.write("swapped/secret", "inside"));
        race(&tree, || {
            let written = tree.write("swapped/new", "x");
            written.and(remove(&tree.root, b"swapped/secret", false))
        });
        tree.canary_is_well();
    }
}

#[test]
fn w17_directories_never_escape() {
    for absolute in [true, false] {
        let tree = trap(absolute);
        race(&tree, || {
            let made = make_dir(&tree.root, b"swapped/dir/a/b", 0o755, true);
            made.and(remove(&tree.root, b"swapped/dir", true))
        });
        race(&tree, || rename(&tree.root, b"swapped/secret", b"swapped/x"));
        race(&tree, || rename(&tree.root, b"swapped/x", b"swapped/secret"));
        race(&tree, || read_dir(&tree.root, b"swapped").map(drop));
        tree.canary_is_well();
    }
}

/// The swap happens inside a tree that is being copied or removed.
#[test]
fn w17_trees_under_removal_and_copy_never_escape() {
    let tree = trap(true);
    let (mut number, inner) = (0_u32, ["a/swapped", "a/link"]);
    for _ in 0..20 {
        number += 1;
        let top = format!("top{number}");
        fs::create_dir_all(tree.path(&format!("{top}/a/swapped/dir/deep/er"))).unwrap();
        symlink(tree.victim(), tree.path(&format!("{top}/a/link"))).unwrap();
        let [one, other] = inner.map(|name| tree.path(&format!("{top}/{name}")));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                }
            });
            let _stopper = StopOnDrop(&stop);
            // May fail when the guest is in between; must not leave the tree.
            let copied = format!("copy{number}");
            let _ = moves::by_copy(&tree, &top, &copied);
            let _ = remove(&tree.root, top.as_bytes(), true);
        });
        tree.canary_is_well();
    }
}
