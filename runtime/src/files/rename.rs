//! Renaming, with a copy where overlayfs cannot rename.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Stat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::copy::copy_tree;
use super::descent::open;
use super::fault::{Outcome, Problem};
use super::remove::{c_name, remove_tree};
use super::{TEMPORARY_PREFIX, file_type, wants_directory};
use crate::root::{Parent, Root};

pub(super) fn rename(root: &Root, from: &Path, to: &Path) -> Outcome<()> {
    let named = |path| {
        root.parent(path).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::INVAL) => Problem::refused("one of them has no name of its own"),
            _ => error.into(),
        })
    };
    let (source, target) = (named(from)?, named(to)?);
    let (old, new) = (c_name(&source.name)?, c_name(&target.name)?);
    let stat = rustix::fs::statat(&source.dir, &old, AtFlags::SYMLINK_NOFOLLOW)?;
    if file_type(&stat) != FileType::Directory && (wants_directory(from) || wants_directory(to)) {
        return Err(Errno::NOTDIR.into());
    }
    if is_same_place(&source, &target)? {
        return Err(Problem::refused("they are the same"));
    }
    match rustix::fs::renameat(&source.dir, &old, &target.dir, &new) {
        Err(Errno::XDEV) => move_by_copy((source.dir.as_fd(), &old, &stat), (target.dir.as_fd(), &new)),
        other => Ok(other?),
    }
}

fn is_same_place(source: &Parent, target: &Parent) -> Outcome<bool> {
    let (one, other) = (rustix::fs::fstat(&source.dir)?, rustix::fs::fstat(&target.dir)?);
    Ok(source.name == target.name && (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Copies to a temporary name next to the destination, renames that over it, and removes the source.
pub(super) fn move_by_copy(
    source: (BorrowedFd<'_>, &CStr, &Stat),
    target: (BorrowedFd<'_>, &CStr),
) -> Outcome<()> {
    let (from, old, stat) = source;
    let (to, new) = target;
    require_replaceable(to, new, file_type(stat) == FileType::Directory)?;
    let staged = temporary_name()?;
    let outcome = copy_tree(from, old, to, &staged)
        .and_then(|()| Ok(rustix::fs::renameat(to, &staged, to, new)?))
        .map_err(|error| discard(to, &staged, error));
    outcome?;
    remove_anything(from, old)
}

/// What rename(2) says of a destination that cannot be replaced, before a long copy is made.
fn require_replaceable(dir: BorrowedFd<'_>, name: &CStr, by_directory: bool) -> Outcome<()> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    match (by_directory, file_type(&stat) == FileType::Directory) {
        (true, false) => Err(Errno::NOTDIR.into()),
        (false, true) => Err(Errno::ISDIR.into()),
        (false, false) => Ok(()),
        (true, true) => {
            for entry in Dir::read_from(open(dir, name)?)? {
                if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                    return Err(Errno::NOTEMPTY.into());
                }
            }
            Ok(())
        }
    }
}

/// Removes what was staged; the error that is told is the one that made it useless.
fn discard(dir: BorrowedFd<'_>, staged: &CStr, error: Problem) -> Problem {
    // A failure leaves a hidden name behind, which the guest can see and remove.
    let _ = remove_anything(dir, staged);
    error
}

fn remove_anything(dir: BorrowedFd<'_>, name: &CStr) -> Outcome<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => remove_tree(dir, name),
        other => Ok(other?),
    }
}

/// A hidden name that the guest cannot guess.
pub(super) fn temporary_name() -> Outcome<CString> {
    let mut random = [0; 8];
    getrandom(&mut random[..], GetRandomFlags::empty())?;
    let name = format!("{TEMPORARY_PREFIX}{:016x}", u64::from_ne_bytes(random));
    Ok(CString::new(name).expect("letters and digits have no NUL"))
}
