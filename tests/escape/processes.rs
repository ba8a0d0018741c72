//! Processes inside that reach for the runtime: its executable, its descriptors, its helpers, its users.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::shell::{BASE, Call, Shell};
use crate::testkit::canary::Canary;
use crate::testkit::image::{Layer, base_tar, oci_layout, sha256};
use crate::testkit::{Cap, bin, need};

/// A copy of the executable that belongs to the user who runs the tests, which a container's root then is.
fn own_copy(shell: &Shell) -> PathBuf {
    let copy = shell.beside("vesselrt");
    fs::copy(bin(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

fn with(bin: &Path, shell: &Shell) -> Call {
    Call::new(bin).arg("--root").arg(shell.root())
}

/// Writes over every executable it can see for as long as it is let.
const OVERWRITE: &str = "while [ ! -e /work/stop ]; do for exe in /proc/[0-9]*/exe /proc/self/exe; do \
    case $exe in /proc/self/*|/proc/$$/*) continue;; esac; { echo evil > $exe; } 2>/dev/null && echo $exe >> /work/won; done; done";

#[test]
fn the_executable_of_the_runtime_cannot_be_overwritten() {
    let shell = Shell::new();
    let copy = own_copy(&shell);
    let before = sha256(&fs::read(&copy).unwrap());
    let id = shell.vessel();
    with(&copy, &shell).args(["start", &id]).succeeds();
    let attacker = with(&copy, &shell).args(["exec", &id, "--", "sh", "-c", OVERWRITE]).start();
    for _ in 0..60 {
        with(&copy, &shell).args(["exec", &id, "--", "true"]).succeeds();
    }
    with(&copy, &shell).args(["fs", "write", &id, "stop"]).input("").succeeds();
    attacker.wait();
    with(&copy, &shell).args(["stop", &id]).succeeds();
    assert_eq!(sha256(&fs::read(&copy).unwrap()), before);
    shell.assert_idle();
}

#[test]
fn an_entrypoint_that_is_the_runtime_itself_harms_nothing() {
    let shell = Shell::new();
    let copy = own_copy(&shell);
    let before = sha256(&fs::read(&copy).unwrap());
    let id = shell.vessel();
    shell.sh(&id, "printf '#!/proc/self/exe\\n' > entry; chmod 755 entry; ln -s /proc/self/exe exe");
    for command in ["./entry", "/proc/self/exe", "./exe"] {
        let done = with(&copy, &shell).args(["exec", "--timeout", "20s", &id, "--", command]).run();
        assert_ne!(done.code, 124, "{command} hangs: {done:?}");
        let done = with(&copy, &shell)
            .args(["exec", "--timeout", "20s", &id, "--", command, "exec", &id, "--", "true"])
            .run();
        assert_ne!((done.code, command), (0, "./entry"), "{done:?}");
    }
    assert_eq!(sha256(&fs::read(&copy).unwrap()), before);
    shell.assert_idle();
}

#[test]
fn descriptors_of_the_caller_end_at_the_runtime() {
    let shell = Shell::new();
    let id = shell.vessel();
    let many = "for fd in {5..54}; do eval \"exec $fd</etc\"; done; export LISTEN_FDS=50 LISTEN_PID=$$ LISTEN_FDNAMES=a; exec \"$@\"";
    let bash = |call: Call| Call::new("bash").args(["-c", many, "bash"]).args(call.words());
    let list =
        "ls /proc/self/fd | tr '\\n' ' '; ls -l /proc/self/fd | grep -c etc; env | grep -c LISTEN; pwd";
    let inside = bash(shell.exec(&id, ["sh", "-c", list])).succeeds().text();
    assert_eq!(inside, "0 1 2 3 0\n0\n/work\n");
    bash(shell.call(["start", &id])).succeeds();
    for pid in shell.processes() {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for fd in fds.filter_map(|fd| fs::read_link(fd.path()).ok()) {
            assert!(!fd.starts_with("/etc"), "{pid} has {fd:?}");
        }
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&environment).contains("LISTEN"), "{pid}");
    }
    assert_eq!(shell.exec(&id, ["sh", "-c", list]).succeeds().text(), "0 1 2 3 0\n0\n/work\n");
    shell.call(["stop", &id]).succeeds();
}

#[test]
fn helpers_are_not_taken_from_the_path() {
    let shell = Shell::empty();
    let evil = shell.beside("evil");
    fs::create_dir(&evil).unwrap();
    let marker = shell.beside("marker");
    for name in [
        "newuidmap",
        "newgidmap",
        "fuse-overlayfs",
        "fusermount",
        "fusermount3",
        "mount",
        "umount",
        "vesselrt",
        "sh",
        "tar",
        "gzip",
        "zstd",
        "unpigz",
    ] {
        fs::write(evil.join(name), format!("#!/bin/sh\ntouch '{}'\nexit 1\n", marker.display())).unwrap();
        fs::set_permissions(evil.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let tar = shell.base_tar();
    let both = format!("{}:.:", evil.display());
    for (path, driver) in [(".", "auto"), (both.as_str(), "kernel"), (both.as_str(), "fuse")] {
        if driver == "fuse" && !Cap::Fuse.is_there() || driver == "kernel" && !Cap::Overlay.is_there() {
            continue;
        }
        let root = shell.beside(driver);
        let call = || {
            Call::new(bin())
                .arg("--root")
                .arg(&root)
                .env("PATH", path)
                .env("VESSELRT_DRIVER", driver)
                .dir(&evil)
        };
        call().args(["image", "import"]).arg(&tar).args(["--ref", BASE]).succeeds();
        let done = call().args(["run", "--rm", BASE, "--", "echo", "fine"]).succeeds();
        assert_eq!(done.text(), "fine\n", "{driver}");
        call().arg("doctor").run();
        assert!(!marker.exists(), "{driver}");
    }
}

#[test]
fn user_fields_are_never_root_by_accident() {
    let shell = Shell::empty();
    let names = [
        "4294967295",
        "4294967296",
        "2147483648",
        "-1",
        "0x0",
        "root:",
        ":",
        "1000:0:0",
        " 0",
        "0 ",
        "99999999999",
        "+0",
        "00:x",
        "no-such-user",
        "toor\n",
        "\u{661}",
    ];
    let passwd = "root:x:0:0:root:/root:/bin/sh\n99999999999:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n-1:x:0:0::/:/bin/sh\n\
                  bad:x:zero:0::/:/bin/sh\n:x:0:0::/:/bin/sh\nover:x:4294967296:0::/:/bin/sh\n";
    for (n, user) in names.into_iter().enumerate() {
        let layout = shell.beside(&format!("layout-{n}"));
        let top = Layer::new().file("etc/passwd", 0o644, 0, passwd.as_bytes()).finish();
        oci_layout(
            &layout,
            &[base_tar().to_vec(), top],
            &serde_json::json!({"User": user, "Env": ["PATH=/bin"]}),
        );
        let import = shell.call(["image", "import"]).arg(&layout).args(["--ref", "user"]).run();
        assert!(matches!(import.code, 0 | 125), "{import:?}");
        let done = shell.call(["run", "--rm", "user", "--", "id", "-u"]).run();
        assert!(done.code == 125 || done.text().trim() != "0", "{user:?}: {done:?}");
    }
    for user in ["bad", "over", ""] {
        let done = shell.call(["run", "--rm", "-u", user, "user", "--", "id", "-u"]).run();
        assert!(done.code == 125 || user.is_empty(), "{user:?}: {done:?}");
    }
}

#[test]
fn databases_of_users_can_be_bombs_and_links() {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let shell = Shell::new();
    let canary = Canary::new(shell.store());
    let secret = canary.victim().join("secret");
    let id = shell.vessel();
    let bombs = [
        "truncate -s 2G /etc/passwd; truncate -s 2G /etc/group".to_owned(),
        "yes 'a:x:1:1::/:/bin/sh' | head -n 400000 > /etc/passwd; cp /etc/passwd /etc/group".to_owned(),
        "head -c 900000 /dev/zero | tr '\\0' x > /etc/passwd; cp /etc/passwd /etc/group".to_owned(),
        "rm -f /etc/passwd /etc/group; mkfifo /etc/passwd /etc/group".to_owned(),
        "rm -f /etc/passwd /etc/group; mkdir /etc/passwd /etc/group".to_owned(),
        format!(
            "rm -rf /etc/passwd /etc/group; ln -s {0} /etc/passwd; ln -s {0} /etc/group",
            secret.display()
        ),
        "rm -rf /etc/passwd /etc/group; ln -s /proc/self/environ /etc/passwd; ln -s /etc/passwd /etc/group"
            .to_owned(),
        "rm -rf /etc; ln -s /proc/1/root/etc /etc".to_owned(),
    ];
    let good = shell.call(["snapshot", "create", &id]).succeeds().line();
    for bomb in bombs {
        shell.sh(&id, &bomb);
        for user in ["user", "nobody:staff"] {
            let done = shell.call(["exec", "-u", user, &id, "--", "true"]).exits(125);
            assert!(!canary.is_told_by(&done.stderr), "{done:?}");
        }
        // Numbers need no database, but a bomb is a bomb.
        let number = shell.call(["exec", "-u", "1000:1000", &id, "--", "true"]).run();
        assert!(matches!(number.code, 0 | 125), "{bomb}: {number:?}");
        shell.call(["snapshot", "restore", &id, &good]).succeeds();
    }
    assert_eq!(shell.call(["exec", "-u", "user", &id, "--", "id", "-u"]).succeeds().text(), "1000\n");
    canary.is_unharmed();
}

#[test]
fn two_vessels_see_nothing_of_each_other() {
    let shell = Shell::new();
    let (one, two) = (shell.vessel(), shell.vessel());
    shell.call(["start", &one]).succeeds();
    let secret = "the-secret-of-one";
    let call = shell.call([
        "exec",
        "-e",
        &format!("TOKEN={secret}"),
        &one,
        "--",
        "sh",
        "-c",
        "echo x > up; exec sleep 1009",
    ]);
    let running = call.start();
    shell.sh(&one, "while [ ! -e up ]; do sleep 0.05; done");
    let seen = shell.sh(&two, "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; ps; ls / /work; ls /dev/shm");
    assert!(!seen.contains(secret) && !seen.contains("1009"), "{seen}");
    shell.call(["stop", "--all"]).succeeds();
    running.wait();
    shell.assert_idle();
}

#[test]
fn a_reader_that_never_reads_costs_nothing() {
    let shell = Shell::new();
    let id = shell.vessel();
    let call = shell.exec(&id, ["sh", "-c", "yes"]).through("\"$@\" | { sleep 1; head -c 1; }");
    let done = call.run();
    assert_eq!(done.text(), "y", "{done:?}");
    shell.assert_idle();
}
