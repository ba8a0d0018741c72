//! `start` and `stop`: what stays between calls, and what does not.
#![forbid(unsafe_code)]

use rustix::process::{Pid, Signal, kill_process};

use crate::shell::{BASE, Shell, settle};

#[test]
fn every_verb_leaves_nothing_running() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.assert_idle();
    let source = shell.file("source", b"content");
    let source = source.to_str().unwrap();
    let target = format!("{id}:/work/copy");
    let back = shell.beside("back");
    for args in [
        vec!["ls"],
        vec!["inspect", &id],
        vec!["exec", &id, "--", "true"],
        vec!["exec", "--ephemeral", &id, "--", "touch", "x"],
        vec!["run", "--rm", BASE, "--", "true"],
        vec!["cp", source, &target],
        vec!["cp", &target, back.to_str().unwrap()],
        vec!["fs", "ls", &id],
        vec!["fs", "cat", &id, "copy"],
        vec!["snapshot", "create", &id],
        vec!["snapshot", "ls", &id],
        vec!["image", "ls"],
        vec!["exec", &id, "--", "no-such-command"],
        vec!["stop", &id],
    ] {
        shell.call(&args).run();
        shell.assert_idle();
    }
}

#[test]
fn what_a_command_leaves_in_the_background_ends_with_the_call() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "sleep 1000 >/dev/null 2>&1 & (trap '' TERM HUP INT; setsid sleep 1001) >/dev/null 2>&1 &");
    shell.assert_idle();
}

#[test]
fn start_keeps_a_vessel_up_until_stop() {
    let shell = Shell::new();
    let id = shell.vessel();
    assert_eq!(shell.call(["start", &id]).succeeds().line(), id);
    let kept = shims(&shell);
    assert_eq!(kept.len(), 1, "start left no shim, or too many");
    shell.call(["start", &id]).succeeds();
    assert_eq!(shims(&shell), kept, "the second start made another");
    let running = shell.exec(&id, ["sh", "-c", "echo up > up; exec sleep 1000"]).start();
    shell.sh(&id, "while [ ! -e up ]; do sleep 0.05; done");
    assert_eq!(shell.call(["stop", &id]).succeeds().line(), id);
    assert_ne!(running.wait().code, 0);
    shell.assert_idle();
    // One that does not run is stopped already.
    assert_eq!(shell.call(["stop", &id]).succeeds().text(), "");
    assert_eq!(shell.sh(&id, "cat up"), "up\n");
    shell.assert_idle();
}

/// The processes of the store that none of them has started: what is below a shim comes and goes.
fn shims(shell: &Shell) -> Vec<u32> {
    let all = shell.processes();
    let parent = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok())
    };
    all.iter().copied().filter(|pid| parent(pid).is_some_and(|parent| !all.contains(&parent))).collect()
}

#[test]
fn a_vessel_stays_up_for_the_next_command() {
    let shell = Shell::new();
    let id = shell.vessel();
    let exec = |idle: &str, script: &str| {
        shell.call(["exec", "--idle", idle, &id, "--", "sh", "-c", script]).succeeds().text()
    };
    exec("60s", "echo 1 > /n");
    let idle = shims(&shell);
    assert!(!idle.is_empty(), "nothing stayed up");
    assert!(shell.call(["ls"]).succeeds().text().contains("idle"));
    assert_eq!(exec("60s", "cat /n"), "1\n");
    assert_eq!(shims(&shell), idle, "the second command started something of its own");
    let snapshot = shell.call(["snapshot", "create", &id]).succeeds().line();
    exec("60s", "echo 2 > /n");
    shell.call(["snapshot", "restore", &id, &snapshot]).succeeds();
    assert_eq!(exec("60s", "cat /n"), "1\n");
    assert_eq!(shims(&shell), idle, "snapshots started something of their own");
    // The last one says how long.
    exec("300ms", "true");
    shell.assert_idle();
    exec("60s", "true");
    shell.call(["stop", &id]).succeeds();
    shell.assert_idle();
    exec("60s", "true");
    shell.call(["rm", &id]).succeeds();
    shell.assert_idle();
}

#[test]
fn stop_all_stops_every_vessel_of_the_store() {
    let shell = Shell::new();
    let ids = [shell.vessel(), shell.vessel(), shell.vessel()];
    for id in &ids[..2] {
        shell.call(["start", id]).succeeds();
    }
    let mut stopped: Vec<String> =
        shell.call(["stop", "--all"]).succeeds().text().lines().map(str::to_owned).collect();
    stopped.sort();
    let mut expected = ids[..2].to_vec();
    expected.sort();
    assert_eq!(stopped, expected);
    shell.assert_idle();
    shell.call(["stop", "--all"]).succeeds();
}

#[test]
fn a_started_vessel_snapshots_and_restores() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["start", &id]).succeeds();
    shell.sh(&id, "echo one > f");
    let snapshot = shell.call(["snapshot", "create", &id, "-m", "one"]).succeeds().line();
    shell.sh(&id, "rm -rf /work /srv /home /bin/cat");
    shell.call(["snapshot", "restore", &id, &snapshot]).succeeds();
    assert_eq!(shell.sh(&id, "cat f /srv/a"), "one\na\n");
    shell.call(["stop", "--all"]).succeeds();
    shell.assert_idle();
}

#[test]
fn work_survives_the_death_of_everything_that_runs() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["start", &id]).succeeds();
    shell.sh(&id, "echo kept > f; sync");
    for pid in shell.processes() {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // One may have ended because another did.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    assert!(settle(|| Some(()).filter(|()| !shell.processes().is_empty())).is_none());
    assert_eq!(shell.sh(&id, "cat f"), "kept\n");
    shell.assert_idle();
}

#[test]
fn two_calls_at_once_share_one_vessel() {
    let shell = Shell::new();
    let id = shell.vessel();
    let first =
        shell.exec(&id, ["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; echo first > one"]).start();
    shell.call(["fs", "write", &id, "go"]).input("").succeeds();
    let done = first.wait();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(shell.sh(&id, "cat one"), "first\n");
    let many: Vec<_> =
        (0..6).map(|n| shell.exec(&id, ["sh", "-c", &format!("echo {n} > n{n}")]).start()).collect();
    for call in many {
        let done = call.wait();
        assert_eq!(done.code, 0, "{done:?}");
    }
    assert_eq!(shell.sh(&id, "cat n?"), "0\n1\n2\n3\n4\n5\n");
    shell.assert_idle();
}
