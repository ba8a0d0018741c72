//! What a layer takes from the layers below, and `extract` into a tree that is in use.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use vesselrt_fixtures::archive::{Archive, Item};

use super::listing::{Scratch, is_root, listing, skip, xattrs};
use crate::layer::{
    Dialect, IdPolicy, Limits, TreeFormat, UnpackError, UnpackOptions, UnpackReport, WarningKind, extract,
    unpack,
};

/// As an overlay layer above `lowers`; `None` where whiteouts cannot be made.
fn above(
    scratch: &Scratch,
    lowers: &[&OwnedFd],
    items: &[Item],
) -> Option<Result<UnpackReport, UnpackError>> {
    if !is_root() {
        skip("whiteouts need root or a user namespace");
        return None;
    }
    let dest = scratch.dir("dest");
    let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(|fd| fd.as_fd()).collect();
    let options = UnpackOptions::new(Dialect::Oci, TreeFormat::Overlay, IdPolicy::Keep { count: 65_536 });
    Some(unpack(&Archive::new().all(items).finish()[..], dest.as_fd(), &lowers, &options))
}

#[test]
fn a_directory_without_an_entry_is_as_it_is_below() {
    let scratch = Scratch::new();
    let lower = scratch.dir("lower");
    let below = scratch.path("lower/home/me");
    fs::create_dir_all(&below).unwrap();
    fs::set_permissions(&below, fs::Permissions::from_mode(0o2750)).unwrap();
    rustix::fs::lsetxattr(&below, "user.kept", b"k", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(&below, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    fs::File::open(&below).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let Some(result) = above(&scratch, &[&lower], &[Item::file("home/me/f", "f")]) else { return };
    result.unwrap();
    let made = scratch.path("dest/home/me");
    let meta = fs::metadata(&made).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o2750, 0));
    // Its own attribute comes along, the mark that hides lower layers does not.
    assert_eq!(xattrs(&made).into_keys().collect::<Vec<_>>(), [b"user.kept".to_vec()]);
}

#[test]
fn a_symlink_below_leads_the_way() {
    let scratch = Scratch::new();
    let lower = scratch.dir("lower");
    fs::create_dir_all(scratch.path("lower/var")).unwrap();
    fs::create_dir(scratch.path("lower/run")).unwrap();
    symlink("../../../run", scratch.path("lower/var/run")).unwrap();
    let items = [
        Item::file("var/run/pid", "1"),
        Item::file("var/run/d/pid", "1"),
        Item::dir("var/run"),
        Item::file("var/run/own", "2"),
        Item::file("var/run/d/own", "2"),
    ];
    let Some(result) = above(&scratch, &[&lower], &items) else { return };
    result.unwrap();
    assert_eq!(fs::read_to_string(scratch.path("dest/run/pid")).unwrap(), "1");
    // After the layer has made the name a directory of its own, that is where files go.
    assert_eq!(fs::read_to_string(scratch.path("dest/var/run/own")).unwrap(), "2");
    assert_eq!(fs::read_to_string(scratch.path("dest/var/run/d/own")).unwrap(), "2");
    assert!(!scratch.path("dest/run/own").exists() && !scratch.path("dest/run/d/own").exists());
}

#[test]
fn case_25_a_hardlink_to_a_lower_file_copies_it_up() {
    let scratch = Scratch::new();
    let lower = scratch.dir("lower");
    fs::create_dir(scratch.path("lower/bin")).unwrap();
    fs::write(scratch.path("lower/bin/tool"), "tool").unwrap();
    fs::set_permissions(scratch.path("lower/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    let items = [Item::hardlink("bin/other", "bin/tool"), Item::hardlink("third", "bin/tool")];
    let Some(result) = above(&scratch, &[&lower], &items) else { return };
    assert_eq!(result.unwrap().bytes, 4);
    let tool = fs::metadata(scratch.path("dest/bin/tool")).unwrap();
    assert_eq!((tool.nlink(), tool.mode() & 0o7777), (3, 0o4755));
    assert_eq!(fs::read_to_string(scratch.path("dest/third")).unwrap(), "tool");
}

#[test]
fn a_hardlink_does_not_see_through_deletions() {
    for deletion in
        [Item::file(".wh.bin", ""), Item::file("bin/.wh.tool", ""), Item::file("bin/.wh..wh..opq", "")]
    {
        let scratch = Scratch::new();
        let lower = scratch.dir("lower");
        fs::create_dir(scratch.path("lower/bin")).unwrap();
        fs::write(scratch.path("lower/bin/tool"), "tool").unwrap();
        let Some(result) = above(&scratch, &[&lower], &[deletion, Item::hardlink("h", "bin/tool")]) else {
            return;
        };
        assert!(matches!(result, Err(UnpackError::LinkMissing { .. })), "{result:?}");
    }
}

#[test]
fn a_whiteout_with_nothing_below_is_not_made() {
    let scratch = Scratch::new();
    let lower = scratch.dir("lower");
    fs::write(scratch.path("lower/there"), "").unwrap();
    let items = [Item::file(".wh.there", ""), Item::file("no/such/.wh.path", "")];
    let Some(result) = above(&scratch, &[&lower], &items) else { return };
    result.unwrap();
    assert!(fs::symlink_metadata(scratch.path("dest/there")).is_ok());
    assert!(!scratch.path("dest/no").exists());
}

#[test]
fn an_opaque_root_hides_every_lower_name() {
    let scratch = Scratch::new();
    let lower = scratch.dir("lower");
    fs::create_dir_all(scratch.path("lower/etc/deep")).unwrap();
    fs::write(scratch.path("lower/file"), "").unwrap();
    let items = [Item::file("etc/new", "n"), Item::file(".wh..wh..opq", "")];
    let Some(result) = above(&scratch, &[&lower], &items) else { return };
    result.unwrap();
    assert_eq!(fs::symlink_metadata(scratch.path("dest/file")).unwrap().rdev(), 0);
    assert!(xattrs(&scratch.path("dest/etc")).contains_key(&b"user.overlay.opaque"[..]));
}

fn plain() -> UnpackOptions {
    UnpackOptions::new(Dialect::Plain, TreeFormat::Plain, IdPolicy::Ignore)
}

fn put(scratch: &Scratch, at: &str, items: &[Item]) -> Result<UnpackReport, UnpackError> {
    let root = super::listing::open(&scratch.path("root"));
    extract(&Archive::new().all(items).finish()[..], root.as_fd(), Path::new(at), &plain())
}

#[test]
fn extract_merges_directories_and_replaces_files() {
    let scratch = Scratch::new();
    drop(scratch.dir("root"));
    let at = |path: &str| scratch.path("root").join(path);
    fs::create_dir_all(at("work/d")).unwrap();
    fs::set_permissions(at("work"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(at("work/d/old"), "old").unwrap();
    fs::write(at("work/d/both"), "old").unwrap();
    fs::hard_link(at("work/d/both"), at("work/elsewhere")).unwrap();
    symlink("/work/d/old", at("work/d/link")).unwrap();
    let items = [
        Item::dir("./").mode(0o700),
        Item::dir("d").mode(0o711),
        Item::file("d/both", "new").mode(0o4750),
        Item::file("d/link", "no link now"),
        Item::file("new/deep", "deep"),
    ];
    put(&scratch, "work", &items).unwrap();
    assert_eq!(fs::read_to_string(at("work/d/old")).unwrap(), "old");
    assert_eq!(fs::read_to_string(at("work/d/both")).unwrap(), "new");
    // Replaced, not written through: the other name keeps the old content.
    assert_eq!(fs::read_to_string(at("work/elsewhere")).unwrap(), "old");
    assert_eq!(fs::read_to_string(at("work/d/link")).unwrap(), "no link now");
    assert_eq!(fs::read_to_string(at("work/new/deep")).unwrap(), "deep");
    let mode = |path: &str| fs::symlink_metadata(at(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("work"), mode("work/d"), mode("work/d/both")), (0o1777, 0o711, 0o4750));
    assert_eq!(fs::metadata(at("work/d")).unwrap().mtime(), 1_600_000_000);
}

#[test]
fn extract_never_leaves_the_root_nor_replaces_a_directory() {
    let scratch = Scratch::new();
    drop(scratch.dir("root"));
    drop(scratch.dir("victim"));
    fs::write(scratch.path("victim/x"), "untouched").unwrap();
    let before = listing(&scratch.path("victim"));
    let at = |path: &str| scratch.path("root").join(path);
    symlink("../victim", at("up")).unwrap();
    symlink(scratch.path("victim"), at("absolute")).unwrap();
    fs::create_dir(at("d")).unwrap();
    put(&scratch, "", &[Item::file("up/x", "evil")]).unwrap();
    put(&scratch, "up", &[Item::file("y", "evil")]).unwrap();
    put(&scratch, "", &[Item::file("absolute/x", "evil")]).unwrap();
    assert_eq!(listing(&scratch.path("victim")), before);
    assert_eq!(fs::read_to_string(at("victim/x")).unwrap(), "evil");
    assert_eq!(fs::read_to_string(at("victim/y")).unwrap(), "evil");
    let over = put(&scratch, "", &[Item::file("d", "file")]);
    assert!(matches!(over, Err(UnpackError::InTheWay { .. })), "{over:?}");
    let through = put(&scratch, "", &[Item::file("victim/x/y", "through a file")]);
    assert!(matches!(through, Err(UnpackError::Io { .. })), "{through:?}");
    let outside = put(&scratch, "../victim", &[Item::file("z", "evil")]);
    assert!(matches!(outside, Err(UnpackError::Place(_))), "{outside:?}");
}

#[test]
fn limits_are_kept() {
    let flood = Archive::new().raw(Item::file("f", "").bytes().repeat(100)).finish();
    let fat = Archive::new().with(&Item::file("f", vec![b'f'; 5000])).finish();
    let wide: Vec<Item> = (0..200).map(|at| Item::dir(format!("directory-{at}"))).collect();
    let wide = Archive::new().all(&wide).finish();
    let junk = [Archive::new().finish(), vec![0; 5000]].concat();
    let default = Limits::default();
    for (tar, limits, word) in [
        (&flood, Limits { entries: 99, ..default }, "entries"),
        (&fat, Limits { bytes: 4999, ..default }, "bytes of content"),
        (&wide, Limits { deferred: 10_000, ..default }, "deferred"),
        (&junk, Limits { trailing: 4999, ..default }, "trailing"),
    ] {
        let scratch = Scratch::new();
        let dest = scratch.dir("dest");
        let options = UnpackOptions { limits, ..plain() };
        let error = unpack(&tar[..], dest.as_fd(), &[], &options).unwrap_err();
        assert!(error.is_bad_archive(), "{error:?}");
        assert!(format!("{error:?}").to_lowercase().contains(word), "{error:?}");
        let loose = UnpackOptions { limits: default, ..plain() };
        unpack(&tar[..], scratch.dir("again").as_fd(), &[], &loose).unwrap();
    }
}

#[test]
fn owners_are_kept_squashed_or_ignored() {
    if !is_root() {
        skip("owners need root or a user namespace");
        return;
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    if map.split_whitespace().nth(2) == Some("1") && map.lines().count() == 1 {
        skip("only one id is mapped");
        return;
    }
    let item = Item { uid: b"0001750\0".to_vec(), ..Item::file("f", "f").mode(0o4755) };
    let tar = Archive::new().with(&item).finish();
    for (ids, uid, squashed) in
        [(IdPolicy::Keep { count: 1001 }, 1000, 0), (IdPolicy::Squash, 0, 1), (IdPolicy::Ignore, 0, 0)]
    {
        let scratch = Scratch::new();
        let dest = scratch.dir("dest");
        let report = unpack(&tar[..], dest.as_fd(), &[], &UnpackOptions { ids, ..plain() }).unwrap();
        let meta = fs::metadata(scratch.path("dest/f")).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (uid, 0o4755), "{ids:?}");
        assert_eq!(report.warnings.count(WarningKind::OwnerSquashed), squashed);
    }
    let scratch = Scratch::new();
    let strict = UnpackOptions { ids: IdPolicy::Keep { count: 1000 }, ..plain() };
    let error = unpack(&tar[..], scratch.dir("dest").as_fd(), &[], &strict).unwrap_err();
    assert!(matches!(error, UnpackError::Rejected { entry: 1, .. }), "{error:?}");
}

#[test]
fn lists_and_default_lists_survive() {
    let scratch = Scratch::new();
    drop(scratch.dir("tree"));
    fs::create_dir(scratch.path("tree/d")).unwrap();
    let set = |arguments: &[&str]| {
        std::process::Command::new("setfacl").args(arguments).arg(scratch.path("tree/d")).status()
    };
    if !set(&["-m", "u:7:rx,m::rx"]).is_ok_and(|status| status.success()) {
        skip("no setfacl");
        return;
    }
    fs::write(scratch.path("tree/d/before"), "b").unwrap();
    assert!(set(&["-d", "-m", "u:9:rwx"]).unwrap().success());
    let mut tar = Vec::new();
    let tree = super::listing::open(&scratch.path("tree"));
    let packing = crate::layer::PackOptions::new(Dialect::Plain, TreeFormat::Plain);
    crate::layer::pack(tree.as_fd(), &mut tar, &packing).unwrap();
    let copy = scratch.dir("copy");
    unpack(&tar[..], copy.as_fd(), &[], &plain()).unwrap();
    // `before` must not have inherited the default list that came with its directory.
    assert_eq!(listing(&scratch.path("copy")), listing(&scratch.path("tree")));
}

#[test]
fn one_entry_is_packed_under_another_name() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    fs::create_dir_all(scratch.path("tree/d/e")).unwrap();
    fs::write(scratch.path("tree/d/e/f"), "f").unwrap();
    fs::write(scratch.path("tree/file"), "file").unwrap();
    symlink("d", scratch.path("tree/link")).unwrap();
    let packing = crate::layer::PackOptions::new(Dialect::Plain, TreeFormat::Plain);
    for (name, entries, path) in [("d", 3, "new/e/f"), ("file", 1, "new"), ("link", 1, "new")] {
        let mut tar = Vec::new();
        let (from, to) = (std::ffi::OsStr::new(name), std::ffi::OsStr::new("new"));
        let report = crate::layer::pack_entry(tree.as_fd(), from, to, &mut tar, &packing).unwrap();
        assert_eq!(report.entries, entries, "{name}");
        let inner = Scratch::new();
        unpack(&tar[..], inner.dir("dest").as_fd(), &[], &plain()).unwrap();
        assert!(fs::symlink_metadata(inner.path("dest").join(path)).is_ok(), "{name}");
    }
}

#[test]
fn a_swapper_never_leads_extract_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let scratch = Scratch::new();
    let root = scratch.dir("root");
    drop(scratch.dir("victim"));
    fs::write(scratch.path("victim/x"), "untouched").unwrap();
    let before = listing(&scratch.path("victim"));
    fs::create_dir(scratch.path("root/d")).unwrap();
    symlink("../victim", scratch.path("root/swap")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(Ordering::Relaxed) {
                // Fails while the other side has one of them away.
                let _ = rustix::fs::renameat_with(&root, "d", &root, "swap", exchange);
            }
        });
        for _ in 0..3000 {
            // Either result will do, if it is inside.
            let _ = put(
                &scratch,
                "",
                &[Item::file("d/x", "evil"), Item::dir("d/e"), Item::file("d/e/f", "evil")],
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(listing(&scratch.path("victim")), before);
    assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), 2);
}
