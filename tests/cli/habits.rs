//! What is typed out of habit with other tools, and verbs that are given many.
#![forbid(unsafe_code)]

use crate::shell::{BASE, Call, Shell};
use crate::testkit;

#[test]
fn removing_by_force_takes_what_runs_and_minds_nothing_that_is_missing() {
    let shell = Shell::new();
    let (running, stopped) = (shell.vessel(), shell.vessel());
    shell.call(["exec", "-d", &running, "--", "sleep", "1000"]).succeeds();
    let done = shell.call(["rm", "-f", &running, "missing", &stopped]).succeeds();
    assert_eq!(done.text(), format!("{running}\n{stopped}\n"));
    assert_eq!(done.complaint(), "");
    assert_eq!(shell.call(["rm", "--force", "missing"]).in_json().succeeds().json(), serde_json::json!([]));
    assert_eq!(shell.call(["ls", "-q"]).succeeds().text(), "");
    // What is no id is a mistake all the same.
    shell.call(["rm", "-f", "../x"]).refused("invalid_argument");
    shell.assert_idle();
}

#[test]
fn each_failure_of_many_is_told() {
    let shell = Shell::new();
    let id = shell.vessel();
    let done = shell.call(["rm", "first", &id, "second"]).exits(125);
    assert_eq!(done.text(), format!("{id}\n"));
    let told = done.complaint();
    assert!(told.contains("vessel not found: first") && told.contains("vessel not found: second"), "{told}");
    let error = shell.call(["rm", "first", "second"]).refused("not_found");
    assert_eq!(error["message"], "vessel not found: first");
    assert!(error["remedy"].as_str().unwrap().contains("vesselrt ls"), "{error}");
    let done = shell.call(["image", "rm", "none:1", "none:2"]).exits(125);
    assert_eq!(done.complaint().matches("image not found").count(), 2, "{done:?}");
    shell.call(["image", "rm", BASE]).succeeds();
}

#[test]
fn verbs_of_other_tools_are_answered_with_what_is_here() {
    let bin = || Call::new(testkit::bin());
    for (typed, expected) in [
        (vec!["images"], "vesselrt image ls"),
        (vec!["ps"], "vesselrt ls"),
        (vec!["top", "x"], "vesselrt stats"),
    ] {
        let done = bin().args(&typed).exits(125);
        assert!(done.complaint().contains(expected) && done.stdout.is_empty(), "{done:?}");
        let error = bin().args(&typed).refused("invalid_argument");
        assert!(error["remedy"].as_str().unwrap().contains(expected), "{error}");
    }
    let asked = bin().args(["help", "exec"]).succeeds();
    assert_eq!(asked.stdout, bin().args(["exec", "--help"]).succeeds().stdout);
    bin().args(["help", "fly"]).refused("invalid_argument");
}

#[test]
fn what_has_no_name_is_imported_with_one_and_the_error_says_how() {
    let shell = Shell::empty();
    let tar = shell.base_tar();
    let directory = shell.beside("rootfs");
    std::fs::create_dir_all(directory.join("etc")).unwrap();
    std::fs::write(directory.join("etc/motd"), "hello").unwrap();
    for path in [&tar, &directory] {
        let error = shell.call(["image", "import"]).arg(path).refused("invalid_argument");
        assert!(error["remedy"].as_str().is_some_and(|remedy| remedy.contains("--ref")), "{error}");
        shell.import(path, "named:1");
    }
}
