//! Operations that stay in a directory.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// Who runs the tests: nobody may become anybody else.
fn bounds(base: &[u8]) -> Bounds<'_> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Bounds { uid, gid, base }
}

fn place(tree: &Tree, path: &str, follow: bool) -> Result<String, FaultKind> {
    let found = bounds(b"/base").work(&tree.root, path.as_bytes(), follow, |root, inside| {
        assert!(stat(root, inside, follow).is_ok() || path.contains("new"), "{path}");
        Ok(String::from_utf8(inside.to_vec()).unwrap())
    });
    found.map_err(|fault| fault.kind)
}

#[test]
fn a_path_is_what_it_leads_to_and_must_be_in_the_directory() {
    let tree = tree();
    fs::create_dir_all(tree.path("base/d")).unwrap();
    fs::create_dir_all(tree.path("base2")).unwrap();
    fs::write(tree.path("base/d/f"), "").unwrap();
    fs::write(tree.path("base2/f"), "").unwrap();
    for (target, link) in [
        ("/base/d", "base/absolute"),
        ("../base/d/f", "base/round"),
        ("/base2", "base/out"),
        ("/base2/f", "base/out-file"),
        ("nothing", "base/new-dangling"),
        ("base", "to-base"),
    ] {
        symlink(target, tree.path(link)).unwrap();
    }
    for (path, follow, inside) in [
        ("/base", true, "."),
        ("/base/", true, "."),
        ("/base/d/f", true, "d/f"),
        ("/base/absolute/f", true, "d/f"),
        ("/base/round", true, "d/f"),
        ("/base/round", false, "round"),
        ("/base/out", false, "out"),
        ("/to-base/d", true, "d"),
        ("/base/absolute/new/er", false, "d/new/er"),
        ("/base/new-dangling", true, "new-dangling"),
    ] {
        assert_eq!(place(&tree, path, follow).as_deref(), Ok(inside), "{path} {follow}");
    }
    for (path, follow) in [
        ("/", true),
        ("/base2", true),
        ("/base2/new", false),
        ("/base/out", true),
        ("/base/out/f", true),
        ("/base/out/f", false),
        ("/base/out/new", false),
        ("/base/out-file", true),
        ("/base/../base2/f", true),
        ("/to-base", false),
    ] {
        assert_eq!(place(&tree, path, follow), Err(FaultKind::Outside), "{path} {follow}");
    }
    assert_eq!(place(&tree, "/base/d/f/new", false), Err(FaultKind::InvalidArgument));
}

#[test]
fn no_symlink_may_lead_to_the_directory() {
    let tree = tree();
    fs::create_dir(tree.path("real")).unwrap();
    symlink("real", tree.path("link")).unwrap();
    for base in [&b"/link"[..], b"/link/"] {
        let fault = bounds(base).work(&tree.root, b"/real", true, |_, _| Ok(())).unwrap_err();
        assert_eq!(fault.kind, FaultKind::InvalidArgument, "{fault}");
    }
    let fault = bounds(b"/none").work(&tree.root, b"/real", true, |_, _| Ok(())).unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotFound);
}

#[test]
fn what_happens_after_the_path_was_judged_stays_under_the_directory() {
    let tree = tree();
    fs::create_dir_all(tree.path("base/d")).unwrap();
    fs::create_dir(tree.path("other")).unwrap();
    fs::write(tree.path("other/f"), "other's").unwrap();
    let work = |root: &Root, inside: &[u8]| {
        // The guest was faster.
        fs::remove_dir(tree.path("base/d")).unwrap();
        symlink("/other", tree.path("base/d")).unwrap();
        let _ = write_file(root, inside, 0o644, b"changed".as_slice());
        open(root, inside, RDONLY, 0).map(drop)
    };
    let fault = bounds(b"/base").work(&tree.root, b"/base/d/f", false, work).unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotFound);
    assert_eq!(fs::read_to_string(tree.path("other/f")).unwrap(), "other's");
}

#[test]
fn ids_that_cannot_be_had_are_refused_and_the_thread_stays_what_it_is() {
    let tree = tree();
    fs::create_dir(tree.path("base")).unwrap();
    let before = fs::read_to_string("/proc/thread-self/status").unwrap();
    let ids = |status: &str| {
        let own = status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"));
        own.map(str::to_owned).collect::<Vec<_>>()
    };
    let nobody = Bounds { uid: u32::MAX, gid: u32::MAX, base: b"/base" };
    assert!(nobody.work(&tree.root, b"/base", true, |_, _| Ok(())).is_err());
    assert_eq!(ids(&fs::read_to_string("/proc/thread-self/status").unwrap()), ids(&before));
}
