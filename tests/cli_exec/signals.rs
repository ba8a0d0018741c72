//! What a signal to the command line does to the command inside.
#![forbid(unsafe_code)]

use rustix::process::Signal;

use crate::shell::{BASE, Running, Shell, settle};

/// Waits until a file is in the vessel.
fn wait_for(shell: &Shell, id: &str, name: &str) {
    let missing = || shell.call(["fs", "stat", id, name]).run().code != 0;
    assert!(settle(|| missing().then_some(())).is_none(), "{name} does not appear");
}

fn trapped(shell: &Shell, id: &str) -> Running {
    let script = "trap 'echo got; exit 42' TERM INT HUP QUIT; touch ready; while :; do sleep 0.02; done";
    let running = shell.exec(id, ["sh", "-c", script]).start();
    wait_for(shell, id, "ready");
    running
}

#[test]
fn signals_are_passed_on_to_the_command() {
    let shell = Shell::new();
    let id = shell.vessel();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let running = trapped(&shell, &id);
        running.signal(signal);
        let done = running.wait();
        assert_eq!((done.code, done.text().as_str()), (42, "got\n"), "{signal:?} {done:?}");
        shell.call(["fs", "rm", &id, "ready"]).succeeds();
    }
    shell.assert_idle();
}

#[test]
fn a_command_that_a_passed_signal_ends_gives_its_code() {
    let shell = Shell::new();
    let id = shell.vessel();
    let running = shell.exec(&id, ["sh", "-c", "touch ready; exec sleep 1000"]).start();
    wait_for(&shell, &id, "ready");
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, 128 + 15);
    shell.assert_idle();
}

#[test]
fn a_second_interrupt_kills() {
    let shell = Shell::new();
    let id = shell.vessel();
    let script = "trap 'touch interrupted' INT; trap '' TERM; touch ready; while :; do sleep 0.02; done";
    let running = shell.exec(&id, ["sh", "-c", script]).start();
    wait_for(&shell, &id, "ready");
    running.signal(Signal::INT);
    wait_for(&shell, &id, "interrupted");
    running.signal(Signal::INT);
    assert_eq!(running.wait().code, 128 + 9);
    shell.assert_idle();
}

#[test]
fn the_command_ends_when_the_caller_is_killed() {
    let shell = Shell::new();
    let id = shell.vessel();
    let running = trapped(&shell, &id);
    running.signal(Signal::KILL);
    assert_eq!(running.wait().code, 1000 + 9);
    shell.assert_idle();
    assert_eq!(shell.sh(&id, "ls"), "ready\n");
}

#[test]
fn an_interrupted_run_still_removes_its_vessel() {
    let shell = Shell::new();
    let args = ["run", "--rm", "--id", "short", BASE, "--", "sh", "-c", "echo up; exec sleep 1000"];
    let running = shell.call(args).start();
    let missing = || shell.call(["inspect", "short"]).run().code != 0;
    assert!(settle(|| missing().then_some(())).is_none(), "no vessel appears");
    running.signal(Signal::TERM);
    let done = running.wait();
    assert!(matches!(done.code, 143 | 125), "{done:?}");
    assert_eq!(shell.call(["ls"]).in_json().succeeds().json(), serde_json::json!([]));
    shell.assert_idle();
}

#[test]
fn signals_at_any_moment_leave_a_store_that_works() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "mkdir data; for n in $(seq 1 200); do echo $n > data/$n; done");
    let verbs: [&[&str]; 4] =
        [&["snapshot", "create", &id], &["exec", &id, "--", "true"], &["create", BASE], &["fs", "ls", &id]];
    for (round, delay) in [0, 2, 5, 9, 14, 20, 30, 45].into_iter().enumerate() {
        for verb in verbs {
            let running = shell.call(verb).start();
            std::thread::sleep(std::time::Duration::from_millis(delay));
            running.signal([Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL][round % 4]);
            running.wait();
        }
    }
    shell.assert_idle();
    assert_eq!(shell.sh(&id, "ls data | wc -l"), "200\n");
    let list = shell.call(["snapshot", "ls", &id]).in_json().succeeds().json();
    for snapshot in list.as_array().unwrap() {
        shell.call(["snapshot", "restore", &id, snapshot["id"].as_str().unwrap()]).succeeds();
        assert_eq!(shell.sh(&id, "ls data | wc -l"), "200\n");
    }
}
