use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::CommandFactory;

use super::*;

fn parse(line: &[&str]) -> Verb {
    Cli::try_parse_from(std::iter::once(&"vesselrt").chain(line)).unwrap().verb
}

fn refused(line: &[&str]) -> bool {
    Cli::try_parse_from(std::iter::once(&"vesselrt").chain(line)).is_err()
}

fn exec_command(line: &[&str]) -> Vec<OsString> {
    match parse(line) {
        Verb::Exec(exec) => exec.command().to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_of_the_contract_is_there() {
    for line in [
        &["image", "import", "x.tar", "--ref", "a:1"][..],
        &["image", "ls"],
        &["image", "inspect", "a:1"],
        &["image", "rm", "a:1"],
        &["create", "a:1", "--id", "x", "--workdir", "/w", "--label", "k=v", "--label", "l"],
        &["ls"],
        &["inspect", "x"],
        &["rm", "x", "y"],
        &[
            "exec",
            "x",
            "--ephemeral",
            "-w",
            "d",
            "-e",
            "K=V",
            "-u",
            "0",
            "-i",
            "-t",
            "--timeout",
            "30s",
            "--",
            "true",
        ],
        &["run", "--rm", "a:1", "--", "true"],
        &["run", "a:1"],
        &["start", "x"],
        &["stop", "x", "y"],
        &["stop", "--all"],
        &["cp", "a", "x:/b"],
        &["cp", "-", "x:/b"],
        &["fs", "cat", "x", "a", "b"],
        &["fs", "write", "x", "a"],
        &["fs", "ls", "x"],
        &["fs", "ls", "-l", "x", "a"],
        &["fs", "stat", "x", "a"],
        &["fs", "mkdir", "-p", "x", "a"],
        &["fs", "rm", "-r", "x", "a"],
        &["fs", "mv", "x", "a", "b"],
        &["snapshot", "create", "x"],
        &["snapshot", "create", "x", "-m", "m"],
        &["snapshot", "ls", "x"],
        &["snapshot", "restore", "x", "s"],
        &["snapshot", "rm", "x", "s"],
        &["doctor"],
        &["demo", "--image", "a:1", "--keep"],
        &["completions", "bash"],
        &["--root", "/r", "--json", "ls"],
        &["ls", "--json", "--root", "/r"],
        &["--driver", "kernel", "create", "a:1"],
    ] {
        let _ = parse(line);
    }
}

#[test]
fn every_verb_about_processes_is_there() {
    for line in [
        &["exec", "-d", "-i", "--log-size", "1m", "x", "--", "true"][..],
        &["ps", "x"],
        &["ps", "-q", "x"],
        &["ps", "x", "--prune"],
        &["logs", "x", "p1", "-f", "--stdout", "--tail", "5"],
        &["logs", "x", "p1", "--stderr", "--since", "10m"],
        &["logs", "x", "p1", "--offset", "77", "--json"],
        &["attach", "x", "p1", "--offset", "7", "--no-stdin"],
        &["kill", "x", "p1", "p2", "-s", "KILL"],
        &["wait", "x", "p1"],
    ] {
        let _ = parse(line);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for line in [
        &[][..],
        &["stop"],
        &["stop", "--all", "x"],
        &["rm"],
        &["exec", "x"],
        &["exec", "x", "--timeout", "0s", "--", "true"],
        &["exec", "x", "-e", "=v", "--", "true"],
        &["exec", "x", "--log-size", "1m", "--", "true"],
        &["exec", "-d", "x", "--log-size", "1", "--", "true"],
        &["logs", "x"],
        &["logs", "x", "p1", "--tail", "5", "--offset", "7"],
        &["logs", "x", "p1", "--since", "yesterday"],
        &["kill", "x"],
        &["kill", "x", "p1", "-s", "NONE"],
        &["wait", "x"],
        &["create", "a:1", "--label", "=v"],
        &["fs", "mv", "x", "a"],
        &["--driver", "zfs", "ls"],
        &["-q", "-v", "ls"],
    ] {
        assert!(refused(line), "{line:?}");
    }
}

#[test]
fn what_comes_after_the_dashes_is_the_command_s_alone() {
    assert_eq!(exec_command(&["exec", "x", "--", "ls", "-la", "--json"]), ["ls", "-la", "--json"]);
    assert_eq!(exec_command(&["exec", "x", "--", "a", "--", "b"]), ["a", "--", "b"]);
    assert_eq!(exec_command(&["exec", "x", "--", "-weird"]), ["-weird"]);
    // The dashes may be left out where the command does not begin with one.
    assert_eq!(exec_command(&["exec", "x", "ls", "-t", "--timeout"]), ["ls", "-t", "--timeout"]);
    assert_eq!(exec_command(&["exec", "-i", "x", "ls"]), ["ls"]);
}

#[test]
fn a_command_need_not_be_utf8() {
    let odd = OsString::from_vec(vec![b'a', 0xff]);
    let line = [OsString::from("vesselrt"), "exec".into(), "x".into(), "--".into(), odd.clone()];
    match Cli::try_parse_from(line).unwrap().verb {
        Verb::Exec(exec) => assert_eq!(exec.command(), [odd]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_complaint_is_told_without_the_usage() {
    let error = Cli::try_parse_from(["vesselrt", "--driver", "zfs", "ls"]).unwrap_err();
    let text = first_paragraph(&error.to_string());
    assert!(text.starts_with("invalid value 'zfs'") && !text.contains("Usage"), "{text}");
}

#[test]
fn a_run_is_recognised_before_it_is_parsed() {
    let is = |line: &str| is_run(line.split_whitespace().map(OsString::from));
    for line in ["run a:1", "--json run --rm a:1 -- ls", "--root run run a:1", "--root=/r -q run a:1 ls -l"] {
        assert!(is(line), "{line}");
    }
    for line in
        ["", "--version", "--root", "exec run -- ls", "--root run exec x -- ls", "run --help", "run -h"]
    {
        assert!(!is(line), "{line}");
    }
}
