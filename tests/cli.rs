//! The command line's contracts: what each verb prints, in text and in JSON, and what it leaves behind.
#![forbid(unsafe_code)]

mod habits;
mod left;
mod sessions;
mod stores;

use serde_json::Value;

use crate::shell::{BASE, Call, Shell};
use crate::testkit;
use crate::testkit::canary::Canary;

/// Field names of a vessel's manifest as it is stored.
const VESSEL_FIELDS: [&str; 8] =
    ["id", "baseImageRef", "currentSnapshotId", "workDir", "createTime", "updateTime", "labels", "snapshots"];
/// Field names of a snapshot's manifest as it is stored.
const SNAPSHOT_FIELDS: [&str; 8] =
    ["id", "vesselId", "parentId", "message", "checksum", "size", "createTime", "labels"];

fn assert_fields(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "no {field} in {value}");
    }
}

fn is_unique_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn help_and_version_need_no_store_and_make_none() {
    let shell = Shell::empty();
    let root = shell.beside("never");
    for args in [vec!["--help"], vec!["--version"], vec!["exec", "--help"], vec!["completions", "bash"]] {
        let done = Call::new(testkit::bin()).arg("--root").arg(&root).args(args).succeeds();
        assert!(!done.stdout.is_empty() && done.stderr.is_empty(), "{done:?}");
    }
    assert!(!root.exists());
}

#[test]
fn what_cannot_be_parsed_is_an_error_of_ours() {
    let bin = || Call::new(testkit::bin());
    for args in
        [vec![], vec!["fly"], vec!["create"], vec!["exec", "id"], vec!["stop"], vec!["snapshot", "ls"]]
    {
        let done = bin().args(&args).exits(125);
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{done:?}");
        if !args.is_empty() {
            let done = bin().in_json().args(&args).exits(125);
            assert_eq!(done.json()["error"]["kind"], "invalid_argument", "{done:?}");
        }
    }
}

#[test]
fn image_import_prints_the_reference_and_image_verbs_show_it() {
    let shell = Shell::empty();
    let tar = shell.base_tar();
    let reference =
        shell.call(["image", "import"]).arg(&tar).args(["--ref", "tools/box:1"]).succeeds().line();
    assert_eq!(reference, "docker.io/tools/box:1");
    let list = shell.call(["image", "ls"]).succeeds().text();
    assert!(list.contains("tools/box:1"), "{list}");
    let json = shell.call(["image", "ls"]).in_json().succeeds().json();
    assert_eq!(json.as_array().map(Vec::len), Some(1), "{json}");
    let shown = shell.call(["image", "inspect", "tools/box:1"]).in_json().succeeds().json();
    assert!(shown.to_string().contains("sha256:"), "{shown}");
    shell.call(["image", "rm", "tools/box:1"]).succeeds();
    shell.call(["image", "inspect", "tools/box:1"]).refused("not_found");
    shell.call(["image", "rm", "tools/box:1"]).refused("not_found");
    shell.assert_idle();
}

#[test]
fn an_image_in_use_is_not_removed() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["image", "rm", BASE]).refused("conflict");
    assert_eq!(shell.sh(&id, "echo here"), "here\n");
    shell.call(["rm", &id]).succeeds();
    shell.call(["image", "rm", BASE]).succeeds();
}

#[test]
fn create_prints_the_id_alone() {
    let shell = Shell::new();
    let id = shell.call(["create", BASE]).succeeds().line();
    assert!(is_unique_id(&id), "{id}");
    let given = shell.call(["create", BASE, "--id", "my.vessel-1", "--workdir", "/w"]).succeeds().line();
    assert_eq!(given, "my.vessel-1");
    shell.call(["create", BASE, "--id", "my.vessel-1"]).refused("already_exists");
    assert_eq!(shell.sh("my.vessel-1", "pwd"), "/w\n");
    shell.assert_idle();
}

#[test]
fn ls_and_inspect_show_manifests_with_their_stored_names() {
    let shell = Shell::new();
    assert_eq!(shell.call(["ls"]).in_json().succeeds().json(), serde_json::json!([]));
    let create =
        ["create", BASE, "--id", "one", "--workdir", "/w", "--label", "team=red", "--label", "k=a=b"];
    shell.call(create).succeeds();
    let list = shell.call(["ls"]).in_json().succeeds().json();
    let shown = shell.call(["inspect", "one"]).in_json().succeeds().json();
    for manifest in [&list[0], &shown] {
        assert_fields(manifest, &VESSEL_FIELDS);
        assert_eq!(manifest["id"], "one");
        assert_eq!(manifest["workDir"], "/w");
        assert_eq!(manifest["labels"], serde_json::json!({"team": "red", "k": "a=b"}));
        assert_eq!(manifest["snapshots"], serde_json::json!([]));
    }
    assert!(shell.call(["ls"]).succeeds().text().contains("one"));
    assert!(shell.call(["inspect", "one"]).succeeds().text().contains("/w"));
    shell.assert_idle();
}

#[test]
fn snapshot_verbs_print_ids_and_an_array_of_stored_manifests() {
    let shell = Shell::new();
    let id = shell.vessel();
    assert_eq!(shell.call(["snapshot", "ls", &id]).in_json().succeeds().json(), serde_json::json!([]));
    shell.sh(&id, "echo one > f");
    let first = shell.call(["snapshot", "create", &id, "-m", "the first"]).succeeds().line();
    shell.sh(&id, "echo two > f");
    let second = shell.call(["snapshot", "create", &id]).succeeds().line();
    assert!(is_unique_id(&first) && is_unique_id(&second) && first != second);
    let list = shell.call(["snapshot", "ls", &id]).in_json().succeeds().json();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    list.iter().for_each(|snapshot| assert_fields(snapshot, &SNAPSHOT_FIELDS));
    assert_eq!(list[0]["message"], "the first");
    assert_eq!(list[0]["parentId"], "");
    assert_eq!(list[1]["parentId"], first.as_str());
    assert!(list[0]["checksum"].as_str().unwrap().starts_with("sha256:"));
    shell.call(["snapshot", "restore", &id, &first]).succeeds();
    assert_eq!(shell.sh(&id, "cat f"), "one\n");
    shell.call(["snapshot", "rm", &id, &second]).succeeds();
    shell.call(["snapshot", "rm", &id, &second]).refused("not_found");
    shell.call(["snapshot", "restore", &id, &second]).refused("not_found");
    shell.call(["snapshot", "rm", &id, &first]).refused("conflict");
    shell.assert_idle();
}

#[test]
fn rm_takes_many_and_tells_what_was_not_there() {
    let shell = Shell::new();
    for id in ["a", "b", "c"] {
        shell.call(["create", BASE, "--id", id]).succeeds();
    }
    shell.call(["rm", "a", "b"]).succeeds();
    shell.call(["rm", "a"]).refused("not_found");
    shell.call(["rm", "gone", "c"]).refused("not_found");
    assert_eq!(shell.call(["ls"]).in_json().succeeds().json(), serde_json::json!([]));
    shell.call(["exec", "a", "--", "true"]).exits(125);
    shell.assert_idle();
}

#[test]
fn rm_of_a_started_vessel_ends_its_processes() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["start", &id]).succeeds();
    let running = shell.exec(&id, ["sh", "-c", "echo up > up; exec sleep 1000"]).start();
    shell.sh(&id, "while [ ! -e up ]; do sleep 0.05; done");
    shell.call(["rm", &id]).succeeds();
    assert_ne!(running.wait().code, 0);
    shell.assert_idle();
}

#[test]
fn unknown_things_are_named_in_the_error() {
    let shell = Shell::new();
    let id = shell.vessel();
    let image = shell.call(["create", "nowhere/none:9"]).refused("not_found");
    assert!(image["message"].as_str().unwrap().contains("nowhere/none:9"), "{image}");
    assert!(image["remedy"].as_str().unwrap().contains("image import"), "{image}");
    for args in [
        vec!["inspect", "unknown"],
        vec!["exec", "unknown", "--", "true"],
        vec!["start", "unknown"],
        vec!["stop", "unknown"],
        vec!["snapshot", "ls", "unknown"],
        vec!["snapshot", "create", "unknown"],
        vec!["fs", "cat", "unknown", "x"],
        vec!["cp", "unknown:/x", "/nowhere"],
    ] {
        let error = shell.call(&args).refused("not_found");
        assert!(error["message"].as_str().unwrap().contains("unknown"), "{args:?}: {error}");
    }
    let snapshot = shell.call(["snapshot", "restore", &id, "0123456789abcdef"]).refused("not_found");
    assert!(
        snapshot["message"].as_str().unwrap().contains("snapshot not found: 0123456789abcdef"),
        "{snapshot}"
    );
}

#[test]
fn invalid_ids_are_refused_by_every_verb_and_touch_nothing() {
    let shell = Shell::new();
    let canary = Canary::new(shell.store());
    let long = "a".repeat(65);
    let ids = [
        "../canary",
        "..",
        ".",
        "",
        &long,
        "a/b",
        "A",
        "ä",
        "a\nb",
        "a b",
        "/etc",
        "a..b",
        "-x",
        "%2e%2e",
        "a:b",
    ];
    for id in ids {
        for args in [
            vec!["create", BASE, "--id", id],
            vec!["rm", "--", id],
            vec!["inspect", "--", id],
            vec!["start", "--", id],
            vec!["stop", "--", id],
            vec!["snapshot", "create", "--", id],
            vec!["fs", "ls", "--", id],
        ] {
            shell.call(&args).refused("invalid_argument");
        }
    }
    let id = shell.vessel();
    for snapshot in ["../../../canary", "..", "", "a/b", &long] {
        shell.call(["snapshot", "rm", &id, "--", snapshot]).exits(125);
        shell.call(["snapshot", "restore", &id, "--", snapshot]).exits(125);
    }
    canary.is_unharmed();
    shell.assert_idle();
}

#[test]
fn invalid_references_are_refused() {
    let shell = Shell::new();
    let tar = shell.base_tar();
    for reference in [
        "",
        "Upper:t",
        "a/../b",
        "../b",
        "a//b",
        " a",
        "a\n",
        "-a",
        "http://a/b",
        "a?x",
        "user:pw@host/r",
        "a:..",
    ] {
        let import = shell.call(["image", "import"]).arg(&tar).arg(format!("--ref={reference}"));
        import.refused("invalid_argument");
        shell.call(["create", "--", reference]).refused("invalid_argument");
    }
}

#[test]
fn fs_verbs_do_what_they_say() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["fs", "write", &id, "a.txt"]).input("hello\n").succeeds();
    assert_eq!(shell.call(["fs", "cat", &id, "/work/a.txt"]).succeeds().stdout, b"hello\n");
    shell.call(["fs", "mkdir", &id, "one"]).succeeds();
    shell.call(["fs", "mkdir", &id, "one/two/three"]).refused("not_found");
    shell.call(["fs", "mkdir", "-p", &id, "one/two/three"]).succeeds();
    shell.call(["fs", "mv", &id, "a.txt", "one/b.txt"]).succeeds();
    shell.call(["fs", "cat", &id, "a.txt"]).refused("not_found");
    let names = shell.call(["fs", "ls", &id, "one"]).succeeds().text();
    assert_eq!(names, "b.txt\ntwo\n");
    let stat = shell.call(["fs", "stat", &id, "one/b.txt"]).in_json().succeeds().json();
    assert!(stat.to_string().contains("\"size\":6"), "{stat}");
    shell.call(["fs", "rm", &id, "one"]).exits(125);
    shell.call(["fs", "rm", "-r", &id, "one"]).succeeds();
    shell.call(["fs", "stat", &id, "one"]).refused("not_found");
    assert_eq!(shell.sh(&id, "ls"), "");
    shell.assert_idle();
}

#[test]
fn names_on_a_terminal_cannot_command_it() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "touch \"$(printf 'a\\033[31m\\nb')\"; touch \"$(printf 'x\\377')\"");
    let listed = shell.call(["fs", "ls", &id]).succeeds();
    assert!(!listed.stdout.contains(&0x1b), "{listed:?}");
    assert_eq!(listed.stdout.iter().filter(|&&b| b == b'\n').count(), 2, "{listed:?}");
    let missing = shell.call(["fs", "cat", &id, "\x1b[31mnone"]).exits(125);
    assert!(!missing.stderr.contains(&0x1b), "{missing:?}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "seq 1 200000 > big; mkdir many; cd many; seq 1 3000 | while read n; do : > file-with-a-long-name-$n; done");
    for args in
        [vec!["fs", "cat", &id, "big"], vec!["fs", "ls", &id, "many"], vec!["exec", &id, "--", "cat", "big"]]
    {
        let done = shell.call(&args).through("set +e; \"$@\" | head -n 1").run();
        assert_eq!(done.text().lines().count(), 1, "{done:?}");
        assert!(done.stderr.is_empty(), "{done:?}");
    }
    shell.assert_idle();
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "echo text > f");
    for args in [vec!["ls"], vec!["fs", "cat", &id, "f"], vec!["snapshot", "ls", &id], vec!["--help"]] {
        let done = shell.call(&args).through("\"$@\" > /dev/full").exits(125);
        assert!(!done.complaint().contains("panicked"), "{done:?}");
    }
}

#[test]
fn closed_standard_streams_harm_nothing() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell
        .exec(&id, ["sh", "-c", "echo x > a; ls /proc/self/fd > fds"])
        .through("\"$@\" <&- >&- 2>&-")
        .succeeds();
    assert_eq!(shell.sh(&id, "cat a"), "x\n");
    let fds = shell.sh(&id, "cat fds");
    assert!(fds.starts_with("0\n1\n2\n"), "{fds}");
    shell.call(["snapshot", "create", &id]).through("\"$@\" <&- >&- 2>&-").run();
    shell.call(["fs", "cat", &id, "a"]).through("\"$@\" <&-").succeeds();
    shell.assert_idle();
}
