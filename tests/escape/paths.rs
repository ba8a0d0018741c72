//! Paths inside that lead out: every file verb stays in the vessel.
#![forbid(unsafe_code)]

use crate::shell::{Done, Shell};
use crate::testkit::canary::Canary;

/// A vessel in which every kind of link points at the canary of the host.
struct Trap {
    shell: Shell,
    canary: Canary,
    id: String,
    victim: String,
}

impl Trap {
    fn new() -> Self {
        let shell = Shell::new();
        let canary = Canary::new(shell.store());
        let id = shell.vessel();
        let victim = canary.victim().to_str().unwrap().to_owned();
        let script = format!(
            "ln -s {victim} dir; ln -s {victim}/secret file; ln -s ../../../../../../../../..{victim} up; \
             ln -s /proc/self/root root; ln -s /proc/1/root one; ln -s /proc/self/cwd/../../../..{victim} cwd; \
             ln -s /etc/shadow shadow; ln -s self self; ln -s b a; ln -s a b; ln -s dir chain; echo own > own; mkfifo fifo"
        );
        shell.sh(&id, &script);
        Self { shell, canary, id, victim }
    }

    fn fs(&self, verb: &str, paths: &[&str]) -> Done {
        let done = self.shell.call(["fs", verb, &self.id]).args(paths).input("changed").run();
        assert!(!self.canary.is_told_by(&done.stdout) && !self.canary.is_told_by(&done.stderr), "{done:?}");
        assert!(!done.complaint().contains("panicked"), "{done:?}");
        done
    }

    /// Ways to the secret of the host.
    fn ways(&self) -> Vec<String> {
        let victim = &self.victim;
        let mut ways = vec![
            "file".to_owned(),
            format!("../../../../../../..{victim}/secret"),
            format!("{victim}/secret"),
        ];
        ways.extend(
            ["dir", "up", "cwd", "chain", "dir/.", "dir/../victim"].map(|link| format!("{link}/secret")),
        );
        ways.extend(
            [
                "root",
                "one",
                "/proc/self/root",
                "/proc/1/root",
                "/proc/self/cwd/../..",
                "/proc/thread-self/root",
            ]
            .map(|link| format!("{link}{victim}/secret")),
        );
        ways
    }
}

#[test]
fn a_link_to_a_file_of_the_host_gives_the_vessels_own_or_none() {
    let trap = Trap::new();
    for way in trap.ways() {
        assert_eq!(trap.fs("cat", &[&way]).code, 125, "{way}");
        // The last link is not followed.
        assert_eq!(trap.fs("stat", &[&way]).code, if way == "file" { 0 } else { 125 }, "{way}");
    }
    assert_eq!(trap.fs("cat", &["shadow"]).code, 125);
    let inside = &trap.victim;
    trap.shell.sh(
        &trap.id,
        &format!("mkdir -p {inside}; echo inside > {inside}/secret; echo of the vessel > /etc/shadow"),
    );
    for way in trap.ways().iter().filter(|way| {
        !way.contains("proc")
            && !way.starts_with("root")
            && !way.starts_with("one")
            && !way.starts_with("cwd")
            && !way.contains("dir/..")
    }) {
        assert_eq!(trap.fs("cat", &[way]).text(), "inside\n", "{way}");
    }
    assert_eq!(trap.fs("cat", &["shadow"]).text(), "of the vessel\n");
    trap.canary.is_unharmed();
}

#[test]
fn nothing_is_written_made_moved_or_removed_through_a_link() {
    let trap = Trap::new();
    for round in ["nothing is there inside", "the same path is there inside"] {
        for way in trap.ways() {
            trap.fs("write", &[&way]);
        }
        for link in
            ["dir", "up", "root", "one", "cwd", "chain", "/proc/self/cwd", "/proc/self/fd/3", "/dev/fd/0"]
        {
            let under = |name: &str| format!("{link}/{name}");
            trap.fs("write", &[&under("new")]);
            trap.fs("mkdir", &[&under("made")]);
            trap.fs("mkdir", &["-p", &under("made/deep")]);
            trap.fs("ls", &[link]);
            trap.fs("ls", &[&format!("{link}{}", trap.victim)]);
            trap.fs("mv", &["own", &under("moved")]);
            trap.fs("mv", &[&under("hello"), "stolen"]);
            trap.fs("rm", &[&under("hello")]);
            trap.fs("rm", &["-r", &under("dir")]);
            trap.canary.is_unharmed();
        }
        let victim = &trap.victim;
        trap.shell.sh(
            &trap.id,
            &format!(
                "rm -rf stolen; echo own > own; mkdir -p {victim}/dir; echo x > {victim}/hello; echo {round}"
            ),
        );
    }
    trap.canary.is_unharmed();
}

#[test]
fn removing_and_moving_a_link_takes_the_link() {
    let trap = Trap::new();
    let victim = &trap.victim;
    trap.shell.sh(&trap.id, &format!("mkdir -p {victim}; echo inside > {victim}/secret"));
    trap.fs("mv", &["file", "moved"]);
    assert_eq!(trap.shell.sh(&trap.id, "readlink moved"), format!("{victim}/secret\n"));
    trap.fs("rm", &["moved"]);
    trap.fs("rm", &["-r", "dir"]);
    assert_eq!(
        trap.shell.sh(&trap.id, &format!("cat {victim}/secret; ls -d moved dir 2>/dev/null || true")),
        "inside\n"
    );
    trap.canary.is_unharmed();
}

#[test]
fn paths_above_the_root_are_the_root() {
    let trap = Trap::new();
    let root = trap.fs("ls", &["/"]).text();
    for path in ["..", "../../..", "/..", "/../../../../", "//", "/./", "own/../.."] {
        let done = trap.fs("ls", &[path]);
        assert_eq!(done.text(), root, "{path}");
    }
    assert_eq!(trap.fs("cat", &["/../../work/own"]).text(), "own\n");
    assert_eq!(trap.fs("cat", &["//work//./own"]).text(), "own\n");
}

#[test]
fn what_is_no_file_is_not_opened() {
    let trap = Trap::new();
    for path in [
        "fifo",
        "self",
        "a",
        "a/x",
        "/proc/self/mem",
        "/proc/kcore",
        "/dev/zero",
        "/dev/stdin",
        "/dev/null",
        "/dev/tty",
        "/sys/kernel/uevent_helper",
    ] {
        assert_eq!(trap.fs("cat", &[path]).code, 125, "{path}");
    }
    for path in ["fifo", "self", "a", "a/x", "/dev", "/"] {
        assert_eq!(trap.fs("write", &[path]).code, 125, "{path}");
    }
    trap.fs("rm", &["fifo", "self", "a", "b"]);
    assert_eq!(trap.shell.sh(&trap.id, "ls -d fifo self a b 2>/dev/null || true"), "");
}

#[test]
fn long_and_odd_paths_are_errors_or_work() {
    let trap = Trap::new();
    let fits = "n".repeat(255);
    assert_eq!(trap.fs("write", &[&fits]).code, 0);
    assert_eq!(trap.fs("cat", &[&fits]).text(), "changed");
    for path in ["n".repeat(256), "d/".repeat(2100), format!("/{}", "x".repeat(5000)), "a/".repeat(40_000)] {
        for verb in ["cat", "write", "mkdir", "stat", "ls", "rm"] {
            assert_eq!(trap.fs(verb, &[&path]).code, 125, "{verb} of {} bytes", path.len());
        }
    }
    for path in ["own/x", "", "."] {
        assert_eq!(trap.fs("cat", &[path]).code, 125, "{path:?}");
        assert_eq!(trap.fs("rm", &[path]).code, 125, "{path:?}");
    }
    for path in ["new\nline", "-dash", " ", "\u{1b}[31m", "ünï", ".wh.x", ".wh..wh..opq", "a b'\"\\"] {
        let call = |verb: &str| trap.shell.call(["fs", verb, &trap.id, "--", path]).input("odd");
        call("write").succeeds();
        assert_eq!(call("cat").succeeds().text(), "odd", "{path:?}");
        call("rm").succeeds();
    }
    trap.fs("rm", &["-r", "/"]);
    assert_eq!(trap.shell.sh(&trap.id, "cat own"), "own\n");
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let trap = Trap::new();
    trap.shell.sh(&trap.id, "mkdir deep; cd deep; i=0; while [ $i -lt 1500 ]; do mkdir dddddddd; cd dddddddd; i=$((i+1)); done; echo x > f");
    assert_eq!(trap.fs("rm", &["-r", "deep"]).code, 0);
    assert_eq!(trap.fs("stat", &["deep"]).code, 125);
}
