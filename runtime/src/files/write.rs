//! Replacing the content of a file.
#![forbid(unsafe_code)]

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::copy::{copy_xattrs, create_new};
use super::fault::{Outcome, Problem};
use super::remove::c_name;
use super::rename::temporary_name;
use super::{MAX_PATH, file_type, wants_directory};
use crate::root::{Parent, Root, is_mount_root};

/// Symlinks followed at the end of a path, as the kernel has it (path_resolution(7)).
const MAX_LINKS: u32 = 40;

pub(super) fn write_file(root: &Root, path: &Path, mode: u32, data: impl Read) -> Outcome<()> {
    let (parent, stat) = find(root, path)?;
    let name = c_name(&parent.name)?;
    match &stat {
        Some(stat) if file_type(stat) == FileType::Directory => Err(Errno::ISDIR.into()),
        Some(stat) if file_type(stat) != FileType::RegularFile => Err(Problem::refused("not a regular file")),
        Some(stat) if stat.st_nlink > 1 || is_mounted(parent.dir.as_fd(), &name) => {
            write_in_place(parent.dir.as_fd(), &name, data)
        }
        _ => replace(parent.dir.as_fd(), &name, stat.as_ref(), mode, data),
    }
}

/// Something is mounted on the file: another one cannot take its place.
fn is_mounted(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    is_mount_root(dir, name).unwrap_or(false)
}

/// Follows symlinks at the end of the path: the directory and name of the file, and the file if there is one.
fn find(root: &Root, path: &Path) -> Outcome<(Parent, Option<Stat>)> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if wants_directory(&path) {
            return Err(Errno::ISDIR.into());
        }
        let parent = root.parent(&path).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::INVAL) => Problem::from(Errno::ISDIR),
            _ => error.into(),
        })?;
        let stat = match rustix::fs::statat(&parent.dir, &parent.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok((parent, None)),
            other => other?,
        };
        if file_type(&stat) != FileType::Symlink {
            return Ok((parent, Some(stat)));
        }
        let target = match rustix::fs::readlinkat(&parent.dir, &parent.name, Vec::new()) {
            // Replaced since it was looked at.
            Err(Errno::INVAL | Errno::NOENT) => continue,
            other => other?,
        };
        path = beside(&path, Path::new(OsStr::from_bytes(target.to_bytes())));
        if path.as_os_str().len() >= MAX_PATH {
            return Err(Errno::NAMETOOLONG.into());
        }
    }
    Err(Errno::LOOP.into())
}

/// The path that a symlink at `link` stands for; `..` is left to the kernel, which goes by the directories themselves.
fn beside(link: &Path, target: &Path) -> PathBuf {
    link.parent().unwrap_or(Path::new("/")).join(target)
}

/// A second name must not become a second file, so the content changes under all of them.
fn write_in_place(dir: BorrowedFd<'_>, name: &CStr, mut data: impl Read) -> Outcome<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if file_type(&rustix::fs::fstat(&file)?) != FileType::RegularFile {
        return Err(Errno::BUSY.into());
    }
    rustix::fs::ftruncate(&file, 0)?;
    let mut file = File::from(file);
    io::copy(&mut data, &mut file)?;
    Ok(())
}

fn replace(
    dir: BorrowedFd<'_>,
    name: &CStr,
    old: Option<&Stat>,
    mode: u32,
    mut data: impl Read,
) -> Outcome<()> {
    let staged = temporary_name()?;
    let mut file = File::from(create_new(dir, &staged)?);
    let outcome = io::copy(&mut data, &mut file)
        .map_err(Problem::from)
        .and_then(|_| match old {
            Some(old) => take_over(dir, name, old, &file),
            None => Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?),
        })
        // Not synced, as a program inside would not either: whoever needs a file on disk syncs it.
        .and_then(|()| Ok(rustix::fs::renameat(dir, &staged, dir, name)?));
    if outcome.is_err() {
        // A failure leaves a hidden name behind, which the guest can see and remove.
        let _ = rustix::fs::unlinkat(dir, &staged, AtFlags::empty());
    }
    outcome
}

/// Gives the new file the owner, permissions and attributes of the old one, as far as writing would have kept them.
fn take_over(dir: BorrowedFd<'_>, name: &CStr, old: &Stat, file: &File) -> Outcome<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(old.st_mode & 0o1777))?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(source) if file_type(&rustix::fs::fstat(&source)?) == FileType::RegularFile => {
            copy_xattrs(source.as_fd(), file.as_fd(), |name| name != b"security.capability")
        }
        // Gone or replaced since: nothing to take over.
        Ok(_) | Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
