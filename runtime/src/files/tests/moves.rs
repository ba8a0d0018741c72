//! Renaming, and the copy that stands in for it.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

/// The copying way, which overlayfs makes necessary, on any file system; both names in the root.
pub(super) fn by_copy(tree: &Tree, from: &str, to: &str) -> Result<(), Fault> {
    let dir = tree.root.open(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
    let (old, new) = (CString::new(from).unwrap(), CString::new(to).unwrap());
    let stat = rustix::fs::statat(&dir, &old, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    rename::move_by_copy((dir.as_fd(), &old, &stat), (dir.as_fd(), &new))
        .map_err(|it| it.fault("rename", &[from.as_bytes(), to.as_bytes()]))
}

#[test]
fn w13_rename_as_the_kernel_does() {
    let tree = tree();
    fs::create_dir_all(tree.path("dir/sub")).unwrap();
    fs::create_dir_all(tree.path("full/x")).unwrap();
    fs::create_dir(tree.path("empty")).unwrap();
    fs::write(tree.path("file"), "1").unwrap();
    fs::write(tree.path("other"), "2").unwrap();
    fails(rename(&tree.root, b"dir", b"full"), FaultKind::InvalidArgument);
    fails(rename(&tree.root, b"dir", b"file"), FaultKind::InvalidArgument);
    fails(rename(&tree.root, b"file", b"empty"), FaultKind::InvalidArgument);
    fails(rename(&tree.root, b"dir", b"dir/sub/x"), FaultKind::InvalidArgument);
    fails(rename(&tree.root, b"file", b"./dir/../file"), FaultKind::InvalidArgument);
    fails(rename(&tree.root, b"gone", b"x"), FaultKind::NotFound);
    fails(rename(&tree.root, b"file", b"gone/x"), FaultKind::NotFound);
    rename(&tree.root, b"dir", b"empty").unwrap();
    rename(&tree.root, b"file", b"other").unwrap();
    assert!(tree.path("empty/sub").is_dir() && !tree.path("dir").exists());
    assert_eq!(tree.read("other").unwrap(), "1");
    let fault = fails(rename(&tree.root, b"gone", b"x\ny"), FaultKind::NotFound);
    assert_eq!(fault.message, "failed to rename \"gone\" to \"x\\ny\": no such file or directory");
}

#[test]
fn w13_rename_does_not_follow_the_last_symlink() {
    let tree = tree();
    symlink(tree.victim().join("secret"), tree.path("link")).unwrap();
    symlink(tree.victim(), tree.path("target")).unwrap();
    rename(&tree.root, b"link", b"target").unwrap();
    assert_eq!(fs::read_link(tree.path("target")).unwrap(), tree.victim().join("secret"));
    tree.canary_is_well();
}

#[test]
fn a_copied_tree_is_the_same_tree() {
    let tree = tree();
    fs::create_dir_all(tree.path("t/a/b")).unwrap();
    fs::write(tree.path("t/f"), "text").unwrap();
    fs::hard_link(tree.path("t/f"), tree.path("t/a/b/second")).unwrap();
    symlink(tree.victim().join("secret"), tree.path("t/a/link")).unwrap();
    mkfifo(&tree.path("t/a/fifo"));
    let sparse = fs::File::create(tree.path("t/sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 1 << 29).unwrap();
    fs::set_permissions(tree.path("t/f"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(tree.path("t/a"), fs::Permissions::from_mode(0o1753)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    for path in ["t/f", "t/sparse", "t/a/b", "t/a", "t"] {
        fs::File::open(tree.path(path)).unwrap().set_modified(time).unwrap();
    }
    let names = ["", "f", "sparse", "a", "a/b", "a/b/second", "a/link", "a/fifo"];
    let facts = |top: &str| {
        names.map(|name| {
            let stat = fs::symlink_metadata(tree.path(&format!("{top}/{name}"))).unwrap();
            let time = (stat.mtime(), stat.mtime_nsec());
            (stat.mode(), stat.uid(), stat.gid(), stat.nlink(), stat.is_file().then_some(stat.size()), time)
        })
    };
    let before = facts("t");
    by_copy(&tree, "t", "moved").unwrap();
    assert!(!tree.path("t").exists());
    assert_eq!(facts("moved"), before);
    assert_eq!(tree.read("moved/a/b/second").unwrap(), "text");
    assert!(fs::metadata(tree.path("moved/sparse")).unwrap().blocks() < 1000, "holes stay holes");
    assert_eq!(fs::read_link(tree.path("moved/a/link")).unwrap(), tree.victim().join("secret"));
    tree.is_clean("/");
    tree.canary_is_well();
}

#[test]
fn extended_attributes_are_copied_and_kept_on_write() {
    let tree = tree();
    fs::create_dir(tree.path("t")).unwrap();
    fs::write(tree.path("t/f"), "x").unwrap();
    for path in ["t", "t/f"] {
        let file = fs::File::open(tree.path(path)).unwrap();
        let set = rustix::fs::fsetxattr(&file, "user.note", path.as_bytes(), rustix::fs::XattrFlags::empty());
        set.expect("the temporary directory takes user attributes");
    }
    tree.write("t/f", "new").unwrap();
    by_copy(&tree, "t", "u").unwrap();
    for (path, value) in [("u", "t"), ("u/f", "t/f")] {
        let mut buffer = [0; 16];
        let length = rustix::fs::getxattr(tree.path(path), "user.note", &mut buffer[..]).unwrap();
        assert_eq!(&buffer[..length], value.as_bytes());
    }
}

#[test]
fn the_copying_way_refuses_what_rename_refuses() {
    let tree = tree();
    fs::create_dir_all(tree.path("t/x")).unwrap();
    fs::create_dir_all(tree.path("full/x")).unwrap();
    fs::create_dir(tree.path("empty")).unwrap();
    fs::write(tree.path("file"), "").unwrap();
    fails(by_copy(&tree, "t", "full"), FaultKind::InvalidArgument);
    fails(by_copy(&tree, "t", "file"), FaultKind::InvalidArgument);
    fails(by_copy(&tree, "file", "empty"), FaultKind::InvalidArgument);
    assert!(tree.path("t/x").is_dir() && tree.path("file").is_file());
    by_copy(&tree, "t", "empty").unwrap();
    by_copy(&tree, "file", "moved").unwrap();
    assert!(tree.path("empty/x").is_dir() && tree.path("moved").is_file());
    tree.is_clean("/");
}
