//! The kernel's overlay is the judge: what it wrote we carry, what we wrote it understands.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use vesselrt_fixtures::archive::{Archive, Item};

use super::listing::{Scratch, is_root, open, skip};
use crate::layer::{Dialect, IdPolicy, PackOptions, TreeFormat, UnpackOptions, pack, unpack};

/// What a guest does to its workspace. Everything that leaves a mark of its own in an upper.
const CHANGES: &str = r"
rm file; rm -r old; mkdir old; echo new > old/new; rm -r gone-dir
mv moved there 2>/dev/null || { cp -a moved there; rm -r moved; }
echo x > 'named.wh.x'; mv named.wh.x .wh.x; touch kept/.wh..wh..opq
ln kept/a kept/b; chmod 4711 kept/a; mkfifo pipe; ln -s kept/a link; truncate -s 3M hole
rm kept/sub/deep; touch -d @-5.25 kept/sub; chmod 0 closed
";

/// One line per file of the merged tree, and the attributes.
const LIST: &str = r"
find . ! -type d -printf '%p %y %m %U %G %s %n %T@ %l\n' | sort
find . -type d -printf '%p %y %m %U %G %T@\n' | sort
find . -type f -perm -400 -exec sha256sum {} + | sort -k2
if command -v getfattr >/dev/null; then getfattr -hdR -m - . 2>/dev/null; fi
";

/// Runs a script in the merged tree of a new mount namespace; `None` where that cannot be.
fn in_overlay(scratch: &Scratch, options: &str, script: &str) -> Option<String> {
    let mount =
        format!("mount -t overlay -o userxattr,{options} overlay merged && cd merged || exit 77; {script}");
    fs::create_dir_all(scratch.path("merged")).unwrap();
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &mount])
        .current_dir(scratch.path(""))
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else { return None };
    if output.status.code() == Some(77) || String::from_utf8_lossy(&output.stderr).contains("unshare failed")
    {
        skip("no overlay mount here");
        return None;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn build_lower(scratch: &Scratch) {
    drop(scratch.dir("lower"));
    let at = |path: &str| scratch.path("lower").join(path);
    for dir in ["old", "gone-dir", "moved/inner", "kept/sub", "closed"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for file in ["file", "old/lower", "gone-dir/x", "moved/inner/f", "kept/a", "kept/sub/deep", "closed/f"] {
        fs::write(at(file), file).unwrap();
    }
}

#[test]
fn what_the_overlay_wrote_is_the_same_after_a_snapshot_and_after_a_layer() {
    if !is_root() {
        skip("mounts need root or a user namespace");
        return;
    }
    let scratch = Scratch::new();
    build_lower(&scratch);
    drop(scratch.dir("upper"));
    drop(scratch.dir("work"));
    let Some(_) = in_overlay(&scratch, "lowerdir=lower,upperdir=upper,workdir=work", CHANGES) else { return };
    // As a guest would inside; where there is no tool for it, the rest is still tested.
    let guest = "command -v setfattr >/dev/null && setfattr -n user.overlay.opaque -v mine kept; true";
    in_overlay(&scratch, "lowerdir=lower,upperdir=upper,workdir=work", guest).unwrap();
    let expected = in_overlay(&scratch, "lowerdir=upper:lower", LIST).unwrap();
    assert!(expected.contains("./.wh.x") && !expected.contains("./file"), "{expected}");
    restore(&scratch, Dialect::Snapshot, "again");
    assert_eq!(in_overlay(&scratch, "lowerdir=again:lower", LIST).unwrap(), expected);
    // An OCI layer has no place for the two names that look like whiteouts.
    for name in [".wh.x", "kept/.wh..wh..opq"] {
        fs::remove_file(scratch.path("upper").join(name)).unwrap();
    }
    let expected = in_overlay(&scratch, "lowerdir=upper:lower", LIST).unwrap();
    restore(&scratch, Dialect::Oci, "layer");
    assert_eq!(in_overlay(&scratch, "lowerdir=layer:lower", LIST).unwrap(), expected);
}

fn restore(scratch: &Scratch, dialect: Dialect, name: &str) {
    let mut tar = Vec::new();
    let upper = open(&scratch.path("upper"));
    pack(upper.as_fd(), &mut tar, &PackOptions::new(dialect, TreeFormat::Overlay)).unwrap();
    let dest = scratch.dir(name);
    let lower = open(&scratch.path("lower"));
    let options = UnpackOptions::new(dialect, TreeFormat::Overlay, IdPolicy::Keep { count: 65_536 });
    unpack(&tar[..], dest.as_fd(), &[lower.as_fd()], &options).unwrap();
}

#[test]
fn a_layer_from_elsewhere_means_to_the_overlay_what_it_says() {
    if !is_root() {
        skip("mounts need root or a user namespace");
        return;
    }
    let scratch = Scratch::new();
    build_lower(&scratch);
    let tar = Archive::new()
        .with(&Item::file(".wh.file", ""))
        .with(&Item::file("kept/.wh.a", ""))
        .with(&Item::file("old/.wh.lower", ""))
        .with(&Item::file("old/new", "new"))
        .with(&Item::file("old/.wh..wh..opq", ""))
        .with(&Item::file(".wh.moved", ""))
        .with(&Item::file("moved/fresh", ""))
        .with(&Item::hardlink("third", "kept/sub/deep"))
        .finish();
    let dest = scratch.dir("layer");
    let lower = open(&scratch.path("lower"));
    let options = UnpackOptions::new(Dialect::Oci, TreeFormat::Overlay, IdPolicy::Keep { count: 65_536 });
    unpack(&tar[..], dest.as_fd(), &[lower.as_fd()], &options).unwrap();
    let Some(found) = in_overlay(&scratch, "lowerdir=layer:lower", "find . | sort") else { return };
    let expected = [
        ".",
        "./closed",
        "./closed/f",
        "./gone-dir",
        "./gone-dir/x",
        "./kept",
        "./kept/sub",
        "./kept/sub/deep",
        "./moved",
        "./moved/fresh",
        "./old",
        "./old/new",
        "./third",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}
