//! The shim's own root file system: a tmpfs with nothing of the host in it but devices and `/proc`.
//!
//! ```text
//! /merged          the overlay of the vessel
//! /scratch         where such an overlay of a command that leaves nothing behind is mounted for a moment, on older kernels
//! /mounts/N        what else is mounted in the vessel, where no guest sees it
//! /files           generated resolv.conf, hosts, hostname
//! /skeleton        the lowest layer of the vessel: /dev /proc /sys, and /etc with the generated files
//! /bundle /state   what libcontainer wants to see
//! /store           the store's directories: image layers, sealed layers, this vessel
//! /dev /proc /sys  null, zero, full, random, urandom, tty of the host; its /proc; a sysfs of our network namespace
//!                  with a cgroup2 of our own on it (rootless libcontainer cannot use a v1 or hybrid tree)
//! ```
//!
//! libcontainer prepares a container by paths, before it pivots; an image that makes `/dev` a symlink can only ever lead
//! it into this tmpfs (CVE-2026-41579 and its kind).
#![forbid(unsafe_code)]

mod sysfs;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::attach::Attachments;
use super::mounted::Dirs;

/// Where the vessel is mounted.
pub(super) const MERGED: &str = "/merged";
/// Where throw-away overlays are mounted for a moment on kernels that cannot mount them nowhere.
pub(super) const SCRATCH: &str = "/scratch";
/// What else is mounted in the vessel.
pub(super) const MOUNTS: &str = "/mounts";
/// Generated files that are bound into containers.
pub(super) const FILES: &str = "/files";
/// Lies below every other layer: what containers need to mount on is there even where an image lacks it, and never
/// appears in the writable layer, and so in no snapshot.
const SKELETON: &str = "/skeleton";
/// libcontainer's bundle.
pub(super) const BUNDLE: &str = "/bundle";
/// libcontainer's state.
pub(super) const STATE: &str = "/state";

/// Where the directories of the store are.
pub(super) const STORE: [&str; 3] = ["store/image", "store/sealed", "store/vessel"];
const DIRS: [&str; 18] = [
    "merged",
    "mounts",
    "scratch",
    "files",
    "bundle",
    "state",
    "dev",
    "proc",
    "sys",
    "skeleton",
    "skeleton/dev",
    "skeleton/etc",
    "skeleton/proc",
    "skeleton/sys",
    "store",
    STORE[0],
    STORE[1],
    STORE[2],
];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Places where the new root may be attached for the moment before it becomes the root: any directory does.
const STEPPING_STONES: [&str; 4] = ["/tmp", "/run", "/mnt", "/dev"];

/// What differs in the generated files from network to network.
#[derive(Debug)]
pub(super) struct EtcFiles {
    /// The beginning of `/etc/hosts`, lines that have ended.
    pub(super) hosts: String,
    /// All of `/etc/resolv.conf`.
    pub(super) resolv_conf: String,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(super) struct HouseError {
    step: String,
    source: io::Error,
}

impl HouseError {
    pub(super) fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> HouseError {
    let step = step.into();
    move |source| HouseError { step, source }
}

/// The new root, attached but not yet the root: fuse-overlayfs has to be started while the host's files are in sight.
#[derive(Debug)]
pub(super) struct Site {
    stone: &'static str,
}

impl Site {
    /// Builds the tree in a fresh tmpfs.
    pub(super) fn build(hostname: &str, files: &EtcFiles, on_host: bool) -> Result<Self, HouseError> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).map_err(|e| at("make / private")(e.into()))?;
        let stone = STEPPING_STONES
            .into_iter()
            .find(|dir| Path::new(dir).is_dir())
            .ok_or_else(|| at("find a directory to mount on")(io::ErrorKind::NotFound.into()))?;
        // The host's devices and /proc are taken before anything can cover them.
        let devices = DEVICES.map(|name| (name, clone_tree(&format!("/dev/{name}"), false)));
        let proc = clone_tree("/proc", true).map_err(at("clone /proc"))?;
        let tmpfs =
            file_system("tmpfs", &[("mode", "0755"), ("size", "16m")], MountAttrFlags::MOUNT_ATTR_NODEV)
                .map_err(at("mount a tmpfs"))?;
        attach(&tmpfs, Path::new(stone)).map_err(at(format!("attach the new root at {stone}")))?;
        let site = Self { stone };
        for dir in DIRS {
            let path = site.path(dir);
            let usual = fs::Permissions::from_mode(0o755);
            fs::create_dir(&path)
                .and_then(|()| fs::set_permissions(&path, usual))
                .map_err(at(format!("mkdir /{dir}")))?;
        }
        attach(&proc, &site.path("proc")).map_err(at("attach /proc"))?;
        site.attach_devices(devices)?;
        site.attach_sys(on_host)?;
        site.write_files(hostname, files)?;
        Ok(site)
    }

    /// A path of the new root as it is now.
    pub(super) fn path(&self, inside: &str) -> std::path::PathBuf {
        Path::new(self.stone).join(inside.trim_start_matches('/'))
    }

    /// Attaches the store's directories and opens them there: overlayfs takes layers of mounts of its own mount
    /// namespace only. `given` are the same directories as the client opened them: a path that leads elsewhere now is
    /// refused.
    pub(super) fn attach_store(
        &self,
        mounts: Vec<OwnedFd>,
        given: &[OwnedFd; 3],
    ) -> Result<Dirs, HouseError> {
        let mut opened = Vec::new();
        for ((name, mount), given) in STORE.into_iter().zip(mounts).zip(given) {
            let target = self.path(name);
            attach(&mount, &target).map_err(at(format!("attach /{name}")))?;
            let fd = self.open(name)?;
            if identity(&fd).ok() != identity(given).ok() {
                return Err(at(format!("open /{name}"))(io::Error::other(
                    "the store was replaced meanwhile",
                )));
            }
            opened.push(fd);
        }
        let [image_layers, sealed_layers, vessel] = <[OwnedFd; 3]>::try_from(opened)
            .map_err(|_| at("attach the store")(io::ErrorKind::InvalidInput.into()))?;
        let attachments = Attachments::default();
        Ok(Dirs { image_layers, sealed_layers, vessel, skeleton: self.open(SKELETON)?, attachments })
    }

    fn open(&self, name: &str) -> Result<OwnedFd, HouseError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(self.path(name), flags, Mode::empty())
            .map_err(|e| at(format!("open /{name}"))(e.into()))
    }

    fn attach_devices(
        &self,
        devices: [(&str, io::Result<OwnedFd>); DEVICES.len()],
    ) -> Result<(), HouseError> {
        for (name, device) in devices {
            let target = self.path("dev").join(name);
            File::create(&target).map_err(at(format!("create /dev/{name}")))?;
            device.and_then(|mount| attach(&mount, &target)).map_err(at(format!("attach /dev/{name}")))?;
        }
        Ok(())
    }

    fn attach_sys(&self, on_host: bool) -> Result<(), HouseError> {
        let flags = MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let sys = match on_host {
            true => sysfs::of_nobody(flags).map_err(at("mount the sysfs of another network"))?,
            false => file_system("sysfs", &[], flags).map_err(at("mount sysfs"))?,
        };
        attach(&sys, &self.path("sys")).map_err(at("attach /sys"))?;
        // Read-only: where our group is delegated to this user, libcontainer would make groups in it, beside processes,
        // which the kernel refuses in the end. Read-only it goes on without, as where it may not.
        let cgroup = file_system("cgroup2", &[], flags | MountAttrFlags::MOUNT_ATTR_RDONLY)
            .map_err(at("mount cgroup2"))?;
        attach(&cgroup, &self.path("sys/fs/cgroup")).map_err(at("attach /sys/fs/cgroup"))
    }

    fn write_files(&self, hostname: &str, files: &EtcFiles) -> Result<(), HouseError> {
        let files = [
            ("hosts", format!("{}127.0.1.1\t{hostname}\n", files.hosts)),
            ("hostname", format!("{hostname}\n")),
            ("resolv.conf", files.resolv_conf.clone()),
        ];
        for (name, text) in files {
            for dir in [FILES, "/skeleton/etc"] {
                write_timeless(&self.path(dir).join(name), &text)
                    .map_err(at(format!("write {dir}/{name}")))?;
            }
        }
        for dir in ["dev", "etc", "proc", "sys", ""] {
            let path = self.path(SKELETON).join(dir);
            let open = || -> io::Result<()> { set_epoch(&fs::File::open(&path)?) };
            open().map_err(at(format!("set the times of {SKELETON}/{dir}")))?;
        }
        Ok(())
    }

    /// Makes it the root and lets go of the host's.
    pub(super) fn move_in(self) -> Result<(), HouseError> {
        nix::unistd::chdir(self.stone).map_err(|e| at("chdir to the new root")(e.into()))?;
        // pivot_root(".", ".") stacks the old root on the new one, from where it is detached: pivot_root(2).
        rustix::process::pivot_root(".", ".").map_err(|e| at("pivot_root")(e.into()))?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(|e| at("detach the old root")(e.into()))?;
        nix::unistd::chdir("/").map_err(|e| at("chdir /")(e.into()))
    }
}

/// A readable file that looks the same whenever it was written.
fn write_timeless(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    set_epoch(&fs::File::options().write(true).open(path)?)
}

fn set_epoch(file: &fs::File) -> io::Result<()> {
    file.set_times(
        fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH).set_modified(SystemTime::UNIX_EPOCH),
    )
}

fn identity(fd: &OwnedFd) -> io::Result<(u64, u64)> {
    let status = rustix::fs::fstat(fd)?;
    Ok((status.st_dev, status.st_ino))
}

fn clone_tree(path: &str, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, path, flags)?)
}

fn file_system(kind: &str, options: &[(&str, &str)], attrs: MountAttrFlags) -> io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&fs, *key, *value)?;
    }
    fsconfig_create(&fs)?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)?)
}

fn attach(mount: &OwnedFd, target: &Path) -> io::Result<()> {
    Ok(move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
