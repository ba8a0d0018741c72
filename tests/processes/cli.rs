//! `exec -d`, `ps`, `logs`, `attach`, `kill`, `wait` on the command line.
#![forbid(unsafe_code)]

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cli_exec::pty::{Terminal, size};
use crate::shell::{Shell, settle};

impl Shell {
    /// `exec -d ID -- sh -c SCRIPT`; the id of the process.
    fn detach(&self, id: &str, script: &str) -> String {
        self.call(["exec", "-d", id, "--", "sh", "-c", script]).succeeds().line()
    }
}

/// Waits until `ready`.
fn wait_for(what: &str, ready: impl Fn() -> bool) {
    assert!(settle(|| Some(()).filter(|()| !ready())).is_none(), "not in time: {what}");
}

#[test]
fn a_process_goes_on_when_the_call_is_over() {
    let shell = Shell::new();
    let id = shell.vessel();
    let process =
        shell.detach(&id, "echo out; echo err >&2; while [ ! -e go ]; do usleep 20000; done; exit 3");
    assert_eq!(process, "p1");
    let table = shell.call(["ps", &id]).succeeds().text();
    assert!(
        table.starts_with("ID") && table.contains("running") && table.contains("sh -c echo out"),
        "{table}"
    );
    assert_eq!(shell.call(["ps", "-q", &id]).succeeds().text(), "p1\n");
    wait_for("both lines", || shell.call(["logs", &id, "p1"]).succeeds().complaint().contains("err"));
    let logs = shell.call(["logs", &id, "p1"]).succeeds();
    assert_eq!((logs.text().as_str(), logs.complaint().as_str()), ("out\n", "err\n"));
    let waiting = shell.call(["wait", &id, "p1"]).start();
    let following = shell.call(["logs", "-f", "--stderr", &id, "p1"]).start();
    shell.sh(&id, "touch go");
    assert_eq!(waiting.wait().code, 3);
    let followed = following.wait();
    assert_eq!((followed.code, followed.text(), followed.complaint()), (0, String::new(), "err\n".into()));
    shell.assert_idle();
    assert!(shell.call(["ps", &id]).succeeds().text().contains("exited (3)"));
    shell.call(["wait", &id, "p1"]).exits(3);
    assert_eq!(shell.call(["logs", &id, "p1", "--stdout"]).succeeds().text(), "out\n");
    shell.assert_idle();
    assert_eq!(shell.call(["ps", &id, "--prune"]).succeeds().text(), "p1\n");
    assert_eq!(shell.call(["ps", "-q", &id]).succeeds().text(), "");
    shell.call(["wait", &id, "p1"]).refused("not_found");
    assert_eq!(shell.detach(&id, "true"), "p2");
    shell.call(["wait", &id, "p2"]).succeeds();
}

#[test]
fn ends_have_the_exit_codes_of_exec() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["exec", "-d", &id, "--", "no-such-command"]).exits(127);
    shell.call(["exec", "-d", &id, "--", "/etc/passwd"]).exits(126);
    shell.call(["exec", "-d", "unknown", "--", "true"]).exits(125);
    let late = shell.call(["exec", "-d", "--timeout", "300ms", &id, "--", "sleep", "1000"]).succeeds().line();
    shell.call(["wait", &id, &late]).exits(124);
    assert!(shell.call(["ps", &id]).succeeds().text().contains("timed out"));
    for (signal, code) in [("TERM", 143), ("SIGKILL", 137), ("2", 130)] {
        let process = shell.call(["exec", "-d", &id, "--", "sleep", "1000"]).succeeds().line();
        assert_eq!(shell.call(["kill", &id, &process, "-s", signal]).succeeds().line(), process);
        shell.call(["wait", &id, &process]).exits(code);
        shell.call(["kill", &id, &process]).refused("conflict");
    }
    shell.call(["kill", &id, "p99"]).refused("not_found");
    let mut both = vec![shell.detach(&id, "sleep 1000"), shell.detach(&id, "sleep 1000")];
    let killed = shell.call(["kill", &id, "p99", &both[0], &both[1]]).exits(125);
    assert_eq!(killed.text().lines().collect::<Vec<_>>(), both);
    for process in both.drain(..) {
        shell.call(["wait", &id, &process]).exits(143);
    }
    shell.assert_idle();
}

#[test]
fn json_has_offsets_to_go_on_at() {
    let shell = Shell::new();
    let id = shell.vessel();
    let call = shell.call(["exec", "-d", &id, "--", "sh", "-c", "printf 'a\\377b'; exit 4"]);
    let started = call.in_json().succeeds().json();
    assert_eq!((&started["id"], started["argv"][0].as_str()), (&Value::from("p1"), Some("sh")));
    let ended = shell.call(["wait", &id, "p1"]).in_json().exits(4).json();
    assert_eq!(
        (&ended["exitCode"], &ended["status"], &ended["logEnd"]),
        (&4.into(), &"exited".into(), &3.into())
    );
    let lines = |args: &[&str]| -> Vec<Value> {
        let text = shell.call(args).in_json().succeeds().text();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&["logs", &id, "p1"]);
    let names: Vec<_> = all.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["started", "stdout", "exited"]);
    assert_eq!((&all[1]["base64"], &all[1]["next"]), (&"Yf9i".into(), &3.into()));
    let rest = lines(&["logs", &id, "p1", "--offset", "2"]);
    assert_eq!((&rest[0]["text"], &rest[0]["offset"]), (&"b".into(), &2.into()));
    let nothing = lines(&["logs", &id, "p1", "--offset", "3"]);
    assert_eq!(nothing.len(), 1, "{nothing:?}");
    let listed = shell.call(["ps", &id]).in_json().succeeds().json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[test]
fn a_log_that_was_rotated_tells_where_it_begins() {
    let shell = Shell::new();
    let id = shell.vessel();
    let args = ["exec", "-d", "--log-size", "4k", &id, "--", "seq", "1", "5000"];
    let process = shell.call(args).succeeds().line();
    shell.call(["wait", &id, &process]).succeeds();
    let error = shell.call(["logs", &id, &process, "--offset", "0"]).refused("not_found");
    assert!(error["remedy"].as_str().unwrap().contains("begins at"), "{error}");
    assert!(shell.call(["logs", &id, &process]).succeeds().text().ends_with("\n4999\n5000\n"));
    assert_eq!(shell.call(["logs", &id, &process, "--tail", "2"]).succeeds().text(), "4999\n5000\n");
    assert_eq!(shell.call(["logs", &id, &process, "--since", "1h", "--stderr"]).succeeds().text(), "");
}

#[test]
fn stop_and_rm_end_processes() {
    let shell = Shell::new();
    let id = shell.vessel();
    let polite = shell.detach(&id, "trap 'echo saved; exit 5' TERM; echo up; while :; do usleep 20000; done");
    wait_for("it is up", || shell.call(["logs", &id, &polite]).succeeds().text() == "up\n");
    assert_eq!(shell.call(["stop", &id]).succeeds().line(), id);
    shell.assert_idle();
    shell.call(["wait", &id, &polite]).exits(5);
    assert_eq!(shell.call(["logs", &id, &polite]).succeeds().text(), "up\nsaved\n");
    shell.detach(&id, "trap '' TERM; sleep 1000");
    shell.call(["rm", &id]).succeeds();
    shell.assert_idle();
    shell.call(["ps", &id]).refused("not_found");
}

#[test]
fn the_death_of_everything_leaves_a_process_lost() {
    let shell = Shell::new();
    let id = shell.vessel();
    let process = shell.detach(&id, "echo said; sleep 1000");
    wait_for("it has said it", || shell.call(["logs", &id, &process]).succeeds().text() == "said\n");
    for pid in shell.processes() {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // One may have ended because another did.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    shell.assert_idle();
    assert!(shell.call(["ps", &id]).succeeds().text().contains("lost"));
    assert!(shell.call(["wait", &id, &process]).exits(125).complaint().contains("was lost"));
    assert_eq!(shell.call(["wait", &id, &process]).in_json().exits(125).json()["status"], "lost");
    assert_eq!(shell.call(["logs", "-f", &id, &process]).succeeds().text(), "said\n");
}

#[test]
fn attach_joins_pipes_and_leaves_without_killing() {
    let shell = Shell::new();
    let id = shell.vessel();
    let script = "echo early; while read line; do echo got $line; done; exit 8";
    let process = shell.call(["exec", "-d", "-i", &id, "--", "sh", "-c", script]).succeeds().line();
    wait_for("it is up", || shell.call(["logs", &id, &process]).succeeds().text() == "early\n");
    // The end of our input is not the end of its.
    let attached = shell.call(["attach", &id, &process]).input("one\n").start();
    wait_for("one", || shell.call(["logs", &id, &process]).succeeds().text().contains("got one\n"));
    // What is in the log is shown a moment later.
    std::thread::sleep(Duration::from_secs(1));
    attached.signal(Signal::INT);
    let left = attached.wait();
    assert_eq!((left.code, left.text().as_str()), (130, "got one\n"), "{left:?}");
    assert!(shell.call(["ps", &id]).succeeds().text().contains("running"));
    let attached = shell.call(["attach", "--eof", "--offset", "0", &id, &process]).input("two\n").exits(8);
    assert_eq!(attached.text(), "early\ngot one\ngot two\n");
    // Of one that has ended there is nothing but the end.
    assert_eq!(shell.call(["attach", &id, &process]).exits(8).text(), "");
    shell.assert_idle();
}

#[test]
fn attach_joins_a_terminal_and_two_keys_leave_it() {
    let shell = Shell::new();
    let id = shell.vessel();
    let args = ["exec", "-d", "-t", "-e", "PS1=in: ", &id, "--", "sh"];
    let process = shell.call(args).succeeds().line();
    let mut terminal = Terminal::of(&shell.call(["attach", &id, &process]));
    terminal.send(b"echo typed-$((40+2))\n");
    terminal.wait_for("typed-42");
    assert!(!terminal.is_cooked());
    terminal.send(b"stty size\n");
    terminal.wait_for("33 91");
    size(&terminal.master.try_clone().unwrap().into(), 50, 132);
    std::thread::sleep(Duration::from_millis(300));
    terminal.send(b"stty size\n");
    terminal.wait_for("50 132");
    terminal.send(b"\x10\x11");
    assert_eq!(terminal.end(), Some(0), "{}", terminal.text());
    assert!(terminal.is_cooked());
    assert!(shell.call(["ps", &id]).succeeds().text().contains("running"));
    // Whoever is gone without a word does not take it along either.
    let mut gone = Terminal::of(&shell.call(["attach", &id, &process]));
    gone.send(b"echo still-$((1+1))\n");
    gone.wait_for("still-2");
    kill_process(Pid::from_child(&gone.child), Signal::KILL).unwrap();
    gone.end();
    let mut again = Terminal::of(&shell.call(["attach", "--offset", "0", &id, &process]));
    again.wait_for("typed-42");
    again.wait_for("still-2");
    again.send(b"exit 11\n");
    assert_eq!(again.end(), Some(11), "{}", again.text());
    assert!(again.is_cooked());
    shell.assert_idle();
}
