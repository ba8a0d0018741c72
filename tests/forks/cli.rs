//! `fork`, `du`, `gc` and the verbs of snapshots that go with them, as typed.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use crate::shell::Shell;

fn ids(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn snapshot(shell: &Shell, id: &str, message: &str) -> String {
    shell.sh(id, &format!("echo {message} > state"));
    shell.call(["snapshot", "create", id, "-m", message]).succeeds().line()
}

#[test]
fn fork_prints_ids_and_an_array_of_manifests() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "echo begin > state");
    let fork = shell.call(["fork", &id]).succeeds().line();
    assert_eq!(shell.sh(&fork, "cat state; echo mine > state"), "begin\n");
    assert_eq!(shell.sh(&id, "cat state"), "begin\n");
    let named = ["fork", &id, "--id", "left", "--id", "right", "--label", "task=42"];
    assert_eq!(ids(&shell.call(named).succeeds().text()), ["left", "right"]);
    let list = shell.call(["fork", &fork, "-n", "3", "-m", "said"]).in_json().succeeds().json();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 3);
    for manifest in list {
        assert_eq!(manifest["snapshots"][1]["message"], "said");
        assert_eq!(manifest["snapshots"][1]["vesselId"], manifest["id"]);
        assert_eq!(shell.sh(manifest["id"].as_str().unwrap(), "cat state"), "mine\n");
    }
    let left = shell.call(["inspect", "left"]).in_json().succeeds().json();
    assert_eq!(left["labels"], json!({ "task": "42" }));
    let first = left["snapshots"][0]["id"].as_str().unwrap();
    let earlier = shell.call(["fork", "left", "--from", first]).succeeds().line();
    assert_eq!(shell.sh(&earlier, "cat state"), "begin\n");
    shell.call(["fork", &id, "--id", "left"]).refused("already_exists");
    shell.call(["fork", &id, "--id", "Bad"]).refused("invalid_argument");
    shell.call(["fork", &id, "-n", "0"]).refused("invalid_argument");
    shell.call(["fork", &id, "--from", "none"]).refused("not_found");
    shell.call(["fork", "none"]).refused("not_found");
    shell.assert_idle();
}

#[test]
fn snapshots_are_shown_as_a_tree_and_chosen_by_label() {
    let shell = Shell::new();
    let id = shell.vessel();
    let [a, b, c] = ["a", "b", "c"].map(|message| snapshot(&shell, &id, message));
    shell.call(["snapshot", "restore", &id, &a]).succeeds();
    let d = snapshot(&shell, &id, "d");
    let tree = shell.call(["snapshot", "ls", &id, "--tree"]).succeeds().text();
    let lines: Vec<&str> = tree.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(lines[..2], ["SNAPSHOT", a.as_str()]);
    assert!(tree.contains(&format!("├─ {b}")) && tree.contains(&format!("│  {c}")), "{tree}");
    assert!(tree.contains(&format!("└─ {d} *")), "{tree}");
    let set = ["snapshot", "label", &id, &b, "tests=passed", "step=2"];
    assert_eq!(shell.call(set).succeeds().text(), "step=2\ntests=passed\n");
    shell.call(["snapshot", "label", &id, &c, "tests=failed"]).succeeds();
    let changed = shell.call(["snapshot", "label", &id, &b, "step-"]).in_json().succeeds().json();
    assert_eq!((&changed["labels"], &changed["id"]), (&json!({ "tests": "passed" }), &json!(b)));
    assert_eq!(shell.call(["snapshot", "label", &id, &b]).succeeds().line(), "tests=passed");
    let chosen = |label: &str| {
        let list = shell.call(["snapshot", "ls", &id, "--label", label]).in_json().succeeds().json();
        list.as_array().unwrap().iter().map(|s| s["message"].as_str().unwrap().to_owned()).collect::<String>()
    };
    assert_eq!(
        (chosen("tests"), chosen("tests=passed"), chosen("none")),
        ("bc".into(), "b".into(), String::new())
    );
    let table = shell.call(["snapshot", "ls", &id]).succeeds().text();
    assert!(table.lines().next().unwrap().ends_with("LABELS") && table.contains("tests=failed"), "{table}");
    let labelled = ["snapshot", "create", &id, "--label", "x=1", "--label", "y"];
    let made = shell.call(labelled).in_json().succeeds().json();
    assert_eq!(made["labels"], json!({ "x": "1", "y": "" }));
    shell.call(["snapshot", "create", &id, "--label", "vesselrt.x=1"]).refused("invalid_argument");
    assert_eq!(shell.call(["snapshot", "ls", &id, "--label", "y="]).in_json().succeeds().json()[0], made);
    shell.call(["snapshot", "label", &id, "none"]).refused("not_found");
    shell.call(["snapshot", "label", &id, &b, "vesselrt.unnamed="]).refused("invalid_argument");
}

#[test]
fn snapshots_are_removed_with_others_or_without() {
    let shell = Shell::new();
    let id = shell.vessel();
    let made = ["a", "b", "c", "d"].map(|message| snapshot(&shell, &id, message));
    let [a, b, c, d] = made.each_ref();
    let refused = shell.call(["snapshot", "rm", &id, b]).refused("conflict");
    let remedy = refused["remedy"].as_str().unwrap();
    assert!(remedy.contains("--recursive") && remedy.contains("--squash"), "{refused}");
    shell.call(["snapshot", "rm", &id, b, "--recursive", "--squash"]).refused("invalid_argument");
    assert_eq!(shell.call(["snapshot", "rm", &id, b, "--squash"]).succeeds().line(), *b);
    let listed = shell.call(["snapshot", "ls", &id]).in_json().succeeds().json();
    let parents: Vec<(&Value, &Value)> =
        listed.as_array().unwrap().iter().map(|s| (&s["id"], &s["parentId"])).collect();
    assert_eq!(parents, [(&json!(a), &json!("")), (&json!(c), &json!(a)), (&json!(d), &json!(c))]);
    shell.call(["snapshot", "rm", &id, c, "--recursive"]).refused("conflict");
    let gone = shell.call(["snapshot", "rm", &id, c, "--recursive", "--force"]).in_json().succeeds().json();
    assert_eq!(gone, json!([c, d]));
    assert_eq!(shell.sh(&id, "cat state"), "a\n");
}

#[test]
fn old_snapshots_are_pruned() {
    let shell = Shell::new();
    let id = shell.vessel();
    let made = ["a", "b", "c"].map(|message| snapshot(&shell, &id, message));
    shell.call(["snapshot", "prune", &id]).refused("invalid_argument");
    shell.call(["snapshot", "prune", &id, "--older-than", "soon"]).refused("invalid_argument");
    assert_eq!(
        shell.call(["snapshot", "prune", &id, "--keep-last", "0", "--older-than", "1w"]).succeeds().text(),
        ""
    );
    let prune = ["snapshot", "prune", &id, "--keep-last", "1", "--squash"];
    let dry = shell.call(prune).arg("--dry-run").in_json().succeeds().json();
    assert_eq!(dry, json!({ "deleted": [], "squashed": [made[0], made[1]] }));
    assert_eq!(ids(&shell.call(prune).succeeds().text()), made[..2]);
    assert_eq!(shell.call(["snapshot", "ls", &id]).in_json().succeeds().json().as_array().unwrap().len(), 1);
    assert_eq!(shell.sh(&id, "cat state"), "c\n");
}

#[test]
fn du_has_a_row_for_each_vessel_and_one_for_each_snapshot() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "head -c 2000000 /dev/urandom > big");
    let made = snapshot(&shell, &id, "a");
    let fork = shell.call(["fork", &id]).succeeds().line();
    let all = shell.call(["du"]).succeeds().text();
    assert!(all.starts_with("ID") && all.contains(&fork) && all.contains("together: "), "{all}");
    let one = shell.call(["du", &id]).succeeds().text();
    let row = one.lines().find(|line| line.starts_with(&made)).unwrap();
    assert!(row.ends_with("shared") && row.contains("2.0 MB"), "{one}");
    let json = shell.call(["du"]).in_json().succeeds().json();
    let vessel =
        json["vessels"].as_array().unwrap().iter().find(|vessel| vessel["id"] == id.as_str()).unwrap();
    for field in ["writable", "own", "shared", "archive", "image"] {
        assert!(vessel[field].is_u64(), "{field} of {vessel}");
    }
    for field in ["id", "layer", "archive", "shared", "named"] {
        assert!(!vessel["snapshots"][0][field].is_null(), "{field} of {vessel}");
    }
    for field in ["writable", "layers", "archives", "images", "unreferenced"] {
        assert!(json["total"][field].is_u64(), "{field} of {json}");
    }
    assert!(vessel["shared"].as_u64().unwrap() >= 2_000_000);
    shell.call(["du", "none"]).refused("not_found");
    assert_eq!(shell.call(["gc"]).in_json().succeeds().json(), json!({}));
    assert_eq!(shell.call(["gc"]).succeeds().text(), "");
    assert_eq!(shell.sh(&fork, "wc -c < big"), "2000000\n");
    shell.assert_idle();
}
