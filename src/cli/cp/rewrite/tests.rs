use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use vesselrt_runtime::layer::{Dialect, PackOptions, TreeFormat, pack};

use super::*;

fn rewrite(archive: &[u8], direction: Direction) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Rewritten::new(archive, direction).read_to_end(&mut out)?;
    Ok(out)
}

/// A tree with all that may be in one, as the runtime packs it.
fn packed() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("plain"), "content").unwrap();
    fs::write(at("tool"), vec![7; 3000]).unwrap();
    fs::set_permissions(at("tool"), PermissionsExt::from_mode(0o6755)).unwrap();
    fs::hard_link(at("plain"), at("second name")).unwrap();
    fs::create_dir(at("sticky")).unwrap();
    fs::set_permissions(at("sticky"), PermissionsExt::from_mode(0o1777)).unwrap();
    symlink("x".repeat(150), at("long link")).unwrap();
    fs::write(at(&"n".repeat(200)), "").unwrap();
    let tree = fs::File::open(dir.path()).unwrap();
    let mut archive = Vec::new();
    pack(tree.as_fd(), &mut archive, &PackOptions::new(Dialect::Plain, TreeFormat::Plain)).unwrap();
    archive
}

/// Name, mode, owner and content.
type Entry = (String, u32, (u64, u64), Vec<u8>);

/// Every entry, as another program reads them.
fn entries(archive: &[u8]) -> Vec<Entry> {
    let mut tar = tar::Archive::new(archive);
    let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        (entry.path().unwrap().display().to_string(), header.mode().unwrap(), owner, content)
    };
    tar.entries().unwrap().map(read).collect()
}

#[test]
fn set_id_bits_do_not_come_out_and_nothing_else_changes() {
    let before = packed();
    let after = entries(&rewrite(&before, Direction::Out).unwrap());
    let before = entries(&before);
    assert_eq!(after.len(), before.len());
    for (was, is) in before.iter().zip(&after) {
        assert_eq!((&was.0, was.1 & 0o1777, was.2, &was.3), (&is.0, is.1, is.2, &is.3));
    }
    assert!(before.iter().any(|entry| entry.1 & 0o6000 != 0), "the test has something to do");
}

#[test]
fn what_comes_in_belongs_to_root() {
    let owned = rewrite(&packed(), Direction::In).unwrap();
    let found = entries(&owned);
    assert!(found.iter().all(|entry| entry.2 == (0, 0)));
    assert!(found.iter().any(|entry| entry.1 == 0o6755), "modes stay");
}

#[test]
fn what_was_rewritten_extracts_and_has_valid_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let archive = rewrite(&packed(), Direction::Out).unwrap();
    let options = vesselrt_runtime::layer::UnpackOptions::new(
        Dialect::Plain,
        TreeFormat::Plain,
        vesselrt_runtime::layer::IdPolicy::Ignore,
    );
    let root = fs::File::open(dir.path()).unwrap();
    vesselrt_runtime::layer::extract(archive.as_slice(), root.as_fd(), "".as_ref(), &options).unwrap();
    let tool = fs::metadata(dir.path().join("tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.len()), (0o755, 3000));
    let link = fs::read_link(dir.path().join("long link")).unwrap();
    assert_eq!(link.as_os_str().len(), 150);
}

fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let length =
        (1..).map(|digits| rest.len() + digits).find(|n| n.to_string().len() + rest.len() == *n).unwrap();
    format!("{length}{rest}")
}

#[test]
fn attributes_that_give_privileges_do_not_come_out_and_owners_do_not_come_in() {
    let kept = |direction, keys: &[&str]| {
        let body: String = keys.iter().map(|key| record(key, "v")).collect();
        let kept = Rewritten::new(io::empty(), direction).kept(body.as_bytes()).unwrap();
        String::from_utf8(kept).unwrap()
    };
    let all = [
        "path",
        "uid",
        "mtime",
        "SCHILY.xattr.security.capability",
        "VESSELRT.xattr.system.posix_acl_access",
        "SCHILY.xattr.user.note",
    ];
    let out: String =
        ["path", "uid", "mtime", "SCHILY.xattr.user.note"].iter().map(|k| record(k, "v")).collect();
    assert_eq!(kept(Direction::Out, &all), out);
    let inside = kept(Direction::In, &all);
    assert!(!inside.contains("uid") && inside.contains("security.capability"));
}

#[test]
fn numbers_have_both_forms() {
    assert_eq!(number(b"0000644\0").unwrap(), 0o644);
    assert_eq!(number(b"        \0").unwrap(), 0);
    assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02").unwrap(), 258);
    assert!(number(b"\x81\0\0\0\0\0\0\0\0\0\x01\x02").is_err());
    assert!(number(b"99999999999\0").is_err());
    assert!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
}

#[test]
fn a_cut_archive_is_no_shorter_archive() {
    let whole = packed();
    for cut in [100, 700, 1500, 2100] {
        assert!(rewrite(&whole[..cut], Direction::Out).is_err(), "{cut}");
    }
    assert!(Rewritten::new(io::empty(), Direction::Out).kept(b"99 path=x\n").is_err());
}

proptest! {
    #[test]
    fn no_damage_is_a_panic(at in 0usize..4096, value: u8) {
        let mut archive = packed();
        let last = archive.len() - 1;
        archive[at.min(last)] = value;
        let _ = rewrite(&archive, Direction::Out);
        let _ = rewrite(&archive, Direction::In);
    }
}
