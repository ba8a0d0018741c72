//! [`look`]: what an unpacked layer has under a name, as an archive of it would say.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fgetxattr, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::find::{FileNode, Node};
use super::path::split;
use super::unpack::list_xattrs;
use super::xattr::{FromDisk, from_disk};
use super::{Dialect, TreeFormat};
use crate::root::Root;

/// What `tree` has under `path`, clean and relative. No symbolic link is followed; `None` also for what is below
/// something that is no directory.
///
/// # Errors
/// Those of the system calls, whose names they do not have: the caller knows the path.
pub fn look(tree: BorrowedFd<'_>, path: &[u8], format: TreeFormat) -> io::Result<Option<Node>> {
    let (parent, name) = split(path);
    let Some(parent) = directory(tree, parent)? else { return Ok(None) };
    let parent = parent.as_fd();
    if format == TreeFormat::FuseOverlay && stat(parent, &[b".wh.", name].concat())?.is_some() {
        return Ok(Some(Node::Whiteout));
    }
    let Some(stat) = stat(parent, name)? else { return Ok(None) };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Node::Directory { opaque: marks(parent, name, format)?.opaque },
        FileType::Symlink => Node::Symlink(readlinkat(parent, name, Vec::new())?.into_bytes()),
        FileType::CharacterDevice if stat.st_rdev == 0 => Node::Whiteout,
        FileType::RegularFile if stat.st_size == 0 && marks(parent, name, format)?.whiteout => Node::Whiteout,
        FileType::RegularFile => Node::File(FileNode {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode & 0o7777,
            offset: 0,
            parts: Vec::new(),
        }),
        _ => Node::Other,
    }))
}

/// Opens the regular file that `tree` has under `path`, clean and relative; no symbolic link is followed.
///
/// # Errors
/// Those of openat2(2); `EINVAL` for what is no regular file.
pub fn open_regular(tree: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let root = Root::new(tree.try_clone_to_owned()?);
    // Not blocking, should it be a FIFO.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = root.open_without_symlinks(Path::new(OsStr::from_bytes(path)), flags)?;
    match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::RegularFile => Ok(fd),
        _ => Err(Errno::INVAL.into()),
    }
}

fn directory(tree: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    let root = Root::new(tree.try_clone_to_owned()?);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match root.open_without_symlinks(Path::new(OsStr::from_bytes(path)), flags) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) => match Errno::from_io_error(&e) {
            // A name that is too long is nobody's.
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
            _ => Err(e),
        },
    }
}

fn stat(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What the attributes of a name say about the layers below.
#[derive(Default)]
struct Marks {
    opaque: bool,
    whiteout: bool,
}

fn marks(parent: BorrowedFd<'_>, name: &[u8], format: TreeFormat) -> io::Result<Marks> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty())?;
    let names = match list_xattrs(&fd) {
        Err(Errno::OPNOTSUPP) => return Ok(Marks::default()),
        names => names?,
    };
    let mut marks = Marks::default();
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        match from_disk(name, Dialect::Snapshot, format) {
            FromDisk::Whiteout => marks.whiteout = true,
            FromDisk::Opaque => {
                let mut value = [0u8; 4];
                marks.opaque |= matches!(fgetxattr(&fd, name, &mut value), Ok(1) if value[0] == b'y');
            }
            _ => {}
        }
    }
    Ok(marks)
}
