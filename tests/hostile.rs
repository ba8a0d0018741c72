//! The hostile layers of the fixtures, end to end: as the top layer of an image that is imported and run.
#![forbid(unsafe_code)]

mod aimed;
mod configurations;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use vesselrt_fixtures::hostile::{Expect, Fact, Form, Host, HostileLayer, cases};

use crate::shell::{Done, Shell};
use crate::testkit::canary::Canary;
use crate::testkit::image::{base_tar, oci_layout};
use crate::testkit::unprivileged;

/// In how many tests the cases are, which run in parallel.
const PARTS: usize = 6;

/// Archives that end between two entries, without the blocks that say so.
const NO_END: [&str; 3] = ["61d_missing_end", "61e_half_an_end", "61i_nothing_at_all"];

fn part(n: usize) {
    let shell = Shell::empty();
    let canary = Canary::new(shell.store());
    let host = Host::look();
    let layers = cases().into_iter().filter(|case| case.form == Form::Layer);
    let mut wrong = Vec::new();
    for (_, case) in layers.enumerate().filter(|(index, _)| index % PARTS == n) {
        if let Err(what) = tried(&shell, &case) {
            wrong.push(format!("{}: {what}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    canary.is_unharmed();
    assert!(host.harm().is_empty(), "{:?}", host.harm());
    assert_eq!(strays(shell.root()), Vec::<PathBuf>::new());
    assert_eq!(shell.call(["image", "ls"]).in_json().succeeds().json(), json!([]));
    shell.assert_idle();
}

/// Files that the layers want to make, anywhere in the store but in an unpacked tree.
fn strays(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name() == "victim" || entry.file_name() == "breakout" {
            found.push(entry.path());
        }
        if entry.file_name() != "fs" && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(strays(&entry.path()));
        }
    }
    found
}

/// Imports one case, runs what was accepted, removes it.
fn tried(shell: &Shell, case: &HostileLayer) -> Result<(), String> {
    let layout = shell.beside("layout");
    oci_layout(&layout, &[base_tar().to_vec(), case.tar.clone()], &json!({"Env": ["PATH=/bin"]}));
    let import = shell.call(["image", "import"]).arg(&layout).args(["--ref", "hostile"]).run();
    fs::remove_dir_all(&layout).unwrap();
    let complaint = import.complaint();
    if complaint.contains("panicked") || complaint.bytes().any(|b| b == 0x1b) {
        return Err(format!("an unseemly error: {import:?}"));
    }
    match &case.expect {
        // The digests say that nothing is missing: writers that leave out the end of the archive are in use.
        Expect::Reject(_) if NO_END.contains(&case.name) && import.code == 0 => ran(shell, &[]),
        Expect::Reject(_) if import.code == 125 => Ok(()),
        // An ordinary user's own id comes before the 65536 of the range.
        Expect::Reject(_) if case.name == "53_uid_65536" && unprivileged() => ran(shell, &[]),
        Expect::Reject(why) => Err(format!("was accepted though {why:?}: {import:?}")),
        Expect::Tree(_) if import.code != 0 => Err(format!("was refused: {import:?}")),
        Expect::Tree(facts) => ran(shell, facts),
    }
}

fn ran(shell: &Shell, facts: &[Fact]) -> Result<(), String> {
    let created = shell.call(["create", "hostile", "--id", "v"]).run();
    if created.code != 0 {
        return Err(format!("create: {created:?}"));
    }
    let said = shell.exec("v", ["/bin/busybox", "true"]).run();
    let seen: Result<(), String> = facts.iter().try_for_each(|fact| holds(shell, fact));
    shell.call(["rm", "v"]).succeeds();
    shell.call(["image", "rm", "hostile"]).succeeds();
    // A layer may put something else where the kernel's file systems go, or hide the image below: that is refused.
    if !matches!(said.code, 0 | 125 | 127) || said.complaint().contains("panicked") {
        return Err(format!("run: {said:?}"));
    }
    seen
}

fn absolute(path: &[u8]) -> std::ffi::OsString {
    OsStr::from_bytes(&[b"/", path].concat()).to_owned()
}

/// What the file API says about facts that it can see.
fn holds(shell: &Shell, fact: &Fact) -> Result<(), String> {
    let asked = |verb: &str, path: &[u8]| -> Done { shell.call(["fs", verb, "v"]).arg(absolute(path)).run() };
    match fact {
        // Names beyond PATH_MAX can be unpacked but not be typed.
        Fact::File(path, _) | Fact::Dir(path) | Fact::Absent(path) if path.len() > 4000 => Ok(()),
        Fact::File(path, content) => {
            let done = asked("cat", path);
            if done.code == 0 && done.stdout == *content {
                Ok(())
            } else {
                Err(format!("{fact:?} but {done:?}"))
            }
        }
        Fact::Dir(path) => {
            let done = asked("ls", path);
            // An unprivileged user without subordinate ids sees the modes of others.
            if done.code == 0 || unprivileged() { Ok(()) } else { Err(format!("{fact:?} but {done:?}")) }
        }
        Fact::Absent(path) | Fact::Whiteout(path) => {
            let done = asked("stat", path);
            // What one layer removes may be in none below.
            if done.code == 125 { Ok(()) } else { Err(format!("{fact:?} but {done:?}")) }
        }
        _ => Ok(()),
    }
}

#[test]
fn hostile_layers_part_0() {
    part(0);
}

#[test]
fn hostile_layers_part_1() {
    part(1);
}

#[test]
fn hostile_layers_part_2() {
    part(2);
}

#[test]
fn hostile_layers_part_3() {
    part(3);
}

#[test]
fn hostile_layers_part_4() {
    part(4);
}

#[test]
fn hostile_layers_part_5() {
    part(5);
}
