//! The hostile corpus: every layer is refused or lands inside, and a directory beside it never changes.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use vesselrt_fixtures::hostile::{Expect, Fact, Form, Host, HostileLayer, cases};

use super::listing::{Scratch, is_root, listing, open, skip, xattrs};
use crate::layer::{Dialect, IdPolicy, TreeFormat, UnpackError, UnpackOptions, UnpackReport, unpack};

/// A directory that no layer may touch, as `../victim` and as `/victim`'s namesake.
fn plant_victim(scratch: &Scratch) -> PathBuf {
    let victim = scratch.path("victim");
    fs::create_dir_all(victim.join("sub")).unwrap();
    fs::write(victim.join("x"), "untouched").unwrap();
    fs::write(victim.join("sub/y"), "untouched").unwrap();
    std::os::unix::fs::symlink("x", victim.join("link")).unwrap();
    fs::set_permissions(victim.join("x"), fs::Permissions::from_mode(0o640)).unwrap();
    victim
}

fn names_in(dir: &Path) -> HashSet<OsString> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn chain(error: &UnpackError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn run(case: &HostileLayer, format: TreeFormat, ids: IdPolicy) {
    let scratch = Scratch::new();
    let victim = plant_victim(&scratch);
    let before = listing(&victim);
    let dest = scratch.dir("dest");
    let dialect = if case.form == Form::Layer { Dialect::Oci } else { Dialect::Snapshot };
    let result = unpack(&case.tar[..], dest.as_fd(), &[], &UnpackOptions::new(dialect, format, ids));
    assert_eq!(listing(&victim), before, "{}: something outside was changed", case.name);
    // Where `/proc/self/cwd` leads.
    assert!(!Path::new("f").exists(), "{}: something was put where we are", case.name);
    let names = names_in(&scratch.path(""));
    assert_eq!(names.len(), 2, "{}: something was put beside the destination", case.name);
    judge(case, &result, &scratch.path("dest"), format, ids);
}

fn judge(
    case: &HostileLayer,
    result: &Result<UnpackReport, UnpackError>,
    dest: &Path,
    format: TreeFormat,
    ids: IdPolicy,
) {
    let name = case.name;
    match (&case.expect, result) {
        // Whoever does not take owners from the archive has nothing against them.
        (Expect::Reject(why), result) if why.starts_with("uid ") || why.starts_with("gid ") => {
            assert_eq!(result.is_err(), matches!(ids, IdPolicy::Keep { .. }), "{name}");
        }
        // Nothing is a whiteout in a plain tree.
        (Expect::Reject(_), Ok(_)) if format == TreeFormat::Plain && name.contains("is_deleted") => {}
        (Expect::Reject(why), Err(error)) => {
            assert!(chain(error).contains(why), "{name}: refused for another reason: {}", chain(error));
        }
        (Expect::Reject(_), Ok(_)) => panic!("{name}: accepted"),
        (Expect::Tree(_), Err(error)) => panic!("{name}: {}", chain(error)),
        (Expect::Tree(facts), Ok(_)) => {
            for fact in facts {
                check(name, dest, fact, format);
            }
        }
    }
}

fn check(name: &str, dest: &Path, fact: &Fact, format: TreeFormat) {
    let overlay = format == TreeFormat::Overlay;
    let at = |path: &[u8]| dest.join(std::ffi::OsStr::from_bytes(path));
    let meta = |path: &[u8]| {
        fs::symlink_metadata(at(path)).unwrap_or_else(|error| panic!("{name}: {fact:?}: {error}"))
    };
    let opaque = |path: &[u8]| xattrs(&at(path)).get(&b"user.overlay.opaque"[..]) == Some(&b"y".to_vec());
    let holds = match fact {
        Fact::File(path, content) => long_read(dest, path).as_ref() == Some(content),
        Fact::Dir(path) => meta(path).is_dir(),
        Fact::Link(path, text) => {
            fs::read_link(at(path)).is_ok_and(|link| link.as_os_str().as_bytes() == text.as_slice())
        }
        Fact::Fifo(path) => meta(path).file_type().is_fifo(),
        Fact::Absent(path) => fs::symlink_metadata(at(path)).is_err(),
        Fact::Mode(path, mode) => {
            let found = meta(path).mode() & 0o7777;
            // So that a plain user can look further.
            fs::set_permissions(at(path), fs::Permissions::from_mode(found | 0o700)).unwrap();
            found == *mode
        }
        Fact::Mtime(path, seconds, nanos) => {
            (meta(path).mtime(), meta(path).mtime_nsec()) == (*seconds, i64::from(*nanos))
        }
        Fact::Same(a, b) => meta(a).ino() == meta(b).ino(),
        Fact::Whiteout(path) if overlay => meta(path).file_type().is_char_device() && meta(path).rdev() == 0,
        Fact::Opaque(path) if overlay => meta(path).is_dir() && opaque(path),
        Fact::Clear(path) if overlay => meta(path).is_dir() && !opaque(path),
        Fact::Xattr(path, key, value) if overlay => xattrs(&at(path)).get(key.as_bytes()) == value.as_ref(),
        Fact::Size(path, size) => meta(path).len() == *size,
        Fact::Count(path, _) if !overlay && !at(path).exists() => true,
        Fact::Count(path, count) => fs::read_dir(at(path)).unwrap().count() == *count,
        Fact::Whiteout(_) | Fact::Opaque(_) | Fact::Clear(_) | Fact::Xattr(..) => true,
    };
    assert!(holds, "{name}: not so: {fact:?}");
}

/// Reads a file whose path may be longer than one call takes.
fn long_read(dest: &Path, path: &[u8]) -> Option<Vec<u8>> {
    use rustix::fs::{Mode, OFlags, openat};
    let mut here = open(dest);
    let (parent, name) = crate::layer::path::split(path);
    for part in crate::layer::path::components(parent) {
        here =
            openat(&here, part, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    }
    let file = openat(&here, name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut fs::File::from(file), &mut content).ok()?;
    Some(content)
}

/// Runs every case and names all that fail, not only the first.
fn run_all(format: TreeFormat, ids: IdPolicy) {
    let host = Host::look();
    let failed: Vec<&str> = cases()
        .iter()
        .filter(|case| std::panic::catch_unwind(|| run(case, format, ids)).is_err())
        .map(|case| case.name)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(host.harm().is_empty(), "{:?}", host.harm());
}

#[test]
fn every_case_as_an_overlay_layer() {
    if !is_root() {
        skip("whiteouts need root or a user namespace");
        return;
    }
    run_all(TreeFormat::Overlay, IdPolicy::Keep { count: 65_536 });
}

#[test]
fn every_case_as_a_plain_tree_of_a_plain_user() {
    run_all(TreeFormat::Plain, IdPolicy::Ignore);
}

#[test]
fn the_corpus_is_large_and_names_are_unique() {
    let cases = cases();
    let names: HashSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 150, "{}", cases.len());
}
