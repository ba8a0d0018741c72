//! Overlay mounts inside a user namespace.
//!
//! `userxattr` always: without it the mount succeeds there and then corrupts (`rm -rf` leaves half of a directory behind).
//! Layers are given as descriptors, through `/proc/self/fd`: no path of the host is walked, and a path of any length
//! or content is short and plain in the options. Source: Documentation/filesystems/overlayfs.rst.
#![forbid(unsafe_code)]

mod fuse;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

pub(crate) use fuse::FuseMount;

/// The layers of one overlay mount.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    /// Read-only layers, topmost first.
    pub(crate) lowers: &'a [OwnedFd],
    /// The writable layer.
    pub(crate) upper: BorrowedFd<'a>,
    /// Work directory on the same file system as the writable layer.
    pub(crate) work: BorrowedFd<'a>,
    /// Skip every sync: what is written does not matter after a crash.
    pub(crate) volatile: bool,
}

/// Mounts the kernel's overlayfs at `target`.
///
/// # Errors
/// Those of fsconfig(2) and mount(2).
pub(crate) fn mount(layers: &Layers<'_>, target: &Path) -> io::Result<()> {
    match by_fsopen(layers) {
        Ok(mount) => {
            Ok(rustix::mount::move_mount(&mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
        }
        // `lowerdir+` came with 6.8; before it (and the new mount API before 5.2) the options are one page of text.
        Err(Errno::INVAL | Errno::NOSYS) => by_option_string(layers, target),
        Err(error) => Err(error.into()),
    }
}

/// Mounts it nowhere: whoever attaches the mount may be in another mount namespace. `place` is an empty directory that older
/// kernels need for a moment.
///
/// # Errors
/// Those of fsconfig(2), mount(2) and open_tree(2).
pub(crate) fn mount_nowhere(layers: &Layers<'_>, place: &Path) -> io::Result<OwnedFd> {
    match by_fsopen(layers) {
        Ok(mount) => Ok(mount),
        Err(Errno::INVAL | Errno::NOSYS) => {
            by_option_string(layers, place)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let clone = rustix::mount::open_tree(CWD, place, flags);
            rustix::mount::unmount(place, UnmountFlags::DETACH)?;
            Ok(clone?)
        }
        Err(error) => Err(error.into()),
    }
}

fn by_fsopen(layers: &Layers<'_>) -> Result<OwnedFd, Errno> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&fs, "userxattr")?;
    for lower in layers.lowers {
        fsconfig_set_string(&fs, "lowerdir+", through_proc(lower.as_fd()))?;
    }
    fsconfig_set_string(&fs, "upperdir", through_proc(layers.upper))?;
    fsconfig_set_string(&fs, "workdir", through_proc(layers.work))?;
    if layers.volatile {
        fsconfig_set_flag(&fs, "volatile")?;
    }
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

fn by_option_string(layers: &Layers<'_>, target: &Path) -> io::Result<()> {
    let options = option_string(layers);
    // mount(2) takes one page; a longer string is cut without a word.
    if options.len() >= rustix::param::page_size() {
        return Err(Errno::TOOBIG.into());
    }
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    Ok(rustix::mount::mount("overlay", target, "overlay", MountFlags::NODEV, options.as_c_str())?)
}

fn option_string(layers: &Layers<'_>) -> String {
    let lowers: Vec<String> = layers.lowers.iter().map(|l| through_proc(l.as_fd())).collect();
    let (upper, work) = (through_proc(layers.upper), through_proc(layers.work));
    let volatile = if layers.volatile { ",volatile" } else { "" };
    format!("userxattr,lowerdir={},upperdir={upper},workdir={work}{volatile}", lowers.join(":"))
}

/// A path to an open directory that works whatever lies above it.
pub(crate) fn through_proc(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Makes sure that the overlay at `target` really has `userxattr`.
///
/// # Errors
/// `EOPNOTSUPP` when it does not.
pub(crate) fn verify(target: &Path) -> io::Result<()> {
    // Other lines may name paths that are not UTF-8.
    let table = std::fs::read("/proc/self/mountinfo")?;
    if has_userxattr(&String::from_utf8_lossy(&table), target) {
        Ok(())
    } else {
        Err(Errno::OPNOTSUPP.into())
    }
}

/// Source: proc_pid_mountinfo(5): mount point is field 5, super options are the last.
fn has_userxattr(mountinfo: &str, target: &Path) -> bool {
    let target = target.to_str().unwrap_or_default();
    mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(target))
        .and_then(|line| line.rsplit(' ').next())
        .is_some_and(|options| options.split(',').any(|o| o == "userxattr"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn userxattr_is_found_in_the_topmost_mount_at_the_target_only() {
        let table = "50 40 0:42 / /merged rw - overlay overlay rw,lowerdir=/a,userxattr\n\
                     51 40 0:43 / /other rw - overlay overlay rw\n";
        assert!(has_userxattr(table, Path::new("/merged")));
        assert!(!has_userxattr(table, Path::new("/other")));
        let covered = format!("{table}52 50 0:44 / /merged rw - overlay overlay rw,nouserxattr\n");
        assert!(!has_userxattr(&covered, Path::new("/merged")));
    }
}
