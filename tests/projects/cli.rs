//! `vesselrt project …`.
#![forbid(unsafe_code)]

use std::process::Output;

use serde_json::Value;

use crate::testkit::{BASE, Store, tests, wait_until};

tests!(
    each_verb_prints_what_it_did,
    each_verb_has_json,
    an_exec_has_the_exit_code_of_the_command,
    errors_have_kinds_and_125,
);

fn call(store: &Store, args: &[&str]) -> Output {
    let mut all = vec!["project"];
    all.extend(args);
    store.cli(&all).output().unwrap()
}

#[track_caller]
fn text(store: &Store, args: &[&str]) -> String {
    let output = call(store, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(store: &Store, args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.insert(1, "--json");
    serde_json::from_str(&text(store, &all)).unwrap()
}

const CREATE: [&str; 5] = ["create", "--image", BASE, "--network", "none"];

async fn each_verb_prints_what_it_did(store: &Store) {
    store.stocked().await;
    let mut create = CREATE.to_vec();
    create.extend([
        "--description",
        "a shop",
        "-e",
        "K=v",
        "web",
        "--",
        "sh",
        "-c",
        "echo begun; exec sleep 999",
    ]);
    assert_eq!(text(store, &create), "web\n");
    let listed = text(store, &["ls"]);
    assert!(
        listed.starts_with("NAME") && listed.contains("web   running") && listed.contains("a shop"),
        "{listed}"
    );
    assert_eq!(text(store, &["ls", "-q"]), "web\n");
    let shown = text(store, &["get", "web"]);
    assert!(shown.contains("K=v") && shown.contains("echo begun") && shown.contains(BASE), "{shown}");
    assert!(text(store, &["status", "web"]).contains("running"));
    wait_until("it is logged", || text(store, &["logs", "web"]) == "begun\n");
    assert_eq!(text(store, &["logs", "web", "--tail", "1"]), "begun\n");
    assert_eq!(
        text(store, &["exec", "web", "-e", "L=w", "--", "sh", "-c", "echo $K $L; pwd"]),
        "v w\n/workspace\n"
    );
    let path = text(store, &["path", "web"]);
    assert!(path.trim_end().ends_with("vega.work/projects/web"), "{path}");
    assert_eq!(text(store, &["stop", "web"]), "web\n");
    assert!(text(store, &["status", "web"]).contains("stopped"));
    assert_eq!(text(store, &["start", "web"]), "web\n");
    store.cli(&["stop", "vega-web"]).output().unwrap();
    assert!(text(store, &["reconcile"]).contains("web   stopped"));
    assert_eq!(text(store, &["archive-stale"]), "");
    create.insert(1, "--if-missing");
    assert_eq!(text(store, &create), "web\n");
    assert!(text(store, &["status", "web"]).contains("running"));
    assert_eq!(text(store, &["rm", "web"]), "web\n");
    assert_eq!(text(store, &["ls", "-q"]), "");
    assert!(std::path::Path::new(path.trim_end()).is_dir());
}

async fn each_verb_has_json(store: &Store) {
    store.stocked().await;
    let mut create = CREATE.to_vec();
    create.push("web");
    let created = json(store, &create);
    assert_eq!((&created["name"], &created["status"]), (&"web".into(), &"running".into()));
    assert_eq!(json(store, &["get", "web"]), created);
    assert_eq!(json(store, &["ls"]), Value::Array(vec![created]));
    let status = json(store, &["status", "web"]);
    assert_eq!((&status["containerId"], &status["running"]), (&"vega-web".into(), &true.into()));
    let done = json(store, &["exec", "web", "--", "echo", "hi"]);
    assert_eq!(done, serde_json::json!({"exitCode": 0, "stdout": "hi\n", "stderr": "", "truncated": false}));
    assert_eq!(json(store, &["logs", "web"]), serde_json::json!({"logs": ""}));
    assert!(json(store, &["path", "web"])["path"].as_str().unwrap().ends_with("/web"));
    assert_eq!(json(store, &["stop", "web"]), serde_json::json!(["web"]));
    assert_eq!(json(store, &["reconcile"])[0]["status"], "stopped");
    assert_eq!(json(store, &["archive-stale"]), serde_json::json!([]));
    assert_eq!(json(store, &["rm", "web"]), serde_json::json!(["web"]));
}

async fn an_exec_has_the_exit_code_of_the_command(store: &Store) {
    store.stocked().await;
    let mut create = CREATE.to_vec();
    create.push("web");
    text(store, &create);
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)] {
        let output = call(store, &["exec", "web", "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let output = call(store, &["--json", "exec", "web", "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
    let output = call(store, &["exec", "web", "--", "no-such-program"]);
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    let output = call(store, &["exec", "web", "--timeout", "300ms", "--", "sleep", "50"]);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    text(store, &["rm", "web"]);
}

async fn errors_have_kinds_and_125(store: &Store) {
    store.stocked().await;
    let mut create = CREATE.to_vec();
    create.push("../x");
    for (args, kind) in [
        (create, "invalid_argument"),
        (vec!["get", "nobody"], "not_found"),
        (vec!["start", "nobody"], "not_found"),
        (vec!["logs", "nobody"], "not_found"),
        (vec!["exec", "nobody", "--", "true"], "not_found"),
        (vec!["fly"], "invalid_argument"),
    ] {
        let mut all = vec!["--json"];
        all.extend(&args);
        let output = call(store, &all);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(error["error"]["kind"], kind, "{args:?}: {error}");
    }
    // Where no vessel can be, nothing runs unless that is asked for by name.
    let mut create = store.cli(&["project", "create", "web"]);
    let output = create.env("VESSELRT_ROOT", "/dev/null").output().unwrap();
    assert!(output.status.success() && !output.stderr.is_empty(), "{output:?}");
    let exec = |more: &[&str]| {
        let mut args = vec!["project", "exec", "web"];
        args.extend(more);
        args.extend(["--", "sh", "-c", "echo here; exit 5"]);
        store.cli(&args).env("VESSELRT_ROOT", "/dev/null").output().unwrap()
    };
    let refused = exec(&[]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(125) && told.contains("not available - use direct mode"), "{told}");
    let local = exec(&["--local-fallback"]);
    assert_eq!((local.status.code(), local.stdout.as_slice()), (Some(5), b"here\n".as_slice()), "{local:?}");
}
