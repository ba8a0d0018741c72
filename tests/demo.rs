//! `demo`: it shows the main job on a base image of the host's own tools, and leaves nothing behind.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::shell::{Call, Shell, processes_in, settle};
use crate::testkit::image::base_tar;
use crate::testkit::{self};

/// Where a demo may put things: its home and its temporary directory.
struct Places {
    shell: Shell,
    home: PathBuf,
    temporary: PathBuf,
}

impl Places {
    fn new() -> Self {
        let shell = Shell::empty();
        let (home, temporary) = (shell.beside("home"), shell.beside("tmp"));
        for dir in [&home, &temporary] {
            fs::create_dir(dir).unwrap();
        }
        Self { shell, home, temporary }
    }

    fn demo(&self) -> Call {
        let call =
            Call::new(testkit::bin()).arg("demo").env("HOME", &self.home).env("TMPDIR", &self.temporary);
        call.without_env("XDG_DATA_HOME").without_env("XDG_RUNTIME_DIR")
    }

    /// Nothing runs, nothing is mounted, nothing is in the home or the temporary directory.
    fn are_clean(&self) {
        for dir in [&self.home, &self.temporary] {
            let running = settle(|| Some(processes_in(dir)).filter(|left| !left.is_empty()));
            assert_eq!(running, None, "{dir:?}");
            assert_eq!(files(dir), BTreeSet::new());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.temporary.to_str().unwrap()), "{mounts}");
        assert!(!self.shell.root().exists());
    }
}

fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

#[test]
fn the_demo_succeeds_and_leaves_nothing_behind() {
    let places = Places::new();
    let done = places.demo().succeeds();
    let text = done.text().to_lowercase();
    for word in ["create", "exec", "snapshot", "rm -rf", "restore", "ms"] {
        assert!(text.contains(word), "nothing of {word} in {text}");
    }
    places.are_clean();
}

#[test]
fn the_demo_runs_on_an_image_that_is_given() {
    let places = Places::new();
    let tar = places.shell.file("image.tar", base_tar());
    places.demo().arg("--image").arg(&tar).succeeds();
    assert!(tar.exists());
    fs::remove_file(tar).unwrap();
    places.are_clean();
    places.demo().args(["--image", "/nowhere/image.tar"]).exits(125);
    places.are_clean();
}

#[test]
fn the_demo_needs_no_home_and_nothing_on_standard_input() {
    let places = Places::new();
    places.demo().env("HOME", "/nonexistent").through("exec \"$@\" <&-").succeeds();
    places.are_clean();
}

#[test]
fn an_interrupted_demo_cleans_up() {
    let places = Places::new();
    for (delay, signal) in
        [(5, Signal::INT), (60, Signal::TERM), (150, Signal::INT), (300, Signal::TERM), (600, Signal::HUP)]
    {
        let demo = places.demo().start();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        demo.signal(signal);
        let done = demo.wait();
        assert!(!done.complaint().contains("panicked"), "{done:?}");
        // Before the first thing was made there is nothing to clean, and the signal ends it.
        places.are_clean();
    }
}
