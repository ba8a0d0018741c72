//! Configurations of images that no builder writes: refused, or as harmless as they are odd.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use crate::shell::{Done, Shell};
use crate::testkit::canary::Canary;
use crate::testkit::image::{Layer, base_tar, oci_layout};

/// Imports an image with this configuration and runs `command` in it.
fn run(shell: &Shell, config: &Value, command: &[&str]) -> (Done, Option<Done>) {
    let layout = shell.beside("layout");
    let links = Layer::new().symlink("link", "/proc/self/fd").symlink("up", "../../../..").finish();
    oci_layout(&layout, &[base_tar().to_vec(), links], config);
    let import = shell.call(["image", "import"]).arg(&layout).args(["--ref", "odd"]).run();
    std::fs::remove_dir_all(layout).unwrap();
    let seemly = |done: &Done| !done.complaint().contains("panicked") && done.complaint().len() < 5000;
    assert!(seemly(&import), "{import:?}");
    if import.code != 0 {
        return (import, None);
    }
    let ran = shell.call(["run", "--rm", "odd"]).args(command).run();
    assert!(seemly(&ran), "{ran:?}");
    shell.call(["image", "rm", "odd"]).succeeds();
    (import, Some(ran))
}

#[test]
fn users_of_an_image_that_are_no_users_are_not_root() {
    let shell = Shell::empty();
    for user in [
        "4294967295",
        "4294967296",
        "2147483648",
        "-1",
        "0x0",
        "root:",
        " 0",
        "99999999999",
        "nobody0",
        "1000:0:0",
    ] {
        let config = json!({"Env": ["PATH=/bin"], "User": user});
        let (_, ran) = run(&shell, &config, &["--", "id", "-u"]);
        if let Some(ran) = ran {
            assert!(ran.code != 0 || ran.stdout != b"0\n", "{user:?}: {ran:?}");
        }
    }
    shell.assert_idle();
}

#[test]
fn working_directories_of_an_image_stay_inside() {
    let shell = Shell::empty();
    let canary = Canary::new(shell.store());
    let outside = canary.victim().to_str().unwrap().to_owned();
    let climbing = format!("{}{outside}", "../".repeat(12));
    for dir in ["../..", "/../../..", "/link/8", "/proc/self/fd/8", "/up", &climbing, &outside, "relative"] {
        let config = json!({"Env": ["PATH=/bin"], "WorkingDir": dir});
        let (_, ran) =
            run(&shell, &config, &["--", "sh", "-c", "pwd; cat hello secret; echo evil > hello; ls"]);
        if let Some(ran) = ran {
            assert!(!canary.is_told_by(&ran.stdout), "{dir}: {ran:?}");
            assert!(!ran.text().contains("unreachable"), "{dir}: {ran:?}");
        }
        canary.is_unharmed();
    }
    shell.assert_idle();
}

#[test]
fn commands_and_environments_of_an_image_may_be_odd() {
    let shell = Shell::empty();
    let many: Vec<String> = (0..100_000).map(|n| format!("V{n}=x")).collect();
    for (what, config, codes) in [
        ("no command at all", json!({"Env": ["PATH=/bin"], "Entrypoint": [], "Cmd": []}), &[125][..]),
        ("a command of no name", json!({"Env": ["PATH=/bin"], "Entrypoint": [""]}), &[125, 126, 127]),
        ("a command of numbers", json!({"Cmd": [1, 2]}), &[125]),
        ("a command that is no list", json!({"Cmd": "true"}), &[125]),
        ("no PATH to search", json!({"Env": ["PATH="], "Cmd": ["true"]}), &[0, 125, 127]),
        ("a variable without a value", json!({"Env": ["PATH=/bin", "A"], "Cmd": ["true"]}), &[0, 125]),
        ("a variable without a name", json!({"Env": ["PATH=/bin", "=A"], "Cmd": ["true"]}), &[0, 125]),
        ("a NUL in a variable", json!({"Env": ["PATH=/bin", "A=b\u{0}c"], "Cmd": ["true"]}), &[0, 125]),
        ("a NUL in a command", json!({"Env": ["PATH=/bin"], "Cmd": ["true\u{0}"]}), &[125, 127]),
        ("a hundred thousand variables", json!({"Env": many, "Cmd": ["/bin/true"]}), &[0, 125, 126]),
        (
            "a check of health",
            json!({"Env": ["PATH=/bin"], "Cmd": ["true"], "Healthcheck": {"Test": ["CMD", "/x"]}}),
            &[0],
        ),
    ] {
        let (import, ran) = run(&shell, &config, &[]);
        let code = ran.as_ref().map_or(import.code, |ran| ran.code);
        assert!(codes.contains(&code), "{what}: {import:?} {ran:?}");
    }
    shell.assert_idle();
}
