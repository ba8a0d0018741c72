//! A machine of its own: Debian's kernel for cloud images in qemu, with a root file system in memory, for what needs other
//! control groups than those of this host. Emulated, so that it boots anywhere.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::caps::which;
use super::image;

/// Extracts the kernel from its package.
const KERNEL: &str = include_str!("../../fixtures/kernel.sh");
/// It boots in seconds; what is done there is emulated, on a machine that may be busy.
const SECONDS: &str = "400";

/// Mounts what every system has, and goes on in a tmpfs: from the first root file system nobody can pivot away.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t tmpfs -o size=80%,mode=0755 tmpfs /new
/bin/busybox insmod /overlay.ko
cd /
for item in bin etc lib lib64 usr data; do
    /bin/busybox cp -a /$item /new/
done
/bin/busybox umount /proc
exec /bin/busybox switch_root /new /bin/busybox sh /data/start
";
const START: &str = "export PATH=/bin
busybox mkdir -p /proc /sys /dev /tmp /run /home/user /root
busybox chmod 1777 /tmp
busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
chown 1000:1000 /home/user
ip link set lo up
echo MACHINE up
sh /data/script < /dev/null
echo MACHINE done
poweroff -f
";

/// A directory with `vmlinuz` and `overlay.ko`: the one that the environment names, or one made once per user and machine.
pub(crate) fn kernel() -> Option<PathBuf> {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    DIR.get_or_init(|| {
        if let Some(dir) = std::env::var_os("VESSELRT_TEST_KERNEL") {
            return Some(dir.into()).filter(|dir: &PathBuf| dir.join("vmlinuz").is_file());
        }
        let user = rustix::process::geteuid().as_raw();
        let dir = std::env::temp_dir().join(format!("vesselrt-kernel-{user}"));
        let lock = fs::File::create(dir.with_extension("lock")).ok()?;
        // Tests of other processes wait for the first.
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).ok()?;
        let mut command = Command::new("timeout");
        command.args(["300", "sh", "-c", KERNEL, "kernel.sh"]).arg(&dir).stdin(Stdio::null());
        let made = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        made.is_ok_and(|status| status.success()).then_some(dir)
    })
    .clone()
}

/// Boots a machine that runs `script` as root, with vesselrt in its `PATH` and a small image in `/data/base.tar`, whose files all
/// are root's. What it printed, line by line.
pub(crate) fn boot(dir: &Path, script: &str) -> Vec<String> {
    let initrd = dir.join("initrd");
    fs::write(&initrd, archive(dir, script)).unwrap();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", SECONDS, "qemu-system-x86_64", "-accel", "tcg", "-smp", "2", "-m", "1024"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.arg("-kernel").arg(kernel().unwrap().join("vmlinuz")).arg("-initrd").arg(&initrd);
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("MACHINE done"),
        "{}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn archive(dir: &Path, script: &str) -> Vec<u8> {
    let mut archive = Archive(Vec::new());
    for name in ["bin", "etc", "data", "lib", "lib64", "usr"] {
        archive.put(name, 0o040_755, &[]);
    }
    archive.put("init", 0o100_755, INIT.as_bytes());
    archive.put("bin/busybox", 0o100_755, &fs::read(image::BUSYBOX).unwrap());
    archive.put("data/start", 0o100_644, START.as_bytes());
    archive.put("data/script", 0o100_644, script.as_bytes());
    archive.put("data/base.tar", 0o100_644, &base());
    archive.put("overlay.ko", 0o100_644, &fs::read(kernel().unwrap().join("overlay.ko")).unwrap());
    archive.put(
        "etc/passwd",
        0o100_644,
        b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    );
    archive.put("etc/group", 0o100_644, b"root:x:0:\nuser:x:1000:\n");
    archive.program("bin/vesselrt", &stripped(dir));
    archive.finish()
}

/// The program under test without its symbols, which would have to be held in memory.
fn stripped(dir: &Path) -> PathBuf {
    let copy = dir.join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&copy).arg(super::bin()).status();
    if strip.is_ok_and(|status| status.success()) { copy } else { super::bin() }
}

/// A shell and its tools, all of which belong to root: a user without subordinate ids has no others.
fn base() -> Vec<u8> {
    let mut layer = image::Layer::new();
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "work"] {
        layer = layer.dir(name, 0o755, 0);
    }
    layer = layer.file("bin/busybox", 0o755, 0, &fs::read(image::BUSYBOX).unwrap());
    for applet in ["sh", "cat", "head", "tr", "sleep", "ls", "wc", "echo", "dd", "true", "grep", "mount"] {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    layer.file("etc/passwd", 0o644, 0, b"root:x:0:0::/:/bin/sh\n").finish()
}

/// An initial RAM file system (`newc`, Documentation/driver-api/early-userspace/buffer-format.rst).
struct Archive(Vec<u8>);

impl Archive {
    fn put(&mut self, name: &str, mode: u32, data: &[u8]) {
        let (links, length, name_length) = (1, data.len(), name.len() + 1);
        let number = self.0.len();
        let header = format!(
            "070701{number:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{length:08x}{:08x}{:08x}{:08x}{:08x}{name_length:08x}{:08x}",
            0, 0, 0, 0, 0, 0, 0, 0
        );
        self.0.extend(header.as_bytes());
        self.0.extend(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A program with the libraries that it needs, where it looks for them.
    fn program(&mut self, name: &str, path: &Path) {
        self.put(name, 0o100_755, &fs::read(path).unwrap());
        let mut made = vec!["lib".to_owned(), "lib64".to_owned(), "usr".to_owned()];
        for library in image::libraries_of(path) {
            let inside = library.strip_prefix("/").unwrap();
            let mut above: Vec<&Path> =
                inside.ancestors().skip(1).filter(|dir| *dir != Path::new("")).collect();
            above.reverse();
            for dir in above.into_iter().map(|dir| dir.to_str().unwrap().to_owned()) {
                if !made.contains(&dir) {
                    self.put(&dir, 0o040_755, &[]);
                    made.push(dir);
                }
            }
            self.put(inside.to_str().unwrap(), 0o100_755, &fs::read(&library).unwrap());
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.put("TRAILER!!!", 0, &[]);
        self.0
    }
}

/// Whether there is all that [`boot`] needs.
pub(crate) fn can_boot() -> bool {
    cfg!(target_arch = "x86_64") && which("qemu-system-x86_64").is_some() && kernel().is_some()
}
