//! Removal of files and whole trees.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, unlinkat};
use rustix::io::Errno;

use super::descent::{Descent, is_change};
use super::fault::{Outcome, Problem};
use super::wants_directory;
use crate::root::Root;

/// Subdirectories remembered of one directory before they are worked off.
const BATCH: usize = 4096;
/// How often a directory that was just emptied may have been filled again by the guest, in one removal.
const MAX_REFILLS: u32 = 1000;

pub(super) fn remove(root: &Root, path: &Path, recursive: bool) -> Outcome<()> {
    let parent = root.parent(path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::INVAL) => Problem::refused("it has no name of its own"),
        _ => error.into(),
    })?;
    let name = c_name(&parent.name)?;
    if wants_directory(path) {
        let stat = rustix::fs::statat(&parent.dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
    }
    match remove_one(parent.dir.as_fd(), &name) {
        Err(Errno::NOTEMPTY) if recursive => remove_tree(parent.dir.as_fd(), &name),
        other => Ok(other?),
    }
}

/// A single name for the kernel.
pub(super) fn c_name(name: &Path) -> Outcome<CString> {
    CString::new(name.as_os_str().as_bytes()).map_err(|_| Problem::refused("the path has a NUL byte"))
}

/// Removes a file or an empty directory; `ENOTEMPTY` (never `EEXIST`) of a directory that is not.
fn remove_one(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        // POSIX has EPERM for a directory; if it was something else, rmdir says ENOTDIR.
        Err(refused @ (Errno::ISDIR | Errno::PERM)) => match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTDIR) => Err(refused),
            Err(Errno::EXIST) => Err(Errno::NOTEMPTY),
            other => other,
        },
        other => other,
    }
}

/// Removes the directory `name` with everything in it, by descriptors, at any depth.
pub(super) fn remove_tree(dir: BorrowedFd<'_>, name: &CStr) -> Outcome<()> {
    let mut descent = Descent::new(dir)?;
    descent.push(name.to_owned())?;
    // Per level of the descent: the subdirectories that are known not to be empty.
    let mut pending: Vec<Vec<CString>> = vec![Vec::new()];
    let mut refills = 0;
    while let Some(level) = pending.last_mut() {
        if let Some(child) = level.pop() {
            match descent.push(child) {
                Ok(()) => pending.push(Vec::new()),
                Err(errno) if is_change(errno) => {}
                Err(errno) => return Err(errno.into()),
            }
            continue;
        }
        match descent.current().and_then(remove_entries) {
            Ok(found) if found.is_empty() => {}
            Ok(found) => {
                *level = found;
                continue;
            }
            // The guest moved the directory away: there is nothing to remove here any more.
            Err(errno) if is_change(errno) => {}
            Err(errno) => return Err(errno.into()),
        }
        pending.pop();
        let Some(emptied) = descent.pop() else { break };
        match descent.current().and_then(|above| remove_one(above, &emptied)) {
            Err(Errno::NOTEMPTY) if refills < MAX_REFILLS => {
                refills += 1;
                pending.push(Vec::new());
                descent.push(emptied)?;
            }
            Err(errno) if !is_change(errno) => return Err(errno.into()),
            _ => {}
        }
    }
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        _ => Err(Errno::BUSY.into()),
    }
}

/// Removes everything in `dir` that one call can remove; returns subdirectories that are not empty.
fn remove_entries(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match remove_one(dir, name) {
            Err(Errno::NOTEMPTY) => found.push(name.to_owned()),
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        if found.len() == BATCH {
            break;
        }
    }
    Ok(found)
}
