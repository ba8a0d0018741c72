//! A real distribution: Debian, in archives made by podman and skopeo.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::{Archives, tool};
use crate::shell::{Call, Shell};
use crate::testkit::image::debian_tar;
use crate::testkit::{Cap, need};

/// podman with a storage of its own beside the store.
struct Podman<'a> {
    shell: &'a Shell,
    run: PathBuf,
}

impl<'a> Podman<'a> {
    fn new(shell: &'a Shell) -> Self {
        let run = shell.beside("run");
        fs::create_dir(&run).unwrap();
        Self { shell, run }
    }

    fn call(&self) -> Call {
        let dir = |flag: &str, name: &str| format!("--{flag}={}", self.shell.beside(name).display());
        let flags = [
            "--log-level=error".to_owned(),
            "--storage-driver=vfs".to_owned(),
            dir("root", "p"),
            dir("runroot", "r"),
        ];
        tool("podman").args(flags).env("XDG_RUNTIME_DIR", &self.run)
    }
}

impl Drop for Podman<'_> {
    /// An unprivileged podman leaves a process behind that holds its user namespace.
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.run.join("libpod/tmp/pause.pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            // It may be gone already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn os_release(shell: &Shell, path: &Path, reference: &str) -> String {
    shell.import(path, reference);
    shell.call(["run", "--rm", reference, "--", "cat", "/etc/os-release"]).succeeds().text()
}

#[test]
fn debian_from_podmans_archives() {
    if !need(&[Cap::Debian, Cap::Podman, Cap::SubordinateIds]) {
        return;
    }
    let shell = Shell::empty();
    let podman = Podman::new(&shell);
    podman
        .call()
        .args(["import", "--quiet"])
        .arg(debian_tar().unwrap())
        .arg("localhost/debian:12")
        .succeeds();
    for kind in ["docker-archive", "oci-archive"] {
        let archive = shell.beside(kind);
        podman
            .call()
            .args(["save", "--quiet", "--format", kind, "-o"])
            .arg(&archive)
            .arg("localhost/debian:12")
            .succeeds();
        let text = os_release(&shell, &archive, &format!("test/{kind}"));
        assert!(text.contains("VERSION_CODENAME=bookworm"), "{kind}: {text}");
        fs::remove_file(archive).unwrap();
    }
    shell.assert_idle();
}

/// An OCI layout with the Debian image as `12`.
fn layout(shell: &Shell) -> PathBuf {
    let layout = shell.beside("layout");
    let image = format!("{}:12", layout.display());
    tool("umoci").args(["init", "--layout"]).arg(&layout).succeeds();
    tool("umoci").args(["new", "--image", &image]).succeeds();
    tool("umoci").args(["raw", "add-layer", "--image", &image]).arg(debian_tar().unwrap()).succeeds();
    let config = [
        "--config.env",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "--config.cmd",
        "/bin/bash",
    ];
    tool("umoci").args(["config", "--image", &image]).args(config).succeeds();
    layout
}

#[test]
fn debian_from_umocis_layout_and_skopeos_archives() {
    if !need(&[Cap::Debian, Cap::Umoci, Cap::Skopeo, Cap::SubordinateIds]) {
        return;
    }
    let shell = Shell::empty();
    let archives = Archives::of(&layout(&shell), "12", &shell.beside("made"));
    for (n, path) in archives.each().into_iter().enumerate() {
        let text = os_release(&shell, path, &format!("test/debian:{n}"));
        assert!(text.contains("VERSION_CODENAME=bookworm"), "{path:?}: {text}");
    }
    administration(&shell, "test/debian:0");
    system_calls(&shell, "test/debian:0");
}

/// What an administrator of the machine inside does.
fn administration(shell: &Shell, image: &str) {
    let id = shell.call(["create", image, "--workdir", "/root"]).succeeds().line();
    assert!(shell.sh(&id, "apt-get --version").starts_with("apt 2."));
    assert_eq!(
        shell.sh(&id, "dpkg --configure -a; dpkg --audit; dpkg -s bash | grep Status"),
        "Status: install ok installed\n"
    );
    shell.sh(&id, "useradd --create-home x");
    assert!(shell.sh(&id, "su x -c id").starts_with("uid=1000(x) gid=1000(x) groups=1000(x)"));
    assert_eq!(
        shell.sh(&id, "su - x -c 'umask 077; echo mine > private; stat -c \"%a %U\" private'"),
        "600 x\n"
    );
    assert_eq!(shell.call(["fs", "cat", &id, "/home/x/private"]).succeeds().text(), "mine\n");
    let snapshot = shell.call(["snapshot", "create", &id, "-m", "a user"]).succeeds().line();
    shell.sh(&id, "userdel --remove x 2>/dev/null; rm -rf /usr/share /var/lib/dpkg /home");
    shell.call(["snapshot", "restore", &id, &snapshot]).succeeds();
    assert_eq!(
        shell.sh(&id, "su - x -c 'cat private'; dpkg --audit; ls /usr/share | wc -l | grep -c '^[1-9]'"),
        "mine\n1\n"
    );
    shell.assert_idle();
}

/// System calls that the kernel must not hear from inside: number on x86-64, arguments, and what they answer.
const REFUSED: [(&str, &str); 14] = [
    ("socket(AF_ALG)", "41, 38, 5, 0"),
    ("socket(AF_VSOCK)", "41, 40, 1, 0"),
    ("io_uring_setup", "425, 1, 0"),
    ("keyctl(KEYCTL_GET_KEYRING_ID)", "250, 0, -3, 0"),
    ("add_key", "248, 0, 0, 0, 0, 0"),
    ("request_key", "249, 0, 0, 0, 0"),
    ("bpf", "321, 0, 0, 0"),
    ("userfaultfd", "323, 0"),
    ("perf_event_open", "298, 0, 0, -1, -1, 0"),
    ("unshare(CLONE_NEWUSER)", "272, 0x10000000"),
    ("setns", "308, 0, 0"),
    ("mount", "165, 0, 0, 0, 0, 0"),
    ("open_by_handle_at", "304, 0, 0, 0"),
    ("kexec_load", "246, 0, 0, 0, 0"),
];

/// perl is the one tool of a minimal Debian that makes any system call.
fn system_calls(shell: &Shell, image: &str) {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let call = |args: &str| {
        let script = format!("$! = 0; my $r = syscall({args}); print \"$r \", $! + 0, \"\\n\"");
        shell.call(["run", "--rm", image, "--", "perl", "-e", &script]).succeeds().text()
    };
    for (name, args) in REFUSED {
        assert_eq!(call(args), "-1 1\n", "{name}");
    }
    assert_eq!(call("435, 0, 0"), "-1 38\n", "clone3 must look as if it were not there");
    // TIOCSTI and TIOCLINUX, also with bits that the kernel ignores.
    for request in ["0x5412", "0x541c", "(0x5412 | (1 << 32))", "(0x541c | (1 << 40))"] {
        assert_eq!(call(&format!("16, 0, {request}, my $c = 'x'")), "-1 1\n", "ioctl {request}");
    }
    assert_ne!(call("41, 1, 1, 0"), "-1 1\n", "socket(AF_UNIX) must work");
}
