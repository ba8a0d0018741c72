//! `unpack(pack(tree)) == tree`, for random trees and for overlay uppers.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fsetxattr,
    ftruncate, linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};

use super::listing::{Scratch, is_root, listing, skip};
use crate::layer::{
    Dialect, IdPolicy, PackError, PackOptions, TreeFormat, UnpackOptions, WarningKind, pack, unpack,
};

/// What a random tree is made of.
#[derive(Debug, Clone)]
enum Node {
    File(Vec<u8>),
    /// Offsets and lengths of data in a file that ends a mebibyte later.
    Sparse(Vec<(u32, u16)>),
    Dir(Vec<(Vec<u8>, Meta, Node)>),
    Symlink(Vec<u8>),
    /// Another name of the last file before it.
    Hardlink,
    Fifo,
}

#[derive(Debug, Clone)]
struct Meta {
    mode: u32,
    owner: (u32, u32),
    seconds: i64,
    nanos: u32,
    xattrs: Vec<(String, Vec<u8>)>,
}

fn meta() -> impl Strategy<Value = Meta> {
    let seconds = prop_oneof![Just(0), -2_000_000_000i64..9_000_000_000];
    let nanos = prop_oneof![Just(0u32), 0u32..1_000_000_000];
    let name = prop_oneof![
        Just("user.a".to_owned()),
        Just("user.with=equals%".to_owned()),
        Just("user.overlay.opaque".to_owned()),
    ];
    let xattrs = prop::collection::vec((name, prop::collection::vec(any::<u8>(), 0..50)), 0..2);
    (0u32..0o10000, (0u32..3_000_000, 0u32..3000), seconds, nanos, xattrs)
        .prop_map(|(mode, owner, seconds, nanos, xattrs)| Meta { mode, owner, seconds, nanos, xattrs })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd: Vec<&[u8]> = vec![b".wh.x", b".wh..wh..opq", b"\xff\xfe", b"new\nline", b"-rf", b" ", b"\\"];
    prop_oneof![
        3 => "[a-f]{1,3}".prop_map(String::into_bytes),
        1 => prop::sample::select(odd).prop_map(<[u8]>::to_vec),
        1 => (90usize..=255).prop_map(|len| vec![b'n'; len]),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(Node::File),
        1 => prop::collection::vec((0u32..3_000_000, 1u16..9000), 0..4).prop_map(Node::Sparse),
        2 => prop::collection::vec(1u8..=255, 1..200).prop_map(Node::Symlink),
        2 => Just(Node::Hardlink),
        1 => Just(Node::Fifo),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop::collection::vec((name(), meta(), inner), 0..6).prop_map(Node::Dir)
    })
}

/// Builds a tree; what cannot be (a name twice) is left out.
fn build(dir: &OwnedFd, children: &[(Vec<u8>, Meta, Node)], last: &mut Option<(OwnedFd, Vec<u8>)>) {
    for (name, meta, node) in children {
        let name = name.as_slice();
        match node {
            Node::File(_) | Node::Sparse(_) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let Ok(fd) = openat(dir, name, flags, Mode::RUSR | Mode::WUSR) else { continue };
                fill(&fd, node);
                set_xattrs(&fd, meta);
                *last = Some((dir.try_clone().unwrap(), name.to_vec()));
            }
            Node::Dir(inner) => {
                if mkdirat(dir, name, Mode::RWXU).is_err() {
                    continue;
                }
                let fd = openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
                build(&fd, inner, last);
                set_xattrs(&fd, meta);
            }
            Node::Symlink(target) => {
                if symlinkat(target.as_slice(), dir, name).is_err() {
                    continue;
                }
            }
            Node::Hardlink => {
                if let Some((from, target)) = last {
                    let _ = linkat(&*from, target.as_slice(), dir, name, AtFlags::empty());
                }
                continue;
            }
            Node::Fifo => {
                if mknodat(dir, name, FileType::Fifo, Mode::RUSR, 0).is_err() {
                    continue;
                }
            }
        }
        set_meta(dir, name, meta, !matches!(node, Node::Symlink(_)));
    }
}

fn fill(fd: &OwnedFd, node: &Node) {
    match node {
        Node::File(content) => assert_eq!(rustix::io::write(fd, content).unwrap(), content.len()),
        Node::Sparse(parts) => {
            for (offset, len) in parts {
                let data = vec![b'd'; usize::from(*len)];
                rustix::io::pwrite(fd, &data, u64::from(*offset)).unwrap();
            }
            let end = parts.iter().map(|(offset, _)| *offset).max().unwrap_or(0);
            ftruncate(fd, u64::from(end) + (1 << 20)).unwrap();
        }
        _ => unreachable!("only files are filled"),
    }
}

fn set_xattrs(fd: &OwnedFd, meta: &Meta) {
    for (name, value) in &meta.xattrs {
        fsetxattr(fd, name.as_str(), value, XattrFlags::empty()).unwrap();
    }
}

fn set_meta(dir: &OwnedFd, name: &[u8], meta: &Meta, has_mode: bool) {
    if is_root() {
        let chown = |(uid, gid)| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        };
        // In a user namespace there are only the ids that are mapped.
        chown(meta.owner)
            .or_else(|_| chown((meta.owner.0 % 1000, meta.owner.1 % 1000)))
            .or_else(|_| chown((0, 0)))
            .unwrap();
    }
    if has_mode {
        // A plain user must be able to read what it packs.
        let mode = if is_root() { meta.mode } else { meta.mode & 0o1777 | 0o700 };
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty()).unwrap();
    }
    let time = Timespec { tv_sec: meta.seconds, tv_nsec: meta.nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn ids() -> IdPolicy {
    if is_root() { IdPolicy::Keep { count: u32::MAX } } else { IdPolicy::Ignore }
}

/// Packs, unpacks, packs again: both trees and both archives must be equal.
fn round(scratch: &Scratch, tree: &OwnedFd, dialect: Dialect, format: TreeFormat) -> Vec<u8> {
    let mut first = Vec::new();
    pack(tree.as_fd(), &mut first, &PackOptions::new(dialect, format)).unwrap();
    let copy = scratch.dir("copy");
    let report = unpack(&first[..], copy.as_fd(), &[], &UnpackOptions::new(dialect, format, ids())).unwrap();
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert_eq!(listing(&scratch.path("copy")), listing(&scratch.path("tree")));
    let mut second = Vec::new();
    pack(copy.as_fd(), &mut second, &PackOptions::new(dialect, format)).unwrap();
    assert!(first == second, "the archives differ");
    first
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_survive(children in prop::collection::vec((name(), meta(), node()), 0..12)) {
        let scratch = Scratch::new();
        let tree = scratch.dir("tree");
        build(&tree, &children, &mut None);
        round(&scratch, &tree, Dialect::Plain, TreeFormat::Plain);
    }
}

/// An upper as the kernel leaves it: whiteouts that share an inode, opaque directories, a guest's own attributes.
fn build_upper(scratch: &Scratch) -> OwnedFd {
    let tree = scratch.dir("tree");
    let at = |path: &str| scratch.path("tree").join(path);
    mknodat(&tree, "gone", FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    fs::create_dir(at("d")).unwrap();
    for name in ["also-gone", "d/gone", "z"] {
        linkat(&tree, "gone", &tree, name, AtFlags::empty()).unwrap();
    }
    fs::create_dir(at("opaque")).unwrap();
    fs::write(at("opaque/.wh.x"), "a file").unwrap();
    fs::write(at("opaque/.wh..wh..opq"), "").unwrap();
    set(&at("opaque"), "user.overlay.opaque", b"y");
    set(&at("opaque"), "user.overlay.overlay.opaque", b"the guest's own");
    set(&at("d"), "user.overlay.impure", b"y");
    set(&at("d"), "user.overlay.origin", b"");
    let capability = [&1u32.to_le_bytes()[..3], &[2], &[0u8; 16]].concat();
    set(&at("opaque/.wh.x"), "security.capability", &capability);
    tree
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn an_upper_survives_to_the_byte() {
    if !is_root() {
        skip("whiteouts need root or a user namespace");
        return;
    }
    let scratch = Scratch::new();
    let tree = build_upper(&scratch);
    let options = PackOptions::new(Dialect::Snapshot, TreeFormat::Overlay);
    let mut first = Vec::new();
    pack(tree.as_fd(), &mut first, &options).unwrap();
    let copy = scratch.dir("copy");
    let unpacking = UnpackOptions::new(Dialect::Snapshot, TreeFormat::Overlay, ids());
    unpack(&first[..], copy.as_fd(), &[], &unpacking).unwrap();
    // The overlay's own bookkeeping is the only difference.
    let expected: Vec<String> = listing(&scratch.path("tree"))
        .into_iter()
        .map(|line| {
            if line.starts_with("\"d\"") { line.split(" {").next().unwrap().to_owned() + " {}" } else { line }
        })
        .collect();
    assert_eq!(listing(&scratch.path("copy")), expected);
    let mut second = Vec::new();
    pack(copy.as_fd(), &mut second, &options).unwrap();
    assert!(first == second, "the archives differ");
}

#[test]
fn an_oci_layer_carries_deletions_and_refuses_reserved_names() {
    if !is_root() {
        skip("whiteouts need root or a user namespace");
        return;
    }
    let scratch = Scratch::new();
    let tree = build_upper(&scratch);
    let options = PackOptions::new(Dialect::Oci, TreeFormat::Overlay);
    let result = pack(tree.as_fd(), Vec::new(), &options);
    // All of them are told, so that one attempt is enough to know what to rename.
    let Err(PackError::ReservedNames { paths, more: 0 }) = result else { panic!("{result:?}") };
    assert_eq!(paths, ["opaque/.wh..wh..opq", "opaque/.wh.x"]);
    for name in [".wh.x", ".wh..wh..opq"] {
        fs::remove_file(scratch.path("tree/opaque").join(name)).unwrap();
    }
    let mut layer = Vec::new();
    pack(tree.as_fd(), &mut layer, &options).unwrap();
    let names: Vec<String> = tar::Archive::new(&layer[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    let expected =
        ["./", ".wh.also-gone", "d/", "d/.wh.gone", ".wh.gone", "opaque/", "opaque/.wh..wh..opq", ".wh.z"];
    assert_eq!(names, expected);
    let copy = scratch.dir("copy");
    unpack(&layer[..], copy.as_fd(), &[], &UnpackOptions::new(Dialect::Oci, TreeFormat::Overlay, ids()))
        .unwrap();
    let mut second = Vec::new();
    pack(copy.as_fd(), &mut second, &options).unwrap();
    assert!(layer == second, "the archives differ");
    let plain = pack(tree.as_fd(), Vec::new(), &PackOptions::new(Dialect::Plain, TreeFormat::Overlay));
    assert!(matches!(plain, Err(PackError::Whiteout { .. })), "{plain:?}");
}

#[test]
fn an_upper_of_a_mount_with_other_options_is_refused() {
    for name in ["user.overlay.redirect", "user.overlay.metacopy"] {
        let scratch = Scratch::new();
        let tree = scratch.dir("tree");
        fs::create_dir(scratch.path("tree/d")).unwrap();
        set(&scratch.path("tree/d"), name, b"/etc");
        let result =
            pack(tree.as_fd(), Vec::new(), &PackOptions::new(Dialect::Snapshot, TreeFormat::Overlay));
        assert!(matches!(result, Err(PackError::ForeignOverlay { .. })), "{result:?}");
    }
}

#[test]
fn a_tebibyte_of_hole_packs_in_little() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    let file = fs::File::create(scratch.path("tree/big")).unwrap();
    rustix::io::pwrite(&file, b"data", 1 << 39).unwrap();
    file.set_len(1 << 40).unwrap();
    let tar = round(&scratch, &tree, Dialect::Snapshot, TreeFormat::Overlay);
    assert!(tar.len() < 16 << 10, "{}", tar.len());
}

#[test]
fn sockets_are_skipped_and_reported() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    let _listener = std::os::unix::net::UnixListener::bind(scratch.path("tree/s")).unwrap();
    let mut tar = Vec::new();
    let report = pack(tree.as_fd(), &mut tar, &PackOptions::new(Dialect::Plain, TreeFormat::Plain)).unwrap();
    assert_eq!(report.warnings.count(WarningKind::SocketSkipped), 1);
    assert_eq!(report.entries, 1);
}

#[test]
fn a_chain_of_5000_directories_survives_and_is_removed() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    let mut here = tree.try_clone().unwrap();
    for _ in 0..5000 {
        mkdirat(&here, "d", Mode::RWXU).unwrap();
        here = openat(&here, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    drop(openat(&here, "end", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap());
    drop(here);
    let options = PackOptions::new(Dialect::Snapshot, TreeFormat::Plain);
    let mut tar = Vec::new();
    let packed = pack(tree.as_fd(), &mut tar, &options).unwrap();
    assert_eq!(packed.entries, 5002);
    let copy = scratch.dir("copy");
    unpack(&tar[..], copy.as_fd(), &[], &UnpackOptions::new(Dialect::Snapshot, TreeFormat::Plain, ids()))
        .unwrap();
    let mut again = Vec::new();
    pack(copy.as_fd(), &mut again, &options).unwrap();
    assert!(tar == again, "the archives differ");
    let parent = super::listing::open(&scratch.path(""));
    crate::layer::remove_tree(parent.as_fd(), OsStr::from_bytes(b"copy")).unwrap();
    assert!(!scratch.path("copy").exists());
}
