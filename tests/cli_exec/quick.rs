//! `exec` in a vessel that is up, which goes a shorter way: nothing can be told from it but the time.
#![forbid(unsafe_code)]

use rustix::process::Signal;

use crate::shell::{Shell, settle};

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
