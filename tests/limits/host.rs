//! Limits of the host on what vessels are made of: who meets one is told which, and what to do.
#![forbid(unsafe_code)]

use crate::shell::{BASE, Call, Shell};
use crate::testkit::{self, unprivileged};

/// Sets the limit that `$1` names to `$2`, in a user namespace of its own, then does the rest without capabilities.
const SCRIPT: &str = r#"
echo "$2" > "/proc/sys/user/max_$1_namespaces" || exit 99
shift 2
exec setpriv --ambient-caps=-all --inh-caps=-all "$@"
"#;

#[test]
fn a_host_without_namespaces_left_says_so() {
    // Root has ids there that it cannot give to others.
    if !unprivileged() {
        eprintln!("SKIP a_host_without_namespaces_left_says_so: needs an ordinary user");
        return;
    }
    let shell = Shell::empty();
    let tar = shell.base_tar();
    let within = |limit: &str, of: &str, args: &[&str]| {
        Call::new("unshare")
            .args(["--map-current-user", "--keep-caps", "sh", "-c", SCRIPT, "sh", limit, of])
            .arg(testkit::bin())
            .arg("--root")
            .arg(shell.beside("with-one-id"))
            .args(args)
    };
    within("user", "99", &["image", "import", tar.to_str().unwrap(), "--ref", BASE]).succeeds();
    within("user", "99", &["create", BASE, "--id", "v"]).succeeds();
    let exec = ["--json", "exec", "v", "--", "true"];
    within("user", "99", &exec).succeeds();
    for (limit, of, kind, remedy) in [
        ("user", "0", "unsupported", "max_user_namespaces"),
        ("mnt", "1", "limit_exceeded", "user.max_mnt_namespaces"),
        ("pid", "1", "limit_exceeded", "stop vessels"),
        ("net", "0", "limit_exceeded", "stop vessels"),
        ("ipc", "0", "limit_exceeded", "stop vessels"),
        ("uts", "0", "limit_exceeded", "stop vessels"),
    ] {
        let done = within(limit, of, &exec).exits(125);
        let error = &done.json()["error"];
        assert_eq!(error["kind"], kind, "{limit}: {done:?}");
        assert!(error["remedy"].as_str().is_some_and(|text| text.contains(remedy)), "{limit}: {done:?}");
    }
    within("user", "99", &exec).succeeds();
    shell.assert_idle();
}

#[test]
fn a_process_without_descriptors_left_is_told_to_raise_its_limit() {
    let shell = Shell::new();
    let id = shell.vessel();
    let call = shell.call(["exec", &id, "--", "true"]).in_json();
    let done = call.through("ulimit -n 14; exec \"$@\"").exits(125);
    let error = &done.json()["error"];
    assert_eq!(error["kind"], "limit_exceeded", "{done:?}");
    assert!(error["remedy"].as_str().is_some_and(|text| text.contains("ulimit -n")), "{done:?}");
    shell.exec(&id, ["true"]).succeeds();
    shell.assert_idle();
}
