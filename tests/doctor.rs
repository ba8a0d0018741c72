//! `doctor` and `completions`.
#![forbid(unsafe_code)]

use crate::shell::{Call, Shell};
use crate::testkit;

#[test]
fn doctor_finds_a_host_that_can_run_vessels() {
    let shell = Shell::empty();
    let done = shell.call(["doctor"]).succeeds();
    let text = done.text();
    for word in
        ["user namespaces", "overlay", "subordinate", "fuse", "control groups", "pasta", "device", "space"]
    {
        assert!(text.to_lowercase().contains(word), "nothing of {word} in {text}");
    }
    shell.assert_idle();
}

#[test]
fn doctor_in_json_has_a_remedy_for_whatever_is_not_right() {
    let shell = Shell::empty();
    let json = shell.call(["doctor"]).in_json().succeeds().json();
    let checks = json.as_array().or_else(|| json["checks"].as_array()).unwrap_or_else(|| panic!("{json}"));
    assert!(checks.len() >= 8, "{json}");
    for check in checks {
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "warn", "fail"].contains(&status.to_lowercase().as_str()), "{check}");
        assert!(
            check["id"].is_string() && check["title"].is_string() && check["found"].is_string(),
            "{check}"
        );
        if status.to_lowercase() != "ok" {
            assert!(check["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{check}");
        }
    }
}

#[test]
fn doctor_changes_nothing_in_a_store() {
    let shell = Shell::new();
    let id = shell.vessel();
    let before = testkit::canary::manifest(&shell.root().join("data"));
    shell.call(["doctor"]).succeeds();
    assert_eq!(testkit::canary::manifest(&shell.root().join("data")), before);
    assert_eq!(shell.sh(&id, "echo fine"), "fine\n");
}

#[test]
fn doctor_explains_a_store_that_cannot_be_used() {
    let shell = Shell::empty();
    let file = shell.file("file", b"in the way");
    let done = Call::new(testkit::bin()).arg("--root").arg(&file).arg("doctor").run();
    assert_ne!(done.code, 0, "{done:?}");
    assert!(!done.complaint().contains("panicked"), "{done:?}");
    assert_eq!(std::fs::read(file).unwrap(), b"in the way");
}

#[test]
fn completions_are_scripts_of_each_shell() {
    let shell = Shell::empty();
    for (name, word) in [
        ("bash", "_vesselrt"),
        ("zsh", "#compdef"),
        ("fish", "complete -c vesselrt"),
        ("elvish", "vesselrt"),
        ("powershell", "vesselrt"),
    ] {
        let text = shell.call(["completions", name]).succeeds().text();
        assert!(text.contains(word) && text.contains("snapshot"), "{name}: {text}");
        if name == "bash" {
            Call::new("bash").args(["-n", "-c", &text]).succeeds();
        }
    }
    shell.call(["completions", "tcsh"]).refused("invalid_argument");
    assert!(!shell.root().exists());
}
