//! `exec` and `run`: exit codes, streams, environment, directories, users, time, signals.
#![forbid(unsafe_code)]

pub(crate) mod pty;
mod quick;
mod signals;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::shell::{BASE, Shell};
use crate::testkit::image::{base_tar, oci_layout};
use crate::testkit::{Cap, need};

#[test]
fn the_exit_code_is_the_commands_own() {
    let shell = Shell::new();
    let id = shell.vessel();
    for code in [0, 1, 2, 7, 100, 124, 125, 126, 127, 255] {
        shell.exec(&id, ["sh", "-c", &format!("exit {code}")]).exits(code);
    }
}

#[test]
fn exit_codes_tell_what_kept_a_command_from_ending_by_itself() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(
        &id,
        "echo 'not a program' > data; printf '#!/nowhere/sh\\n' > script; chmod 755 script; mkdir dir",
    );
    shell.exec(&id, ["no-such-command"]).exits(127);
    shell.exec(&id, ["/bin/no-such-command"]).exits(127);
    shell.exec(&id, ["./script"]).exits(127);
    shell.exec(&id, ["./data"]).exits(126);
    shell.exec(&id, ["./dir"]).exits(126);
    shell.exec(&id, ["/etc/passwd/x"]).run();
    for signal in [1, 2, 6, 9, 11, 15] {
        shell.exec(&id, ["sh", "-c", &format!("kill -{signal} $$")]).exits(128 + signal);
    }
    shell.call(["exec", "--timeout", "300ms", &id, "--", "sleep", "1000"]).exits(124);
    shell.call(["exec", "unknown", "--", "true"]).exits(125);
    shell.assert_idle();
}

#[test]
fn failures_to_start_are_told_in_json_with_their_exit_code() {
    let shell = Shell::new();
    let id = shell.vessel();
    let missing = shell.exec(&id, ["no-such-command"]).in_json().exits(127);
    assert_eq!(missing.json()["error"]["kind"], "not_found", "{missing:?}");
    assert!(missing.json()["error"]["message"].as_str().unwrap().contains("no-such-command"));
    let denied = shell.exec(&id, ["/etc/passwd"]).in_json().exits(126);
    assert_eq!(denied.json()["error"]["kind"], "permission_denied", "{denied:?}");
}

#[test]
fn output_goes_where_it_was_written_to() {
    let shell = Shell::new();
    let id = shell.vessel();
    let done = shell.exec(&id, ["sh", "-c", "echo out; echo err >&2; exit 3"]).exits(3);
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let files = [shell.beside("out"), shell.beside("err")];
    let script = format!("\"$@\" > '{}' 2> '{}'", files[0].display(), files[1].display());
    shell.exec(&id, ["sh", "-c", "echo out; echo err >&2; exit 3"]).through(&script).exits(3);
    assert_eq!(files.map(|file| std::fs::read(file).unwrap()), [b"out\n", b"err\n"]);
}

#[test]
fn ten_megabytes_come_out_whole() {
    let shell = Shell::new();
    let id = shell.vessel();
    let script = "yes 0123456789abcde | head -c 10485760; yes fedcba987654321 | head -c 10485760 >&2";
    let done = shell.exec(&id, ["sh", "-c", script]).succeeds();
    assert_eq!((done.stdout.len(), done.stderr.len()), (10 << 20, 10 << 20));
    assert!(done.stdout.chunks(16).all(|line| line == b"0123456789abcde\n"));
    assert!(done.stderr.chunks(16).all(|line| line == b"fedcba987654321\n"));
    let into_file = shell.beside("big");
    shell.exec(&id, ["sh", "-c", script]).through(&format!("\"$@\" > '{}'", into_file.display())).succeeds();
    assert_eq!(std::fs::metadata(into_file).unwrap().len(), 10 << 20);
}

#[test]
fn standard_input_is_passed_on_only_when_asked_for() {
    let shell = Shell::new();
    let id = shell.vessel();
    assert_eq!(shell.exec(&id, ["cat"]).input("not for you").succeeds().text(), "");
    let given = shell.call(["exec", "-i", &id, "--", "cat"]).input("for you").succeeds();
    assert_eq!(given.text(), "for you");
    let big = vec![b'x'; 3 << 20];
    let counted = shell.call(["exec", "-i", &id, "--", "wc", "-c"]).input(big).succeeds();
    assert_eq!(counted.text().trim(), (3 << 20).to_string());
    let file = File::open(shell.file("input", b"from a file\n")).unwrap();
    assert_eq!(shell.call(["exec", "-i", &id, "--", "cat"]).stdin(file).succeeds().text(), "from a file\n");
    let early =
        shell.call(["exec", "-i", &id, "--", "head", "-c", "1"]).input(vec![b'y'; 5 << 20]).succeeds();
    assert_eq!(early.text(), "y");
}

#[test]
fn a_file_or_directory_of_the_host_never_enters_as_a_descriptor() {
    let shell = Shell::new();
    let id = shell.vessel();
    let script = "for fd in 0 1 2; do [ -p /proc/self/fd/$fd ] || [ -c /proc/self/fd/$fd ] || \
                  { readlink /proc/self/fd/$fd > leak; }; done; ls /proc/self/fd | tr '\\n' ' ' > list";
    let into = shell.beside("out");
    let file = File::open(shell.file("input", b"content")).unwrap();
    let call = shell.call(["exec", "-i", &id, "--", "sh", "-c", script]).stdin(file);
    let redirected = format!("\"$@\" > '{0}' 2> '{0}.err'", into.display());
    call.through(&redirected).succeeds();
    let many = "exec 5</etc 6</ 7</etc/passwd 8</proc/self; LISTEN_FDS=5 LISTEN_PID=$$ exec \"$@\"";
    shell.call(["exec", &id, "--", "sh", "-c", script]).through(many).succeeds();
    assert_eq!(shell.sh(&id, "ls; cat list"), "list\n0 1 2 3 ");
}

#[test]
fn arguments_reach_the_command_as_they_are() {
    let shell = Shell::new();
    let id = shell.vessel();
    let odd = ["-x", "--json", "--", "", " ", "a\nb", "$HOME", "*", "'\"\\", "--root=/x", "ä"];
    let done = shell.exec(&id, ["printf", "%s|"]).args(odd).succeeds();
    assert_eq!(done.text(), odd.map(|arg| format!("{arg}|")).concat());
    let bytes = OsStr::from_bytes(b"\xff\xfe=\x01");
    assert_eq!(shell.exec(&id, ["printf", "%s"]).arg(bytes).succeeds().stdout, bytes.as_bytes());
    let name = OsStr::from_bytes(b"f\xff");
    shell.exec(&id, ["touch"]).arg(name).succeeds();
    assert_eq!(shell.sh(&id, "printf '%s' f* | od -An -tx1").trim(), "66 ff");
    // Without `--` the command begins at its first word.
    assert_eq!(shell.call(["exec", &id, "echo", "-n", "--timeout"]).succeeds().text(), "--timeout");
    let long = "x".repeat(100_000);
    assert_eq!(shell.exec(&id, ["printf", "%s", &long]).succeeds().stdout.len(), long.len());
}

#[test]
fn the_environment_is_the_images_and_what_was_asked_for() {
    let shell = Shell::new();
    let id = shell.vessel();
    let plain =
        shell.exec(&id, ["env"]).env("SECRET_OF_THE_HOST", "x").env("LD_PRELOAD", "").succeeds().text();
    assert!(!plain.contains("SECRET_OF_THE_HOST"), "{plain}");
    assert!(plain.contains("PATH="), "{plain}");
    let file = shell.file("env", b"# comment\n\nFROM_FILE=file\nBOTH=file\nINHERITED\n");
    let flags = [
        "-e",
        "A=1",
        "-e",
        "EMPTY=",
        "-e",
        "HOST",
        "-e",
        "NOT_SET",
        "-e",
        "A=2",
        "-e",
        "BOTH=flag",
        "-e",
        "L=a\nb=c",
    ];
    let call = shell.call(["exec", &id, "--env-file"]).arg(&file).args(flags).args(["--", "env"]);
    let text = call.env("HOST", "from here").env("INHERITED", "too").without_env("NOT_SET").succeeds().text();
    for line in
        ["A=2", "EMPTY=", "HOST=from here", "FROM_FILE=file", "BOTH=flag", "INHERITED=too", "L=a", "b=c"]
    {
        assert!(text.lines().any(|found| found == line), "no {line:?} in {text}");
    }
    assert!(!text.contains("NOT_SET") && !text.contains("A=1"), "{text}");
    shell.call(["exec", &id, "-e", "=B", "--", "env"]).refused("invalid_argument");
    shell.call(["exec", &id, "--env-file", "/nowhere/env", "--", "env"]).refused("not_found");
}

#[test]
fn a_library_to_preload_is_for_the_command_alone() {
    let shell = Shell::new();
    let id = shell.vessel();
    let done = shell
        .call(["exec", &id, "-e", "LD_PRELOAD=/evil.so", "--", "sh", "-c", "echo $LD_PRELOAD"])
        .succeeds();
    assert_eq!((done.text().as_str(), done.complaint().as_str()), ("/evil.so\n", ""));
}

#[test]
fn the_directory_is_the_vessels_or_the_one_that_was_asked_for() {
    let shell = Shell::new();
    let id = shell.vessel();
    let pwd = |dir: &str| shell.call(["exec", "-w", dir, &id, "--", "pwd"]).succeeds().text();
    assert_eq!(shell.exec(&id, ["pwd"]).succeeds().text(), "/work\n");
    assert_eq!(pwd("/tmp"), "/tmp\n");
    assert_eq!(pwd("sub/dir"), "/work/sub/dir\n");
    assert_eq!(pwd("/new/one"), "/new/one\n");
    assert_eq!(pwd("../../../.."), "/\n");
    shell.sh(&id, "echo x > file");
    shell.call(["exec", "-w", "file", &id, "--", "pwd"]).exits(125);
}

#[test]
fn a_working_directory_cannot_be_a_descriptor_of_ours() {
    let shell = Shell::new();
    let id = shell.vessel();
    for fd in 3..20 {
        let call =
            shell.call(["exec", "-w", &format!("/proc/self/fd/{fd}"), &id, "--", "sh", "-c", "pwd; ls /"]);
        let done = call.through("exec 5</etc 6</ 7</root; exec \"$@\"").run();
        assert_ne!(done.code, 0, "{done:?}");
    }
    shell.sh(&id, "ln -s /proc/self/fd/7 seven; ln -s /proc/1/cwd one");
    for link in ["seven", "one"] {
        assert_ne!(shell.call(["exec", "-w", link, &id, "--", "ls", "."]).run().code, 0);
    }
}

#[test]
fn users_are_names_or_numbers() {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let shell = Shell::new();
    let id = shell.vessel();
    let ids =
        |user: &str| shell.call(["exec", "-u", user, &id, "--", "sh", "-c", "echo $(id -u) $(id -g)"]).run();
    for (user, expected) in [
        ("root", "0 0\n"),
        ("user", "1000 1000\n"),
        ("1000", "1000 1000\n"),
        ("1000:0", "1000 0\n"),
        ("user:root", "1000 0\n"),
        ("0:user", "0 1000\n"),
        ("12345:54321", "12345 54321\n"),
    ] {
        let done = ids(user);
        assert_eq!((done.code, done.text().as_str()), (0, expected), "{user}: {done:?}");
    }
    for user in [
        "nobody-here",
        "user:nogroup-here",
        "-1",
        "4294967295",
        "4294967296",
        "2147483648",
        "99999999999",
        "0x0",
        "root:",
        " 0",
        "1000:0:0",
        "user\n",
    ] {
        let done = ids(user);
        assert_eq!(done.code, 125, "{user:?}: {done:?}");
    }
    assert_eq!(ids("user:").code, 125);
}

#[test]
fn ephemeral_commands_see_everything_and_leave_nothing() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "echo old > f; mkdir d");
    let script = "cat f; echo new > f; rm -rf d /etc/motd; mkdir e; echo $$ > /root/x; ls";
    let done = shell.call(["exec", "--ephemeral", &id, "--", "sh", "-c", script]).succeeds();
    assert_eq!(done.text(), "old\ne\nf\n");
    assert_eq!(shell.sh(&id, "ls; cat f /etc/motd; ls /root"), "d\nf\nold\nthe base image\n");
    shell.assert_idle();
}

#[test]
fn run_makes_a_vessel_and_rm_removes_it() {
    let shell = Shell::new();
    let ids = || shell.call(["ls"]).in_json().succeeds().json().as_array().unwrap().len();
    assert_eq!(shell.call(["run", "--rm", BASE, "--", "echo", "hi"]).succeeds().text(), "hi\n");
    shell.call(["run", "--rm", BASE, "--", "sh", "-c", "echo x > /f; exit 9"]).exits(9);
    shell.call(["run", "--rm", BASE, "--", "no-such"]).exits(127);
    shell.call(["run", "--rm", BASE, "--timeout", "200ms", "--", "sleep", "1000"]).run();
    shell.call(["run", "--rm", "--timeout", "200ms", BASE, "--", "sleep", "1000"]).exits(124);
    shell.call(["run", "--rm", "-u", "nobody-here", BASE, "--", "true"]).exits(125);
    shell.call(["run", "--rm", "unknown/image", "--", "true"]).exits(125);
    assert_eq!(ids(), 0);
    let kept =
        shell.call(["run", "--id", "kept", BASE, "--", "sh", "-c", "echo stays > /f; exit 4"]).exits(4);
    assert!(kept.stdout.is_empty(), "{kept:?}");
    assert_eq!(shell.exec("kept", ["cat", "/f"]).succeeds().text(), "stays\n");
    assert_eq!(ids(), 1);
    shell.assert_idle();
}

#[test]
fn run_without_a_command_runs_the_images_own_as_the_image_says() {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let shell = Shell::empty();
    let layout = shell.beside("layout");
    let config = json!({
        "Entrypoint": ["sh", "-c", "echo \"$0 $1 $GREETING $(id -u) $(pwd)\""],
        "Cmd": ["one", "two"], "Env": ["GREETING=hello", "PATH=/bin"], "WorkingDir": "/srv/sub", "User": "user",
    });
    oci_layout(&layout, &[base_tar().to_vec()], &config);
    shell.import(&layout, "own/command");
    assert_eq!(shell.call(["run", "--rm", "own/command"]).succeeds().text(), "one two hello 1000 /srv/sub\n");
    let given =
        shell.call(["run", "--rm", "-e", "GREETING=bye", "own/command", "--", "sh", "-c", "echo $GREETING"]);
    assert_eq!(given.succeeds().text(), "bye\n");
    let plain = Shell::new();
    assert!(
        plain.call(["run", "--rm", BASE]).refused("invalid_argument")["message"]
            .as_str()
            .unwrap()
            .contains("command")
    );
    assert_eq!(plain.call(["ls"]).in_json().succeeds().json(), json!([]));
}

#[test]
fn a_timeout_kills_the_whole_tree() {
    let shell = Shell::new();
    let id = shell.vessel();
    let script = "trap '' TERM INT HUP; (trap '' TERM HUP; setsid sleep 1003) & (setsid sh -c 'sleep 1004 & sleep 1005') & sleep 1006";
    let began = Instant::now();
    shell.call(["exec", "--timeout", "500ms", &id, "--", "sh", "-c", script]).exits(124);
    assert!(began.elapsed() < Duration::from_secs(20));
    shell.assert_idle();
    for bad in ["0s", "-1s", "1e3", "soon", "", "1d", "1.5s"] {
        shell.call(["exec", &format!("--timeout={bad}"), &id, "--", "true"]).refused("invalid_argument");
    }
}

#[test]
fn a_timeout_in_a_started_vessel_spares_the_others() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["start", &id]).succeeds();
    let other = shell
        .exec(&id, ["sh", "-c", "echo up > up; while [ ! -e stop ]; do sleep 0.05; done; echo fine"])
        .start();
    shell.sh(&id, "while [ ! -e up ]; do sleep 0.05; done");
    shell.call(["exec", "--timeout", "200ms", &id, "--", "sh", "-c", "sleep 1007 & sleep 1008"]).exits(124);
    assert_eq!(shell.sh(&id, "ps | grep -c '[s]leep 100[78]' || true"), "0\n");
    shell.sh(&id, "touch stop");
    assert_eq!(other.wait().text(), "fine\n");
    shell.call(["stop", &id]).succeeds();
}
