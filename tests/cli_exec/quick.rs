//! `exec` in a vessel that is up, which goes a shorter way: nothing can be told from it but the time.
#![forbid(unsafe_code)]

use std::process::Command;

use rustix::process::Signal;

use crate::shell::{Shell, settle};
use crate::testkit::{Cap, need};

fn up() -> (Shell, String) {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["start", &id]).succeeds();
    (shell, id)
}

#[test]
fn codes_and_complaints_are_the_same_when_the_vessel_is_up() {
    let (shell, id) = up();
    let both = |arguments: &[&str]| {
        let mut long = vec!["exec", "--timeout", "60s"];
        long.extend(&arguments[1..]);
        let (quick, long) = (shell.call(arguments).run(), shell.call(&long).run());
        assert_eq!(quick.code, long.code, "{arguments:?}");
        assert_eq!((quick.text(), quick.complaint()), (long.text(), long.complaint()), "{arguments:?}");
        quick
    };
    assert_eq!(both(&["exec", &id, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).code, 7);
    assert_eq!(both(&["exec", &id, "--", "no-such-program"]).code, 127);
    assert_eq!(both(&["exec", &id, "--", "/etc"]).code, 126);
    assert_eq!(both(&["exec", &id, "--", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(both(&["exec", "-u", "no-such-user", &id, "--", "true"]).code, 125);
    assert_eq!(both(&["exec", "none", "--", "true"]).code, 125);
    let script = "id -u; pwd; echo $A; cat";
    let told = both(&["exec", "-u", "1", "-w", "/tmp", "-e", "A=b c", &id, "--", "sh", "-c", script]);
    assert_eq!(told.text(), "1\n/tmp\nb c\n");
    shell.call(["exec", "--ephemeral", &id, "--", "touch", "gone"]).succeeds();
    shell.call(["exec", &id, "--", "touch", "kept"]).succeeds();
    assert_eq!(shell.call(["exec", &id, "--", "ls"]).succeeds().text(), "kept\n");
    shell.call(["stop", &id]).succeeds();
    shell.assert_idle();
}

#[test]
fn output_goes_to_files_as_it_is_and_the_files_stay_outside() {
    let (shell, id) = up();
    let dir = tempfile::tempdir().unwrap();
    let [out, err] = ["out", "err"].map(|name| dir.path().join(name));
    let run = |script: &str, append: bool| {
        let open =
            |path| std::fs::File::options().create(true).write(true).append(append).open(path).unwrap();
        let mut command = shell.store().cli(&["exec", &id, "--", "sh", "-c", script]);
        command.stdout(open(&out)).stderr(open(&err)).status().unwrap().code()
    };
    let many =
        "i=0; while [ $i -lt 3000 ]; do echo $i-0123456789012345678901234567890123456789; i=$((i+1)); done";
    assert_eq!(run(&format!("{many}; {many} >&2; exit 5"), false), Some(5));
    let expected: String =
        (0..3000).map(|i| format!("{i}-0123456789012345678901234567890123456789\n")).collect();
    for path in [&out, &err] {
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
    }
    let script = "echo more; case $(readlink /proc/$$/fd/1) in pipe:*) ;; *) exit 9;; esac";
    assert_eq!(run(script, true), Some(0), "it is given a pipe");
    let text = std::fs::read_to_string(&out).unwrap();
    assert_eq!(text, format!("{expected}more\n"));
    // What is left behind with the pipe is not waited for.
    let began = std::time::Instant::now();
    assert_eq!(run("sleep 100 & exit 3", true), Some(3));
    assert!(began.elapsed() < std::time::Duration::from_secs(50), "{:?}", began.elapsed());
    shell.call(["stop", &id]).succeeds();
    shell.assert_idle();
}

#[test]
fn signals_are_passed_on_when_the_vessel_is_up() {
    let (shell, id) = up();
    for (signal, code) in [(Signal::TERM, 42), (Signal::HUP, 42), (Signal::KILL, 1000 + 9)] {
        let script = "trap 'exit 42' TERM HUP; touch ready; while :; do sleep 0.02; done";
        let running = shell.exec(&id, ["sh", "-c", script]).start();
        let missing = || shell.call(["fs", "stat", &id, "ready"]).run().code != 0;
        assert!(settle(|| missing().then_some(())).is_none(), "it does not start");
        running.signal(signal);
        assert_eq!(running.wait().code, code, "{signal:?}");
        shell.call(["fs", "rm", &id, "ready"]).succeeds();
        // Whoever is killed takes the command along.
        let runs = || !shell.call(["snapshot", "create", &id]).run().complaint().is_empty();
        assert!(settle(|| runs().then_some(())).is_none(), "it still runs");
    }
    shell.call(["stop", &id]).succeeds();
    shell.assert_idle();
}

/// What `run` starts ahead of its vessel ends with it, whatever becomes of the vessel.
#[test]
fn a_run_that_comes_to_nothing_leaves_no_process() {
    if !need(&[Cap::Strace]) {
        return;
    }
    let shell = Shell::new();
    let log = shell.beside("strace");
    let plain = shell.store().cli(&["run", "no-such:1", "--", "true"]);
    let mut command = Command::new("timeout");
    // strace ends when the last process does.
    command.args(["-k", "5", "60", "strace", "-f", "-q", "-s", "64", "-e", "trace=execve", "-o"]).arg(&log);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(shell.beside("."));
    command.env_clear().envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    assert_eq!(command.output().unwrap().status.code(), Some(125));
    let log = std::fs::read_to_string(&log).unwrap();
    let line = log.lines().find(|line| line.contains("vesselrt-shim-outer")).expect("one is started ahead");
    let pid = line.split_whitespace().next().unwrap();
    let ended = |line: &&str| line.starts_with(pid) && line.contains("exited with");
    assert!(log.lines().any(|line| ended(&line)), "{log}");
    shell.assert_idle();
}
