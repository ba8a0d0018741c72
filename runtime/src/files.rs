//! File operations on a vessel's tree, for a caller outside of it: open, stat, list, make, remove, rename, replace.
//!
//! The tree belongs to the guest and may change under every step. Paths are resolved by the kernel under a [`Root`], and
//! from there on everything goes by descriptors and single names that are never followed; nothing is opened that could
//! block or act by being opened. `/` is the root of the tree and symlinks mean what they mean inside.
//! Failures are [`Fault`]s, ready for the wire: `failed to open "/x": no such file or directory`.
//! Sources: openat2(2), open(2), unlink(2), rename(2), Documentation/filesystems/overlayfs.rst.
#![forbid(unsafe_code)]

mod ahead;
mod copy;
mod descent;
mod fault;
mod remove;
mod rename;
mod within;
mod write;

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::root::Root;
use crate::shim::protocol::{Fault, FaultKind, FileStat};
use fault::{Outcome, Problem};
pub use within::{Bounds, set_owner};

/// Names of temporary files and directories, which a crash can leave behind, start with this.
pub const TEMPORARY_PREFIX: &str = ".vesselrt-";

/// Longest list that [`read_dir`] makes.
pub const MAX_ENTRIES: usize = 1_000_000;

/// Longest path, bytes: PATH_MAX with its NUL.
const MAX_PATH: usize = 4096;

/// Opens a regular file or a directory.
///
/// `flags` are `O_*` of fcntl.h: the access mode, `APPEND`, `CREAT`, `EXCL`, `TRUNC`, `NOFOLLOW`, `DIRECTORY` (and
/// `CLOEXEC`, `LARGEFILE`, which are implied). Creating through a dangling symlink creates its target inside.
/// `mode` are the permission bits of a created file, less the umask of this process.
///
/// # Errors
/// A [`Fault`]; FIFOs, sockets and devices are [`FaultKind::InvalidArgument`] and never opened.
pub fn open(root: &Root, path: &[u8], flags: u32, mode: u32) -> Result<OwnedFd, Fault> {
    checked(path)
        .and_then(|inside| open_file(root, inside, flags, mode))
        .map_err(|it| it.fault("open", &[path]))
}

/// Metadata of what is at `path`; with `follow`, of what a symlink at its end leads to.
///
/// # Errors
/// A [`Fault`].
pub fn stat(root: &Root, path: &[u8], follow: bool) -> Result<FileStat, Fault> {
    let outcome = checked(path).and_then(|inside| {
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        let found = root.open(inside, flags, 0)?;
        let stat = rustix::fs::fstat(&found)?;
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Some(rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes()),
            _ => None,
        };
        Ok(file_stat(&stat, target))
    });
    outcome.map_err(|it| it.fault("stat", &[path]))
}

/// The entries of a directory with their own metadata (symlinks not followed), sorted by name.
///
/// # Errors
/// A [`Fault`]; [`FaultKind::LimitExceeded`] beyond [`MAX_ENTRIES`].
pub fn read_dir(root: &Root, path: &[u8]) -> Result<Vec<(Vec<u8>, FileStat)>, Fault> {
    let outcome = checked(path).and_then(|inside| {
        let dir = root.open(inside, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
        entries(dir.as_fd(), MAX_ENTRIES)
    });
    outcome.map_err(|it| it.fault("list", &[path]))
}

/// Makes a directory with exactly the permission bits `mode`, whatever the umask (a parent's setgid bit is inherited).
/// With `parents`, also what is missing above it, and it may be there already.
///
/// # Errors
/// A [`Fault`].
pub fn make_dir(root: &Root, path: &[u8], mode: u32, parents: bool) -> Result<(), Fault> {
    let outcome = checked(path).and_then(|inside| match parents {
        true => make_dirs(root, inside, mode),
        false => make_one(root, inside, mode),
    });
    outcome.map_err(|it| it.fault("make directory", &[path]))
}

/// Removes a file, a symlink or an empty directory; with `recursive`, a directory with everything in it.
///
/// # Errors
/// A [`Fault`]; the root itself is refused. A failed recursive removal may have removed a part.
pub fn remove(root: &Root, path: &[u8], recursive: bool) -> Result<(), Fault> {
    checked(path)
        .and_then(|inside| remove::remove(root, inside, recursive))
        .map_err(|it| it.fault("remove", &[path]))
}

/// Gives `target` owner, mode, times and attributes of `source`; both are directories called `name`.
///
/// # Errors
/// A [`Fault`].
pub(crate) fn copy_metadata(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &std::ffi::CStr,
) -> Result<(), Fault> {
    copy::copy_metadata(source, target).map_err(|it| it.fault("copy the attributes of", &[name.to_bytes()]))
}

/// Copies what is large of the layer `name` in `from` into `to` before [`copy_layer`] does the rest there, while the layer may
/// still change. What then cannot be used is left in a directory of its own.
///
/// # Errors
/// A [`Fault`].
pub(crate) fn copy_ahead(
    from: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    to: BorrowedFd<'_>,
) -> Result<(), Fault> {
    ahead::copy_ahead(from, name, to).map_err(|it| it.fault("copy the layer ahead", &[name.to_bytes()]))
}

/// Copies `name` in `from`, the layer of an overlay, to the same name in `to`, where nothing is called that. Whiteouts and
/// the attributes of overlayfs are copied as they are; data is shared where the file system can. True when all of it is.
///
/// # Errors
/// A [`Fault`]; what was copied is to be thrown away then.
pub(crate) fn copy_layer(
    from: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    to: BorrowedFd<'_>,
) -> Result<bool, Fault> {
    copy::copy_layer(from, name, to).map_err(|it| it.fault("copy the layer", &[name.to_bytes()]))
}

/// Renames as rename(2) does, except that the source itself as destination is refused.
///
/// Where overlayfs cannot rename (`EXDEV`: a directory that a lower layer has), the tree is copied next to the
/// destination, with owners, modes, times, extended attributes and hard links, put in place by one rename, and the source
/// removed. What the guest writes into the source meanwhile may be lost.
///
/// # Errors
/// A [`Fault`]. Until the source is being removed, a failure leaves everything as it was.
pub fn rename(root: &Root, from: &[u8], to: &[u8]) -> Result<(), Fault> {
    let outcome = checked(from).and_then(|source| rename::rename(root, source, checked(to)?));
    outcome.map_err(|it| it.fault("rename", &[from, to]))
}

/// Replaces the content of a file as a whole: the old content stays or the new is there, even after a power loss.
///
/// The file keeps its owner, permission bits (without setuid and setgid, as write(2) drops them) and extended
/// attributes; a new one is root's and has `mode`. `data` is read to its end on the calling thread. A symlink is followed inside. A file with several names, or that
/// something is mounted on, is written in place, so that it stays that file: that is not atomic.
///
/// # Errors
/// A [`Fault`]; nothing but a regular file is replaced.
pub fn write_file(root: &Root, path: &[u8], mode: u32, data: impl Read) -> Result<(), Fault> {
    checked(path)
        .and_then(|inside| write::write_file(root, inside, mode, data))
        .map_err(|it| it.fault("write", &[path]))
}

/// Refuses what cannot be a path, before the kernel is asked.
fn checked(path: &[u8]) -> Outcome<&Path> {
    match path {
        _ if path.contains(&0) => Err(Problem::refused("the path has a NUL byte")),
        _ if path.len() >= MAX_PATH => Err(Errno::NAMETOOLONG.into()),
        _ => Ok(Path::new(OsStr::from_bytes(path))),
    }
}

/// Whether the path can only mean a directory: `a/`, `a/.`.
fn wants_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.")
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn require_plain(fd: BorrowedFd<'_>) -> Outcome<()> {
    match file_type(&rustix::fs::fstat(fd)?) {
        FileType::RegularFile | FileType::Directory => Ok(()),
        FileType::Symlink => Err(Errno::LOOP.into()),
        _ => Err(Problem::refused("not a regular file or directory")),
    }
}

fn open_file(root: &Root, path: &Path, flags: u32, mode: u32) -> Outcome<OwnedFd> {
    let flags = open_flags(flags)?;
    let create = OFlags::CREATE | OFlags::EXCL;
    let peek = OFlags::PATH | (flags & OFlags::NOFOLLOW);
    let peeked = match root.open(path, peek, 0) {
        Ok(found) => Some(found),
        Err(error)
            if Errno::from_io_error(&error) == Some(Errno::NOENT) && flags.contains(OFlags::CREATE) =>
        {
            None
        }
        Err(error) => return Err(error.into()),
    };
    // A directory that is to be created is told from one that is there by the kernel: EISDIR or EEXIST.
    let flags = match peeked {
        Some(found) if !flags.contains(create) => {
            require_plain(found.as_fd())?;
            flags
        }
        _ => flags,
    };
    // The guest may have put a FIFO there since: NONBLOCK keeps that from blocking.
    let file = root.open(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, mode)?;
    require_plain(file.as_fd())?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

fn open_flags(flags: u32) -> Outcome<OFlags> {
    let taken = OFlags::ACCMODE
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::TRUNC
        | OFlags::NOFOLLOW
        | OFlags::DIRECTORY;
    let flags = OFlags::from_bits_retain(flags) - OFlags::CLOEXEC - OFlags::LARGEFILE;
    match flags & OFlags::ACCMODE {
        _ if !(flags - taken).is_empty() => Err(Problem::refused("a flag that is not supported")),
        OFlags::RDONLY | OFlags::WRONLY | OFlags::RDWR => Ok(flags),
        _ => Err(Problem::refused("an access mode that is not supported")),
    }
}

fn file_stat(stat: &Stat, target: Option<Vec<u8>>) -> FileStat {
    FileStat {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: unsigned(stat.st_size),
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        ino: stat.st_ino,
        nlink: unsigned(stat.st_nlink),
        target,
    }
}

/// Counts that are never negative, in whatever integer this architecture has them.
fn unsigned(value: impl TryInto<u64>) -> u64 {
    value.try_into().unwrap_or(0)
}

fn entries(dir: BorrowedFd<'_>, limit: usize) -> Outcome<Vec<(Vec<u8>, FileStat)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entries.len() == limit {
            return Err(Problem::Refused {
                kind: FaultKind::LimitExceeded,
                why: "the directory has too many entries",
            });
        }
        // Gone since, or not a symlink any more: the list is of one moment or another.
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let target = match file_type(&stat) {
            FileType::Symlink => rustix::fs::readlinkat(dir, name, Vec::new()).ok().map(CString::into_bytes),
            _ => None,
        };
        entries.push((name.to_bytes().to_vec(), file_stat(&stat, target)));
    }
    entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

fn make_one(root: &Root, path: &Path, mode: u32) -> Outcome<()> {
    let parent = root.parent(path)?;
    rustix::fs::mkdirat(&parent.dir, &parent.name, Mode::from_raw_mode(mode & 0o7777))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&parent.dir, &parent.name, flags, Mode::empty())?;
    let is = rustix::fs::fstat(&made)?.st_mode & 0o7777;
    let wanted = (mode & 0o7777) | (is & 0o2000);
    if is != wanted {
        rustix::fs::fchmod(&made, Mode::from_raw_mode(wanted))?;
    }
    Ok(())
}

fn make_dirs(root: &Root, path: &Path, mode: u32) -> Outcome<()> {
    let is_directory = |path: &Path| root.open(path, OFlags::PATH | OFlags::DIRECTORY, 0).map(drop);
    if is_directory(path).is_ok() {
        return Ok(());
    }
    let mut prefix = PathBuf::new();
    for component in path.components() {
        prefix.push(component);
        match is_directory(&prefix) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
            other => {
                other?;
                continue;
            }
        }
        match make_one(root, &prefix, mode) {
            // The guest was faster; or a dangling symlink, which stays an error.
            Err(Problem::Os(error)) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {
                is_directory(&prefix).map_err(|_| error)?;
            }
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
