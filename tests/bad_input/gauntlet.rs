//! Everything that goes wrong with commands, one after the other and beside each other, on the command line.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::count::descendants;
use crate::shell::{BASE, Call};
use crate::testkit::leftovers::contains;
use crate::testkit::{self, Cap, wait_until};

/// Part of the ids of all vessels in here.
pub(super) const MARK: &str = "goeswrong";

/// `vesselrt --root ROOT ARGS…`; what `exec` uses stays up, so that there is something to stop.
pub(super) fn call(root: &Path, args: &[&str]) -> Call {
    Call::new(testkit::bin()).arg("--root").arg(root).args(args).env("VESSELRT_IDLE", "600s")
}

/// All of it. Vessels stay up, and processes in them.
pub(super) fn run(root: &Path) {
    let create = |name: &str| {
        let id = format!("{MARK}-{name}");
        call(root, &["create", BASE, "--id", &id, "--workdir", "/work"]).succeeds();
        id
    };
    what_cannot_be_started(root, &create("start"));
    bombs_and_hogs(root, &create("bombs"));
    output_that_nobody_reads(root, &create("output"));
    processes_that_will_not_go(root, &create("stay"));
    clients_that_vanish(root, &create("vanish"));
    a_killed_shim(root, &create("killed"));
    a_published_port(root);
}

fn exec(root: &Path, id: &str, flags: &[&str], argv: &[&str]) -> Call {
    call(root, &[&["exec"], flags, &[id, "--"], argv].concat())
}

fn what_cannot_be_started(root: &Path, id: &str) {
    exec(root, id, &[], &["sh", "-c", "printf '#!/none\\n' > script; chmod 755 script"]).succeeds();
    for (code, argv) in [
        (127, vec!["no-such-command"]),
        (127, vec!["/no/such/command"]),
        (126, vec!["/etc"]),
        (126, vec!["/etc/motd"]),
        (127, vec!["./script"]),
    ] {
        exec(root, id, &[], &argv).exits(code);
    }
    for user in ["nobody-at-all", "4294967296", "-1", "4294967295", "root:none"] {
        exec(root, id, &[&format!("--user={user}")], &["true"]).exits(125);
    }
    for dir in ["/etc/motd", "/etc/motd/below"] {
        exec(root, id, &["-w", dir], &["true"]).exits(125);
    }
    // As much as a shell can pass on, and more than the command can take with its own.
    let big = "x".repeat(100 << 10);
    let variables = vec![format!("-eV={big}"); 15];
    let mut flags: Vec<&str> = variables.iter().map(String::as_str).collect();
    exec(root, id, &flags, &["true"]).succeeds();
    flags.clear();
    let file = root.with_file_name("env");
    let lines: String = (0..40).map(|n| format!("V{n}={big}\n")).collect();
    std::fs::write(&file, lines).unwrap();
    exec(root, id, &["--env-file", file.to_str().unwrap()], &["true"]).exits(125);
}

fn bombs_and_hogs(root: &Path, id: &str) {
    let limited = Cap::ControlGroups.is_there();
    let bomb = "b() { b | b & }; b; sleep 1000";
    let bounded =
        "i=0; while [ $i -lt 200 ]; do setsid sh -c 'sleep 1000 & sleep 1000' & i=$((i+1)); done; wait";
    let hog = "x=xxxxxxxx; while :; do x=$x$x; done";
    if limited {
        exec(root, id, &["--pids", "40", "--timeout", "1s"], &["sh", "-c", bomb]).exits(124);
        exec(root, id, &["--memory", "32m", "--timeout", "60s"], &["sh", "-c", hog]).exits(137);
        // With no limit on them the kernel has one on all.
        call(root, &["update", id, "--memory", "64m", "--pids", "64"]).succeeds();
        exec(root, id, &[], &["sh", "-c", hog]).exits(137);
    }
    exec(root, id, &["--timeout", "1s"], &["sh", "-c", bounded]).run();
    exec(root, id, &[], &["true"]).succeeds();
}

fn output_that_nobody_reads(root: &Path, id: &str) {
    let endless = || exec(root, id, &[], &["sh", "-c", "yes | cat"]);
    let done = endless().through("\"$@\" | { sleep 0.5; head -c 1; }").run();
    assert_eq!(done.text(), "y", "{done:?}");
    exec(root, id, &["--timeout", "500ms"], &["sh", "-c", "yes | cat"])
        .through("\"$@\" > /dev/null")
        .exits(124);
    // The reader goes, and the command does not mind.
    exec(
        root,
        id,
        &["--timeout", "1s"],
        &["sh", "-c", "trap '' PIPE; while :; do echo y; done 2> /dev/null"],
    )
    .through("\"$@\" | true")
    .run();
    exec(root, id, &["-d"], &["sh", "-c", "yes | cat"]).succeeds();
}

fn processes_that_will_not_go(root: &Path, id: &str) {
    let stubborn = "trap '' TERM INT HUP; while :; do sleep 1; done";
    let daemons =
        "for i in 1 2 3; do (setsid sh -c 'setsid sh -c \"trap : TERM; sleep 1000; sleep 1000\" &' &); done";
    exec(root, id, &["--timeout", "300ms"], &["sh", "-c", stubborn]).exits(124);
    exec(root, id, &[], &["sh", "-c", daemons]).succeeds();
    exec(root, id, &["--timeout", "300ms"], &["sh", "-c", "kill -STOP $$"]).exits(124);
    for script in [stubborn, daemons, "kill -STOP $$"] {
        exec(root, id, &["-d"], &["sh", "-c", script]).succeeds();
    }
    let process = exec(root, id, &["-d"], &["sh", "-c", "sleep 1000 & wait"]).succeeds().line();
    call(root, &["kill", id, &process, "-s", "STOP"]).succeeds();
    exec(root, id, &[], &["true"]).succeeds();
}

/// Calls that are killed in the middle of what they do.
fn clients_that_vanish(root: &Path, id: &str) {
    let process = exec(root, id, &["-d", "-i"], &["sh", "-c", "while :; do echo line; usleep 1000; done"]);
    let process = process.succeeds().line();
    let calls = [
        exec(root, id, &[], &["sh", "-c", "while :; do echo line; done"]).through("exec \"$@\" > /dev/null"),
        exec(root, id, &["-i"], &["cat"])
            .input(vec![b'x'; 64 << 20])
            .through("exec \"$@\" | cat > /dev/null"),
        exec(root, id, &["--ephemeral"], &["sleep", "1000"]),
        call(root, &["logs", "-f", id, &process]).through("exec \"$@\" > /dev/null"),
        call(root, &["attach", id, &process]).through("exec \"$@\" > /dev/null"),
        call(root, &["wait", id, &process]),
        call(root, &["cp", "-", &format!("{id}:/work")]).through("sleep 1000 | \"$@\""),
        call(root, &["cp", &format!("{id}:/bin"), "-"]).through("\"$@\" | sleep 1000"),
        call(root, &["snapshot", "create", id]),
    ];
    let running: Vec<_> = calls.into_iter().map(Call::start).collect();
    std::thread::sleep(Duration::from_millis(400));
    for process in descendants(std::process::id()) {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        if contains(&line, b"--root") || line.starts_with(b"sleep") {
            kill(process);
        }
    }
    drop(running);
    exec(root, id, &[], &["true"]).succeeds();
}

fn a_killed_shim(root: &Path, id: &str) {
    exec(root, id, &["-d"], &["sh", "-c", "sleep 1000 & sleep 1000"]).succeeds();
    let running = exec(root, id, &[], &["sh", "-c", "echo on; sleep 1000"]).start();
    let mount = format!("{}/vessels/{id} ", root.display());
    let is_shim = |pid: &u32| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("cmdline").starts_with(b"vesselrt-shim") && contains(&read("mountinfo"), mount.as_bytes())
    };
    std::thread::sleep(Duration::from_millis(200));
    let shims: Vec<u32> = descendants(std::process::id()).into_iter().filter(is_shim).collect();
    assert!(!shims.is_empty(), "the shim of {id} is found");
    shims.into_iter().for_each(kill);
    assert_eq!(running.wait().code, 125);
    wait_until("the vessel opens again", || exec(root, id, &[], &["true"]).run().code == 0);
}

fn a_published_port(root: &Path) {
    let port = crate::network::free_port().to_string();
    let id = format!("{MARK}-port");
    call(root, &["create", BASE, "--id", &id, "--publish", &format!("{port}:80"), "--allow", "good.test"])
        .succeeds();
    exec(root, &id, &["-d"], &["nc", "-l", "-p", "80"]).succeeds();
}

fn kill(pid: u32) {
    // It may have ended meanwhile.
    let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL);
}
