//! Looking first where renames are to be expected finds the same ones.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::*;
use crate::diff::{LayerName, walk};
use crate::layer::TreeFormat;

/// A directory, a name, and what is in the file.
type Entry = (u8, u8, u8);

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec((0..4u8, 0..5u8, 0..5u8), 0..14)
}

/// Contents of few sizes, and one that is larger than what is read at first.
fn content(which: u8) -> Vec<u8> {
    match which {
        0 => Vec::new(),
        1 => b"one".to_vec(),
        2 => b"two".to_vec(),
        large => {
            let mut bytes = vec![b'x'; 40_000];
            bytes[39_999] = large;
            bytes
        }
    }
}

fn put(layer: &Path, top: &str, entries: &[Entry]) {
    for (dir, name, which) in entries {
        let dir = layer.join(format!("fs/{top}/d{dir}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{name}")), content(*which)).unwrap();
    }
}

/// What became of the files below `old`, which is gone, when these are below `new`.
fn told(old: &[Entry], new: &[Entry], expected: bool) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let scratch = tempfile::tempdir().unwrap();
    let (lower, upper) = (scratch.path().join("lower"), scratch.path().join("upper"));
    for layer in [&lower, &upper] {
        fs::create_dir_all(layer.join("fs")).unwrap();
    }
    put(&lower, "old", old);
    put(&upper, "new", new);
    mknodat(CWD, upper.join("fs/old"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let open = || rustix::fs::open(scratch.path(), OFlags::RDONLY, Mode::empty()).unwrap();
    let dirs: [OwnedFd; 3] = [open(), open(), open()];
    let names = ["upper", "lower"].map(|name| LayerName::Sealed(name.to_owned()));
    let layers = Layers::open(&dirs, &names, TreeFormat::Overlay).unwrap();
    let mut changes = walk::walk(&layers, [vec![1], vec![0, 1]], &[]).unwrap();
    // The walk is done by several threads, in no order.
    changes.sort_unstable_by(|a, b| tree_order(&a.path, &b.path));
    assert!(!find_in(&layers, &mut changes, expected).unwrap());
    changes.sort_unstable_by(|a, b| tree_order(&a.path, &b.path));
    changes.into_iter().map(|change| (change.path, change.old_path)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_expected_is_what_is_found(old in entries(), new in entries()) {
        prop_assert_eq!(told(&old, &new, true), told(&old, &new, false));
    }
}

#[test]
fn files_of_one_size_are_told_apart_by_their_bytes() {
    let old = [(0, 0, 1), (0, 1, 2), (1, 0, 3), (1, 1, 4)];
    // The same names in the same directories, but for two that have changed places.
    let new = [(0, 0, 2), (0, 1, 1), (1, 0, 3), (1, 1, 4)];
    let told = told(&old, &new, true);
    let from = |path: &str| {
        let found = told.iter().find(|(new, _)| new == path.as_bytes()).unwrap();
        found.1.as_ref().map(|old| String::from_utf8(old.clone()).unwrap())
    };
    assert_eq!(from("new/d0/f0").as_deref(), Some("old/d0/f1"));
    assert_eq!(from("new/d0/f1").as_deref(), Some("old/d0/f0"));
    assert_eq!(from("new/d1/f0").as_deref(), Some("old/d1/f0"));
    assert_eq!(from("new/d1").as_deref(), Some("old/d1"));
}
