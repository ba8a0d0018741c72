//! After everything that goes wrong the host is what it was before: `stop --all` and `gc` are all that is needed.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::count::Count;
use super::gauntlet::{self, MARK};
use crate::shell::Shell;

const ROOT: &str = "VESSELRT_TEST_BASELINE_ROOT";
/// What ends by itself has ended after this time.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn after_everything_that_goes_wrong_the_host_is_as_before() {
    let shell = Shell::new();
    // A process of its own: orphans of these calls become its children, and nobody else's are.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "bad_input::baseline::everything_goes_wrong", "--nocapture", "--ignored"]);
    let output = command.env(ROOT, shell.root()).stdin(Stdio::null()).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    shell.assert_idle();
}

/// Started by the test above, and by nobody else.
#[test]
#[ignore = "part of another test"]
fn everything_goes_wrong() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let before = Count::now(&root, MARK);
    assert!(before.processes.is_empty() && before.mounts.is_empty() && before.groups.is_empty());

    gauntlet::run(&root);

    // If this count did not see what a vessel is, it would not see what is left of one either.
    let during = Count::now(&root, MARK);
    assert!(during.processes.len() >= 3, "{during:#?}");
    assert!(during.mounts.len() > before.mounts.len(), "{during:#?}");
    assert!(during.sockets.len() > before.sockets.len(), "{during:#?}");
    if rustix::process::geteuid().is_root() {
        assert!(during.namespaces.len() > before.namespaces.len(), "{during:#?}");
    }

    gauntlet::call(&root, &["stop", "--all"]).succeeds();
    gauntlet::call(&root, &["gc"]).succeeds();
    is_again(&root, &before);
    for id in gauntlet::call(&root, &["ls", "-q"]).succeeds().text().lines() {
        gauntlet::call(&root, &["rm", id]).succeeds();
    }
    is_again(&root, &before);
}

#[track_caller]
fn is_again(root: &Path, before: &Count) {
    let start = Instant::now();
    loop {
        let after = Count::now(root, MARK);
        if after == *before {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "before: {before:#?}\nafter: {after:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
