//! What calls leave behind on purpose, and ids alone.
#![forbid(unsafe_code)]

use crate::shell::{BASE, Shell};

#[test]
fn run_in_the_background_prints_the_vessel_and_leaves_its_process() {
    let shell = Shell::new();
    let script = "echo out; read line; echo \"got $line\"; exit 3";
    let run = ["run", "-d", "-i", "--id", "background", "-w", "/work", BASE, "--", "sh", "-c", script];
    assert_eq!(shell.call(run).succeeds().line(), "background");
    assert_eq!(shell.call(["ps", "-q", "background"]).succeeds().text(), "p1\n");
    shell.call(["attach", "background", "p1"]).input("typed\n").exits(3);
    assert_eq!(shell.call(["logs", "background", "p1"]).succeeds().text(), "out\ngot typed\n");
    shell.call(["wait", "background", "p1"]).exits(3);

    let run = ["run", "-d", BASE, "--", "sleep", "1000"];
    let json = shell.call(run).in_json().succeeds().json();
    let id = json["vessel"].as_str().unwrap();
    assert_eq!((&json["process"]["id"], &json["process"]["status"]), (&"p1".into(), &"running".into()));
    shell.call(["rm", id]).succeeds();
    shell.assert_idle();
}

#[test]
fn run_in_the_background_makes_no_vessel_for_a_command_that_cannot_be() {
    let shell = Shell::new();
    shell.call(["run", "-d", BASE, "--", "no-such-command"]).exits(127);
    shell.call(["run", "-d", BASE, "--", "/etc"]).exits(126);
    shell.call(["run", "-d", BASE]).exits(125);
    shell.call(["run", "-d", "--rm", BASE, "--", "true"]).refused("invalid_argument");
    assert_eq!(shell.call(["ls", "-q"]).succeeds().text(), "");
    shell.assert_idle();
}

#[test]
fn start_takes_many_and_tells_what_was_not_there() {
    let shell = Shell::new();
    let (a, b) = (shell.vessel(), shell.vessel());
    let done = shell.call(["start", &a, "missing", &b]).exits(125);
    assert_eq!(done.text(), format!("{a}\n{b}\n"));
    assert!(done.complaint().contains("missing"), "{done:?}");
    for id in [&a, &b] {
        let status = shell.call(["inspect", id]).in_json().succeeds().json()["status"].clone();
        assert_eq!((&status["running"], &status["kept"]), (&true.into(), &true.into()));
    }
    assert_eq!(shell.call(["start", &a, &b]).in_json().succeeds().json(), serde_json::json!([a, b]));
    shell.call(["stop", &a, &b]).succeeds();
    shell.assert_idle();
}

#[test]
fn quiet_lists_of_snapshots_are_ids() {
    let shell = Shell::new();
    let id = shell.vessel();
    assert_eq!(shell.call(["snapshot", "ls", "-q", &id]).succeeds().text(), "");
    let snapshot = |label: &str| {
        shell.sh(&id, "date > now");
        shell.call(["snapshot", "create", &id, "--label", label]).succeeds().line()
    };
    let (a, b) = (snapshot("of=a"), snapshot("of=b"));
    for flags in [vec!["-q"], vec!["-q", "--tree"]] {
        let listed = shell.call(["snapshot", "ls", &id]).args(flags).succeeds().text();
        assert_eq!(listed, format!("{a}\n{b}\n"));
    }
    assert_eq!(
        shell.call(["snapshot", "ls", &id, "-q", "--label", "of=b"]).succeeds().text(),
        format!("{b}\n")
    );
}
