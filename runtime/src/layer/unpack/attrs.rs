//! Owners, modes, times and attributes onto open files.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod, fchown,
    flistxattr, fremovexattr, fsetxattr, fstat, futimens, utimensat,
};
use rustix::io::Errno;

use super::fault::{During, Fault, Step};
use crate::layer::entry::Meta;
use crate::layer::report::{Warning, WarningKind, Warnings};
use crate::layer::tar::Mtime;
use crate::layer::xattr::{CAPABILITY, OPAQUE, is_acl};

/// What a new file gets without being told: measured once, so that most files need no fchown and fchmod.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Defaults {
    /// Owner of a new file; `None` when it depends on the directory (a live tree).
    pub(super) owner: Option<(u32, u32)>,
    /// The bits that the process takes away from a new file's mode.
    pub(super) umask: u32,
}

impl Defaults {
    /// Whether a file made with `mode` has that mode and owner afterwards.
    pub(super) fn gives_mode(self, mode: u32) -> bool {
        self.owner.is_some() && mode & (self.umask | 0o7000) == 0
    }
}

/// Access time left alone, modification time set.
fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

/// Applies everything to a file or a directory, in the one order in which nothing undoes the step before: chown
/// clears set-id bits and capabilities, a list changes the mode, everything changes times.
pub(super) fn apply(
    fd: BorrowedFd<'_>,
    path: &[u8],
    meta: &Meta,
    made: Option<Defaults>,
    warnings: &mut Warnings,
) -> Step<()> {
    chown(fd, meta.owner, made.and_then(|made| made.owner))?;
    for (name, value) in &meta.xattrs {
        set_xattr(fd, path, name, value, warnings)?;
    }
    if !made.is_some_and(|made| made.gives_mode(meta.mode) && meta.xattrs.is_empty()) {
        fchmod(fd, Mode::from_raw_mode(meta.mode)).during("set the mode of")?;
    }
    futimens(fd, &times(meta.mtime)).during("set the time of")
}

fn chown(fd: BorrowedFd<'_>, owner: Option<(u32, u32)>, current: Option<(u32, u32)>) -> Step<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    let current = match current {
        Some(current) => current,
        None => {
            let stat = fstat(fd).during("look at")?;
            (stat.st_uid, stat.st_gid)
        }
    };
    if current == (uid, gid) {
        return Ok(());
    }
    fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).during("set the owner of")
}

fn set_xattr(
    fd: BorrowedFd<'_>,
    path: &[u8],
    name: &[u8],
    value: &[u8],
    warnings: &mut Warnings,
) -> Step<()> {
    match fsetxattr(fd, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        // No file system support, or no privilege over this name: a plain user unpacks an image with capabilities.
        Err(Errno::OPNOTSUPP | Errno::PERM) => {
            warnings.push(Warning::new(WarningKind::XattrDenied, path, name));
            Ok(())
        }
        // A list that names ids which are not mapped here.
        Err(Errno::INVAL) if is_acl(name) => {
            warnings.push(Warning::new(WarningKind::XattrDenied, path, name));
            Ok(())
        }
        Err(errno) => Err(Fault::Xattr { name: name.to_vec(), source: errno.into() }),
    }
}

/// Sets the mark that makes the overlay hide what lies below.
pub(super) fn set_opaque(fd: BorrowedFd<'_>) -> Step<()> {
    fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty()).during("mark as opaque")
}

/// Removes the attributes that an earlier entry or the layer below left on a directory.
pub(super) fn clear_xattrs(fd: BorrowedFd<'_>) -> Step<()> {
    let names = match list_xattrs(fd) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno).during("list the attributes of"),
    };
    for name in names.split(|&b| b == 0) {
        let ours = name != OPAQUE && (name.starts_with(b"user.") || name == CAPABILITY || is_acl(name));
        if ours {
            fremovexattr(fd, name).during("remove an attribute of")?;
        }
    }
    Ok(())
}

/// The names of all attributes, each ended by a NUL.
pub(crate) fn list_xattrs(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut names = vec![0; 1024];
    loop {
        match flistxattr(&fd, names.as_mut_slice()) {
            Ok(len) => {
                names.truncate(len);
                return Ok(names);
            }
            // xattr(7): XATTR_LIST_MAX is 64 KiB.
            Err(Errno::RANGE) if names.len() < 65_536 => names.resize(65_536, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// Owner and time of a symbolic link, which cannot be opened.
pub(super) fn apply_link(dir: BorrowedFd<'_>, name: &[u8], meta: &Meta, made: Defaults) -> Step<()> {
    if let Some((uid, gid)) = meta.owner.filter(|owner| made.owner != Some(*owner)) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).during("set the owner of")?;
    }
    utimensat(dir, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW).during("set the time of")
}
