//! Stacks of layers made by hand: what a mounted overlay would show of them is what is compared.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, mknodat, setxattr};
use tempfile::TempDir;

use super::*;

/// Sealed layers by name, each a list of what is in it.
struct Stack(TempDir);

impl Stack {
    fn new(layers: &[(&str, &[&str])]) -> Self {
        let stack = Self(tempfile::tempdir().unwrap());
        for (name, entries) in layers {
            fs::create_dir_all(stack.path(name)).unwrap();
            entries.iter().for_each(|entry| stack.put(name, entry));
        }
        stack
    }

    fn path(&self, layer: &str) -> PathBuf {
        self.0.path().join(layer).join("fs")
    }

    /// `dir/`, `dir/!` (opaque), `file=content`, `link>target`, `-name` (whiteout); what is above is made.
    fn put(&self, layer: &str, entry: &str) {
        let root = self.path(layer);
        if let Some(dir) = entry.strip_suffix("/!") {
            fs::create_dir_all(root.join(dir)).unwrap();
            setxattr(root.join(dir), "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        } else if let Some(dir) = entry.strip_suffix('/') {
            fs::create_dir_all(root.join(dir)).unwrap();
        } else if let Some((path, content)) = entry.split_once('=') {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), content).unwrap();
            let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
            fs::File::options().write(true).open(root.join(path)).unwrap().set_modified(old).unwrap();
        } else if let Some((path, target)) = entry.split_once('>') {
            symlink(target, root.join(path)).unwrap();
        } else if let Some(path) = entry.strip_prefix('-') {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            mknodat(CWD, root.join(path), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        } else {
            panic!("what is {entry}?");
        }
    }

    fn dirs(&self) -> [OwnedFd; 3] {
        let open = || rustix::fs::open(self.0.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        [open(), open(), open()]
    }

    fn request(from: &[&str], to: &[&str]) -> DiffRequest {
        let names = |side: &[&str]| side.iter().map(|name| LayerName::Sealed((*name).to_owned())).collect();
        DiffRequest {
            from: names(from),
            to: names(to),
            format: TreeFormat::Overlay,
            paths: Vec::new(),
            renames: false,
        }
    }

    fn compare(&self, request: &DiffRequest) -> Vec<String> {
        let line = |change: &Change| {
            let letter = &format!("{:?}", change.kind)[..1];
            let path = String::from_utf8_lossy(&change.path);
            match &change.old_path {
                Some(old) => format!("{letter} {} {path}", String::from_utf8_lossy(old)),
                None => format!("{letter} {path}"),
            }
        };
        compare(&self.dirs(), request).unwrap().changes.iter().map(line).collect()
    }

    fn differ(&self, from: &[&str], to: &[&str]) -> Vec<String> {
        self.compare(&Self::request(from, to))
    }
}

#[test]
fn names_of_the_upper_layer_are_looked_up_below() {
    let stack = Stack::new(&[
        ("base", &["d/same=1", "d/other=1", "d/gone=1", "e/f=1", "l>x"]),
        ("top", &["d/same=1", "d/other=2", "-d/gone", "d/new=1", "-nothing", "e/", "l>y"]),
    ]);
    let expected = ["D d/gone", "A d/new", "M d/other", "M l"];
    assert_eq!(stack.differ(&["base"], &["top", "base"]), expected);
    assert_eq!(stack.differ(&["top", "base"], &["base"]), ["A d/gone", "D d/new", "M d/other", "M l"]);
    assert_eq!(stack.differ(&["top", "base"], &["top", "base"]), Vec::<String>::new());
    assert_eq!(stack.differ(&[], &["base"]).len(), 7);
}

#[test]
fn an_opaque_directory_ends_a_side_and_not_the_other() {
    let stack = Stack::new(&[
        ("one", &["d/a=1", "d/sub/deep=1", "x=1"]),
        ("two", &["d/b=1"]),
        ("three", &["d/!", "d/b=2", "d/sub/"]),
        ("four", &["d/c=1", "d/sub/deep=2"]),
    ]);
    let below = ["two", "one"];
    assert_eq!(stack.differ(&below, &["three", "two", "one"]), ["D d/a", "M d/b", "D d/sub/deep"]);
    let all = stack.differ(&below, &["four", "three", "two", "one"]);
    assert_eq!(all, ["D d/a", "M d/b", "A d/c", "M d/sub/deep"]);
    let last = stack.differ(&["three", "two", "one"], &["four", "three", "two", "one"]);
    assert_eq!(last, ["A d/c", "A d/sub/deep"]);
}

#[test]
fn a_whiteout_between_two_layers_hides_only_what_is_below_it() {
    let stack = Stack::new(&[
        ("one", &["d/a=1", "f=1"]),
        ("two", &["-d", "-f"]),
        ("three", &["d/!", "d/b=1", "f=1"]),
    ]);
    assert_eq!(stack.differ(&["one"], &["two", "one"]), ["D d", "D d/a", "D f"]);
    assert_eq!(stack.differ(&["one"], &["three", "two", "one"]), ["D d/a", "A d/b"]);
    assert_eq!(stack.differ(&["two", "one"], &["three", "two", "one"]), ["A d", "A d/b", "A f"]);
}

#[test]
fn files_take_the_places_of_directories() {
    let stack = Stack::new(&[("one", &["d/e/f=1", "f=1"]), ("two", &["d=1", "f/!", "f/g=1"])]);
    assert_eq!(stack.differ(&["one"], &["two", "one"]), ["M d", "D d/e", "D d/e/f", "M f", "A f/g"]);
}

#[test]
fn whiteouts_in_the_form_of_files_count_where_the_directory_says_so() {
    let stack = Stack::new(&[("one", &["d/a=1", "e/a=1"]), ("two", &["d/a=", "e/a="])]);
    for dir in ["d", "e"] {
        let path = stack.path("two").join(dir).join("a");
        setxattr(path, "user.overlay.whiteout", b"", XattrFlags::empty()).unwrap();
    }
    setxattr(stack.path("two").join("d"), "user.overlay.opaque", b"x", XattrFlags::empty()).unwrap();
    assert_eq!(stack.differ(&["one"], &["two", "one"]), ["D d/a", "M e/a"]);
}

#[test]
fn what_fuse_overlayfs_writes_is_understood() {
    let stack = Stack::new(&[
        ("one", &["d/a=1", "d/b=1", "o/a=1", "f=1"]),
        ("two", &["d/.wh.a=", "o/.wh..wh..opq=", "o/b=1", ".wh.f="]),
        ("three", &["d/a=2", "f=1"]),
    ]);
    let opaque = stack.path("two").join("o");
    setxattr(opaque, "user.fuseoverlayfs.opaque", b"y", XattrFlags::empty()).unwrap();
    let differ = |from: &[&str], to: &[&str]| {
        stack.compare(&DiffRequest { format: TreeFormat::FuseOverlay, ..Stack::request(from, to) })
    };
    assert_eq!(differ(&["one"], &["two", "one"]), ["D d/a", "D f", "D o/a", "A o/b"]);
    assert_eq!(differ(&["two", "one"], &["three", "two", "one"]), ["A d/a", "A f"]);
    assert_eq!(differ(&["one"], &["three", "two", "one"]), ["M d/a", "D o/a", "A o/b"]);
    // To the kernel's overlay the same names are ordinary files.
    assert!(stack.differ(&["one"], &["two", "one"]).contains(&"A d/.wh.a".to_owned()));
}

#[test]
fn bookkeeping_of_the_overlay_is_no_difference_and_attributes_of_guests_are() {
    let stack = Stack::new(&[("one", &["a=1", "b=1", "c=1", "d/"]), ("two", &["a=1", "b=1", "c=1", "d/"])]);
    let set = |path: &str, name: &str| {
        setxattr(stack.path("two").join(path), name, b"", XattrFlags::empty()).unwrap();
    };
    set("a", "user.overlay.origin");
    set("b", "user.mine");
    set("c", "user.overlay.overlay.opaque");
    set("d", "user.overlay.impure");
    assert_eq!(stack.differ(&["one"], &["two", "one"]), ["M b", "M c"]);
}

#[test]
fn a_large_directory_is_compared_by_several_threads() {
    let many: Vec<String> = (0..3000).map(|n| format!("d/{n:04}={n}")).collect();
    let some: Vec<String> = (0..3000).step_by(3).map(|n| format!("d/{n:04}=new")).collect();
    let [many, some] = [&many, &some].map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
    let stack = Stack::new(&[("one", &many), ("two", &some)]);
    let expected: Vec<String> = (0..3000).step_by(3).map(|n| format!("M d/{n:04}")).collect();
    assert_eq!(stack.differ(&["one"], &["two", "one"]), expected);
}

#[test]
fn links_and_devices_below_a_layer_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "outside").unwrap();
    let stack = Stack::new(&[("one", &["d/secret=1", "f=1"]), ("two", &[])]);
    let to = outside.path().to_str().unwrap();
    stack.put("two", &format!("d>{to}"));
    stack.put("two", &format!("f>{to}/secret"));
    assert_eq!(stack.differ(&["one"], &["two", "one"]), ["M d", "D d/secret", "M f"]);
    let read = |path: &str| {
        let files = vec![(LayerName::Sealed("two".into()), path.as_bytes().to_vec())];
        read(&stack.dirs(), &ReadRequest { files, limit: 1000 })
    };
    assert_eq!(read("d/secret").unwrap(), [Content::Gone]);
    assert_eq!(read("f").unwrap(), [Content::Bytes(format!("{to}/secret").into_bytes())]);
    assert!(read("../../one/fs/f").is_err());
    // Nor is what is named from outside ever above the layers.
    for name in ["../x", "one/../../x", "/"] {
        let request = Stack::request(&[name], &["one"]);
        assert!(compare(&stack.dirs(), &request).is_err(), "{name}");
    }
}

#[test]
fn large_files_are_told_apart_to_their_last_byte() {
    let text = "x".repeat(300_000);
    let changed = format!("{}y", &text[1..]);
    let stack = Stack::new(&[
        ("one", &[&format!("a={text}"), &format!("b={text}"), &format!("gone={changed}")]),
        ("two", &[&format!("a={text}"), &format!("b={changed}"), "-gone", &format!("new={changed}")]),
    ]);
    let request = DiffRequest { renames: true, ..Stack::request(&["one"], &["two", "one"]) };
    assert_eq!(stack.compare(&request), ["M b", "R gone new"]);
    stack.put("two", &format!("new={}", changed.replace('y', "z")));
    assert_eq!(stack.compare(&request), ["M b", "D gone", "A new"]);
}

#[test]
fn modes_alone_are_a_difference() {
    let stack = Stack::new(&[("one", &["d/", "f=1"]), ("two", &["d/", "f=1"])]);
    let set = |path: &str, mode| {
        let path = stack.path("two").join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set("d", 0o1777);
    set("f", 0o4755);
    set("", 0o711);
    let found = compare(&stack.dirs(), &Stack::request(&["one"], &["two", "one"])).unwrap().changes;
    assert_eq!(found.iter().map(|c| c.path.as_slice()).collect::<Vec<_>>(), [&b""[..], b"d", b"f"]);
    assert!(found.iter().all(|c| c.differences == Differences { mode: true, ..Differences::default() }));
}

#[test]
fn a_layer_that_is_not_there_is_an_error() {
    let stack = Stack::new(&[("one", &[])]);
    let error = compare(&stack.dirs(), &Stack::request(&["one"], &["two"])).unwrap_err();
    assert_eq!(error.to_string(), "failed to open the layer two");
    assert_eq!(error.fault("compare").kind, FaultKind::NotFound);
}

#[test]
fn paths_are_sorted_as_a_tree_is_read() {
    let mut paths = ["a-b", "a/b", "a", "", "a/b/c", "b", "a0"].map(str::as_bytes);
    paths.sort_by(|a, b| layers::tree_order(a, b));
    assert_eq!(
        paths.map(|path| std::str::from_utf8(path).unwrap()),
        ["", "a", "a/b", "a/b/c", "a-b", "a0", "b"]
    );
}
