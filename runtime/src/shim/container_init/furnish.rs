//! What a slot has of its own besides its processes: `/proc`, `/dev` and everything below them, and maybe its root.
//!
//! Done in a mount namespace that is a copy of the sandbox's. Destinations are directories of the guest's tree, which the shim has
//! looked at; wherever they lead, it is inside of that tree, as nothing else is in this mount namespace. What is hidden in
//! `/proc` is found under the descriptor of that mount, by names of the kernel. What else is mounted is taken along only from where
//! it is a mount still.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::Facts;
use crate::{spec, sys};

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// A step that failed.
#[derive(Debug)]
pub(super) struct Unfurnished {
    pub(super) step: &'static str,
    pub(super) source: io::Error,
}

fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Unfurnished {
    move |error| Unfurnished { step, source: error.into() }
}

/// Gives this mount namespace a `/proc` of this pid namespace and a fresh `/dev`; with `root`, a mount that is nowhere yet, its
/// tree instead of the vessel's.
pub(super) fn furnish(root: Option<OwnedFd>, facts: &Facts) -> Result<(), Unfurnished> {
    let devices = clone_devices()?;
    // The kernel gives a new one only to who can see all of an old one: before that is gone.
    let nothing = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let proc = file_system("proc", "proc", &[], nothing).map_err(at("make a /proc for the command"))?;
    match root {
        Some(root) => change_root(&root, facts)?,
        None => {
            for place in ["/proc", "/dev"] {
                unmount(place, UnmountFlags::DETACH)
                    .map_err(at("take away what is mounted for the container"))?;
            }
        }
    }
    attach(&proc, CWD, "/proc").map_err(at("mount /proc for the command"))?;
    attach_dev(devices, facts, nothing)?;
    mask(&proc)
}

fn clone_devices() -> Result<Vec<OwnedFd>, Unfurnished> {
    let clone = |name: &str| clone_tree(CWD, format!("/dev/{name}"), false);
    DEVICES.into_iter().map(clone).collect::<Result<_, _>>().map_err(at("clone the devices"))
}

/// Takes along what the sandbox has mounted besides `/proc` and `/dev`.
fn change_root(root: &OwnedFd, facts: &Facts) -> Result<(), Unfurnished> {
    let failed = "change the root to a throw-away layer";
    let sys = clone_tree(CWD, "/sys", true).map_err(at("clone /sys"))?;
    let files = facts.etc_files.iter().map(|path| clone_tree(CWD, path, false));
    let files = files.collect::<Result<Vec<_>, _>>().map_err(at("clone the generated files"))?;
    let mounts = facts.mounts.iter().map(|place| clone_mounted(place)).collect::<Result<Vec<_>, _>>();
    let mounts = mounts.map_err(at("clone what is mounted in the vessel"))?;
    // Any directory does, for a moment.
    attach(root, CWD, "/dev").map_err(at(failed))?;
    rustix::process::fchdir(root).map_err(at(failed))?;
    // The old root is stacked on the new one, from where it is detached: pivot_root(2).
    rustix::process::pivot_root(".", ".").map_err(at(failed))?;
    unmount(".", UnmountFlags::DETACH).map_err(at(failed))?;
    rustix::process::chdir("/").map_err(at(failed))?;
    attach(&sys, CWD, "/sys").map_err(at("mount /sys for the command"))?;
    for (mount, place) in mounts.iter().zip(&facts.mounts) {
        let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        open_plain(place)
            .and_then(|target| Ok(move_mount(mount, "", &target, "", by_descriptor)?))
            .map_err(at("mount what is mounted in the vessel for the command"))?;
    }
    for (file, path) in files.iter().zip(&facts.etc_files) {
        attach(file, CWD, path).map_err(at("mount the generated files for the command"))?;
    }
    Ok(())
}

/// Opens a path that has no symlinks.
fn open_plain(path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// A copy of what is mounted at `place`. A command may have moved it since: what is there instead is a part of the vessel, and
/// would be written to.
fn clone_mounted(place: &Path) -> io::Result<OwnedFd> {
    let found = open_plain(place)?;
    if !crate::root::is_mount_root(found.as_fd(), c"")? {
        return Err(Errno::NOENT.into());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(&found, "", flags)?)
}

/// As the OCI runtimes have it: runtime-spec config-linux.md, "Default Devices" and "Dev symbolic links".
fn attach_dev(devices: Vec<OwnedFd>, facts: &Facts, nothing: MountAttrFlags) -> Result<(), Unfurnished> {
    let failed = "make a /dev for the command";
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let dev = file_system("tmpfs", "tmpfs", &[("mode", "755"), ("size", "65536k")], attrs);
    let dev = dev.map_err(at(failed))?;
    attach(&dev, CWD, "/dev").map_err(at("mount /dev for the command"))?;
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).map_err(at(failed))?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name).map_err(at(failed))?;
    }
    for (name, device) in DEVICES.into_iter().zip(devices) {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&dev, name, flags, Mode::from_raw_mode(0o644)).map_err(at(failed))?;
        attach(&device, &dev, name).map_err(at("mount the devices for the command"))?;
    }
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tty: &[_] = if facts.tty_gid_mapped { &[("gid", "5")] } else { &[] };
    let options = [&[("ptmxmode", "0666"), ("mode", "0620")], tty].concat();
    let pts = file_system("devpts", "devpts", &options, quiet).map_err(at("make a /dev/pts"))?;
    attach(&pts, &dev, "pts").map_err(at("mount /dev/pts for the command"))?;
    let shm = file_system("tmpfs", "shm", &[("mode", "1777"), ("size", "65536k")], nothing);
    attach(&shm.map_err(at("make a /dev/shm"))?, &dev, "shm").map_err(at("mount /dev/shm"))?;
    let mqueue = file_system("mqueue", "mqueue", &[], nothing).map_err(at("make a /dev/mqueue"))?;
    attach(&mqueue, &dev, "mqueue").map_err(at("mount /dev/mqueue for the command"))
}

/// Hides what is in the kernel's files but not for guests, and makes read-only what is to be.
fn mask(proc: &OwnedFd) -> Result<(), Unfurnished> {
    let failed = "hide files of /proc";
    for name in spec::masked_in_proc() {
        let stat = match rustix::fs::statat(proc, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other.map_err(at(failed))?,
        };
        let cover = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                file_system("tmpfs", "tmpfs", &[("size", "0k")], MountAttrFlags::MOUNT_ATTR_RDONLY)
            }
            _ => clone_tree(CWD, "/dev/null", false),
        };
        attach(&cover.map_err(at(failed))?, proc, name).map_err(at(failed))?;
    }
    for name in spec::read_only_in_proc() {
        let tree = match clone_tree(proc, name, true) {
            Err(Errno::NOENT) => continue,
            other => other.map_err(at("make files of /proc read-only"))?,
        };
        sys::set_mount_read_only(&tree, true)
            .and_then(|()| Ok(attach(&tree, proc, name)?))
            .map_err(at("make files of /proc read-only"))?;
    }
    Ok(())
}

fn clone_tree(dir: impl AsFd, path: impl AsRef<Path>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dir, path.as_ref(), flags)
}

fn file_system(
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attrs: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", source)?;
    for (key, value) in options {
        fsconfig_set_string(&fs, *key, *value)?;
    }
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)
}

fn attach(mount: &OwnedFd, dir: impl AsFd, path: impl AsRef<Path>) -> Result<(), Errno> {
    move_mount(mount, "", dir, path.as_ref(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
