//! Limits on the command line.
#![forbid(unsafe_code)]

use serde_json::Value;

use super::{HOG, groups};
use crate::testkit::{BASE, Cap, Store, need, tests};

tests!(
    limits_are_given_shown_and_changed,
    a_command_that_ran_out_of_memory_says_so,
    a_vessel_that_is_thrown_away_leaves_no_group,
    sizes_that_make_no_sense_are_refused,
);

/// What a call that must succeed prints.
#[track_caller]
fn json(store: &Store, args: &[&str]) -> Value {
    let output = store.cli(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn limits_are_given_shown_and_changed(store: &Store) {
    store.stocked().await;
    let line = ["create", BASE, "--id", "x", "--disk", "2g", "--nofile", "99", "--timeout", "5m", "--json"];
    json(store, &line);
    let inspected = json(store, &["inspect", "x", "--json"]);
    assert_eq!(inspected["limits"]["disk"], 2u64 << 30);
    assert_eq!(inspected["limits"]["timeoutMs"], 300_000);
    assert_eq!(inspected["limits"]["memory"], Value::Null);
    assert_eq!(inspected["enforcement"], "none");
    let update = ["update", "x", "--disk", "none", "--nofile", "50", "--timeout", "1m", "--json"];
    let updated = json(store, &update);
    assert_eq!((&updated["limits"]["disk"], &updated["limits"]["nofile"]), (&Value::Null, &Value::from(50)));
    let output = store.cli(&["exec", "x", "--", "sh", "-c", "ulimit -n"]).output().unwrap();
    assert_eq!(output.stdout, b"50\n");
    let output = store.cli(&["exec", "x", "--nofile", "20", "--", "sh", "-c", "ulimit -n"]).output().unwrap();
    assert_eq!(output.stdout, b"20\n");
    let shown = store.cli(&["inspect", "x"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("nofile") && shown.contains("timeout"), "{shown}");
    let stats = json(store, &["stats", "x", "--json"]);
    assert_eq!((&stats[0]["id"], &stats[0]["running"]), (&Value::from("x"), &Value::from(false)));
    assert!(stats[0]["diskBytes"].as_u64().unwrap() > 0 && stats[0]["pids"].is_null(), "{stats}");
    let unknown = store.cli(&["stats", "nobody"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(125));
}

async fn a_command_that_ran_out_of_memory_says_so(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    store.stocked().await;
    let hog = ["--memory", "32m", "--", "sh", "-c", HOG];
    let line = ["run", "--rm", "--memory", "32m", BASE, "--", "sh", "-c", HOG];
    let output = store.cli(&line).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(137), "{told}");
    assert!(told.contains("memory") && told.contains("killed"), "{told}");
    json(store, &["create", BASE, "--id", "x", "--json"]);
    let output = store.cli(&[&["exec", "x"][..], &hog].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    assert!(String::from_utf8(output.stderr).unwrap().contains("memory"));
    let output = store.cli(&["exec", "x", "--", "sh", "-c", HOG]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "it was the limit of that command: {output:?}");
    json(store, &["update", "x", "--memory", "32m", "--json"]);
    json(store, &["start", "x", "--json"]);
    let stats = json(store, &["stats", "--json"]);
    assert_eq!((&stats[0]["source"], &stats[0]["limits"]["memory"]), (&"cgroup".into(), &(32 << 20).into()));
    assert!(stats[0]["cpuTimeUs"].is_u64() && stats[0]["memoryPeak"].is_u64(), "{stats}");
    assert!(!groups("x").is_empty());
    json(store, &["stop", "--all", "--json"]);
    assert!(groups("x").is_empty());
}

async fn a_vessel_that_is_thrown_away_leaves_no_group(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    store.stocked().await;
    let line =
        ["run", "--rm", "--id", "gone", "--pids", "40", "--cpus", "1.5", BASE, "--", "sh", "-c", "echo $0"];
    let output = store.cli(&line).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"sh\n".as_slice()), "{output:?}");
    assert!(groups("gone").is_empty());
}

async fn sizes_that_make_no_sense_are_refused(store: &Store) {
    store.stocked().await;
    for flags in [
        ["--memory", "lots"],
        ["--memory", "1k"],
        ["--cpus", "0"],
        ["--cpus", "half"],
        ["--pids", "0"],
        ["--pids", "-1"],
        ["--disk", "9999999999t"],
        ["--nofile", "1"],
        ["--timeout", "0"],
    ] {
        let output = store.cli(&[&["create", BASE, "--json"][..], &flags].concat()).output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &json["error"]["kind"]), (Some(125), &"invalid_argument".into()));
    }
    assert_eq!(json(store, &["ls", "--json"]), Value::Array(Vec::new()));
}
