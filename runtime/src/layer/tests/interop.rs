//! Other tar programs read what we write, and we read what they write.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use super::listing::{Scratch, is_root, listing, skip};
use crate::layer::limits::Limits;
use crate::layer::tar::{Kind, TarReader};
use crate::layer::{Dialect, IdPolicy, PackOptions, TreeFormat, UnpackOptions, pack, unpack};

fn ids() -> IdPolicy {
    if is_root() { IdPolicy::Keep { count: 65_536 } } else { IdPolicy::Ignore }
}

/// Whether GNU tar is here; a machine without it says so.
fn gnu_tar() -> bool {
    let found = Command::new("tar").arg("--version").output();
    let is_gnu = found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("GNU tar"));
    if !is_gnu {
        skip("no GNU tar");
    }
    is_gnu
}

/// A tree with one of everything that every format can hold. Whole seconds, because ustar has no others.
fn build(root: &Path, long_names: bool) {
    let long = if long_names { "l".repeat(150) } else { "l".repeat(90) };
    fs::create_dir_all(root.join("usr/share/").join(&long)).unwrap();
    fs::write(root.join("usr/file"), vec![b'f'; 5000]).unwrap();
    fs::write(root.join("usr/share").join(&long).join("inner"), "inner").unwrap();
    fs::write(root.join("usr/empty"), "").unwrap();
    fs::hard_link(root.join("usr/file"), root.join("usr/second")).unwrap();
    symlink("../usr/file", root.join("link")).unwrap();
    fs::set_permissions(root.join("usr/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::write(root.join("\u{e4}\u{f6}"), "names").unwrap();
    for path in ["usr/file", "usr/empty", "\u{e4}\u{f6}", "usr/share", "usr", "."] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567_890);
        fs::File::open(root.join(path)).unwrap().set_modified(time).unwrap();
    }
    let inner = root.join("usr/share").join(&long);
    for path in [inner.join("inner"), inner.clone()] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    }
    let status = Command::new("touch").args(["-h", "-d", "@1111111111"]).arg(root.join("link")).status();
    assert!(status.unwrap().success());
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

#[test]
fn we_read_gnu_tar_in_all_its_formats() {
    if !gnu_tar() {
        return;
    }
    for format in ["gnu", "oldgnu", "pax", "ustar"] {
        let scratch = Scratch::new();
        drop(scratch.dir("tree"));
        build(&scratch.path("tree"), format != "ustar");
        let tree = scratch.path("tree");
        let tar = run(Command::new("tar")
            .arg(format!("--format={format}"))
            .arg("-cf-")
            .arg("-C")
            .arg(&tree)
            .arg("."));
        let copy = scratch.dir("copy");
        unpack(&tar[..], copy.as_fd(), &[], &UnpackOptions::new(Dialect::Plain, TreeFormat::Plain, ids()))
            .unwrap();
        assert_eq!(listing(&scratch.path("copy")), listing(&tree), "{format}");
    }
}

#[test]
fn we_read_every_sparse_format_of_gnu_tar() {
    if !gnu_tar() {
        return;
    }
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for arguments in formats {
        let scratch = Scratch::new();
        drop(scratch.dir("tree"));
        let file = fs::File::create(scratch.path("tree/sparse")).unwrap();
        for at in 0..60u64 {
            rustix::io::pwrite(&file, &[b'd'; 4096], at * 65_536).unwrap();
        }
        file.set_len(10 << 20).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let all_hole = fs::File::create(scratch.path("tree/hole")).unwrap();
        all_hole.set_len(1 << 20).unwrap();
        let tree = scratch.path("tree");
        let tar = run(Command::new("tar")
            .args(arguments)
            .args(["-S", "-cf-", "-C"])
            .arg(&tree)
            .args(["sparse", "hole"]));
        let copy = scratch.dir("copy");
        unpack(&tar[..], copy.as_fd(), &[], &UnpackOptions::new(Dialect::Plain, TreeFormat::Plain, ids()))
            .unwrap();
        let content = |name: &str, file: &str| fs::read(scratch.path(name).join(file)).unwrap();
        assert!(content("copy", "sparse") == content("tree", "sparse"), "{arguments:?}");
        assert!(content("copy", "hole") == content("tree", "hole"), "{arguments:?}");
        let blocks =
            std::os::unix::fs::MetadataExt::blocks(&fs::metadata(scratch.path("copy/sparse")).unwrap());
        assert!(blocks * 512 < 1 << 20, "{arguments:?}: the holes were filled: {blocks}");
    }
}

#[test]
fn gnu_tar_reads_what_we_write() {
    if !gnu_tar() {
        return;
    }
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    build(&scratch.path("tree"), true);
    let file = fs::File::create(scratch.path("tree/sparse")).unwrap();
    rustix::io::pwrite(&file, b"data", 5 << 20).unwrap();
    file.set_len(10 << 20).unwrap();
    let only_hole = fs::File::create(scratch.path("tree/hole")).unwrap();
    only_hole.set_len(1 << 20).unwrap();
    fs::create_dir(scratch.path("copy")).unwrap();
    let archive = scratch.path("archive.tar");
    let out = fs::File::create(&archive).unwrap();
    pack(tree.as_fd(), out, &PackOptions::new(Dialect::Plain, TreeFormat::Plain)).unwrap();
    let owner = if is_root() { "--same-owner" } else { "--no-same-owner" };
    run(Command::new("tar").args(["-p", owner, "-xf"]).arg(&archive).arg("-C").arg(scratch.path("copy")));
    assert_eq!(listing(&scratch.path("copy")), listing(&scratch.path("tree")));
    fs::remove_file(archive).unwrap();
}

#[test]
fn python_reads_what_we_write() {
    let script = "import sys, tarfile\nfor m in tarfile.open(fileobj=sys.stdin.buffer, mode='r|'): print(m.name, m.size)";
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    build(&scratch.path("tree"), true);
    let archive = scratch.path("archive.tar");
    let out = fs::File::create(&archive).unwrap();
    let report = pack(tree.as_fd(), out, &PackOptions::new(Dialect::Plain, TreeFormat::Plain)).unwrap();
    let input = fs::File::open(&archive).unwrap();
    let Ok(output) = Command::new("python3").args(["-c", script]).stdin(input).output() else {
        skip("no python3");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.iter().filter(|&&b| b == b'\n').count() as u64, report.entries);
    fs::remove_file(archive).unwrap();
}

/// Path, link, size, mode, owner and type as the `tar` crate sees them.
fn by_the_crate(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let mut lines = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        let link = entry.link_name_bytes().map(|link| link.to_vec()).unwrap_or_default();
        lines.push(format!(
            "{:?} {link:?} {} {:o} {} {} {:?}",
            entry.path_bytes(),
            entry.size(),
            header.mode().unwrap() & 0o7777,
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.entry_type().as_byte(),
        ));
    }
    lines
}

fn by_us(archive: &[u8]) -> Vec<String> {
    let mut reader = TarReader::new(archive, Limits::default(), false);
    let mut lines = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let flag = match entry.kind {
            Kind::File => b'0',
            Kind::Hardlink => b'1',
            Kind::Symlink => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        };
        lines.push(format!(
            "{:?} {:?} {} {:o} {} {} {flag:?}",
            std::borrow::Cow::Borrowed(&entry.path[..]),
            entry.link,
            entry.size,
            entry.mode,
            entry.uid.unwrap(),
            entry.gid.unwrap(),
        ));
    }
    lines
}

#[test]
fn the_tar_crate_and_we_see_the_same_entries() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    build(&scratch.path("tree"), true);
    let mut ours = Vec::new();
    pack(tree.as_fd(), &mut ours, &PackOptions::new(Dialect::Plain, TreeFormat::Plain)).unwrap();
    assert_eq!(by_us(&ours), by_the_crate(&ours));
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all("deep/prefix", scratch.path("tree")).unwrap();
    let theirs = builder.into_inner().unwrap();
    assert_eq!(by_us(&theirs), by_the_crate(&theirs));
    if !gnu_tar() {
        return;
    }
    for format in ["gnu", "oldgnu", "pax", "v7", "ustar"] {
        let mut command = Command::new("tar");
        command.arg(format!("--format={format}")).arg("-cf-").arg("-C").arg(scratch.path("tree"));
        // What the oldest formats can hold.
        command.args(if matches!(format, "v7" | "ustar") {
            ["usr/file", "usr/second", "link"]
        } else {
            [".", ".", "."]
        });
        let theirs = run(&mut command);
        assert_eq!(by_us(&theirs), by_the_crate(&theirs), "{format}");
    }
}
