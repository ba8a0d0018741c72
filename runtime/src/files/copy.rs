//! A copy of a tree as faithful as `cp -a`: owners, modes, times, extended attributes, hard links, holes.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::ahead::Ahead;
use super::descent::Descent;
use super::fault::{Outcome, Problem};
use super::file_type;
use crate::root::Root;

/// Subdirectories of one directory, and hard links still to be found, that are remembered at most.
const MAX_REMEMBERED: usize = 1_000_000;

/// Largest list of attribute names, and largest value: XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h.
const MAX_XATTR: usize = 65_536;

/// A directory that is being copied: its subdirectories still to do, and its metadata, applied when it is complete.
struct Frame {
    pending: Vec<CString>,
    stat: Stat,
}

/// How files get their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// Byte by byte.
    Copy,
    /// By the file system, as long as it can.
    Clone,
}

struct Copier {
    means: Means,
    /// Whiteouts of overlayfs are copied.
    whiteouts: bool,
    source: Descent,
    target: Descent,
    /// Where the files with several names were copied to, by device and inode: paths from the base of `target`.
    links: HashMap<(u64, u64), PathBuf>,
    /// The base of `target`.
    base: Root,
    ahead: Option<Ahead>,
}

/// Copies `name` in `from`, whatever it is, to the new name `copy` in `to`.
pub(super) fn copy_tree(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, copy: &CStr) -> Outcome<()> {
    copy_with(from, name, to, copy, Means::Copy, false, None).map(drop)
}

/// Copies the layer of an overlay, whiteouts and all, sharing the data where the file system can, and taking what was copied
/// ahead. True when it shared all.
pub(super) fn copy_layer(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>) -> Outcome<bool> {
    let ahead = Ahead::open(to)?;
    Ok(copy_with(from, name, to, name, Means::Clone, true, ahead)? == Means::Clone)
}

fn copy_with(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    copy: &CStr,
    means: Means,
    whiteouts: bool,
    ahead: Option<Ahead>,
) -> Outcome<Means> {
    let mut copier = Copier {
        means,
        whiteouts,
        source: Descent::new(from)?,
        target: Descent::new(to)?,
        links: HashMap::new(),
        base: Root::new(to.try_clone_to_owned()?),
        ahead,
    };
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if file_type(&stat) != FileType::Directory {
        copier.copy_file(name, copy, &stat)?;
        return Ok(copier.means);
    }
    let mut frames = vec![copier.enter(name.to_owned(), copy.to_owned())?];
    while let Some(frame) = frames.last_mut() {
        if let Some(child) = frame.pending.pop() {
            frames.push(copier.enter(child.clone(), child)?);
            continue;
        }
        apply_metadata(copier.source.current()?, copier.target.current()?, &frame.stat)?;
        copier.source.pop();
        copier.target.pop();
        frames.pop();
    }
    Ok(copier.means)
}

impl Copier {
    /// Makes the directory, goes into it and copies its files.
    fn enter(&mut self, name: CString, copy: CString) -> Outcome<Frame> {
        rustix::fs::mkdirat(self.target.current()?, &copy, Mode::RWXU)?;
        self.source.push(name)?;
        self.target.push(copy)?;
        let dir = self.source.current()?;
        let stat = rustix::fs::fstat(dir)?;
        let mut pending = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = rustix::fs::statat(self.source.current()?, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match file_type(&stat) {
                FileType::Directory if pending.len() == MAX_REMEMBERED => return Err(Errno::TOOBIG.into()),
                FileType::Directory => pending.push(name.to_owned()),
                _ => self.copy_file(name, name, &stat)?,
            }
        }
        Ok(Frame { pending, stat })
    }

    fn copy_file(&mut self, name: &CStr, copy: &CStr, stat: &Stat) -> Outcome<()> {
        let linked = file_type(stat) != FileType::Symlink && stat.st_nlink > 1;
        if linked && self.link(copy, stat)? {
            return Ok(());
        }
        let (from, to) = (self.source.current()?, self.target.current()?);
        match file_type(stat) {
            FileType::RegularFile
                if self.ahead.as_mut().map_or(Ok(false), |ahead| ahead.take(stat, to, copy))? =>
            {
                self.means = Means::Copy;
                let flags =
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let open = |dir, name| rustix::fs::openat(dir, name, flags, Mode::empty());
                apply_metadata(open(from, name)?.as_fd(), open(to, copy)?.as_fd(), stat)?;
            }
            FileType::RegularFile => self.means = copy_regular(from, name, to, copy, self.means)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, copy)?;
                apply_by_name(to, copy, stat)?;
            }
            typ @ (FileType::Fifo | FileType::Socket) => copy_special(to, copy, typ, stat)?,
            typ @ FileType::CharacterDevice if self.whiteouts && stat.st_rdev == 0 => {
                copy_special(to, copy, typ, stat)?;
            }
            _ => return Err(Problem::refused("it has a device, which cannot be copied")),
        }
        if linked {
            if self.links.len() == MAX_REMEMBERED {
                return Err(Errno::TOOBIG.into());
            }
            self.links.insert((stat.st_dev, stat.st_ino), self.target.path_of(copy));
        }
        Ok(())
    }

    /// Makes `copy` another name of the file that was copied before, if it was.
    fn link(&mut self, copy: &CStr, stat: &Stat) -> Outcome<bool> {
        let Some(path) = self.links.get(&(stat.st_dev, stat.st_ino)) else { return Ok(false) };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = match self.base.open_without_symlinks(parent, OFlags::PATH | OFlags::DIRECTORY) {
            // Too deep for a path: a second copy, as any `cp` would make.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NAMETOOLONG) => return Ok(false),
            other => other?,
        };
        let name = path.file_name().unwrap_or_default();
        rustix::fs::linkat(&dir, name, self.target.current()?, copy, AtFlags::empty())?;
        Ok(true)
    }
}

/// Says by which means the next file is best copied.
fn copy_regular(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    copy: &CStr,
    means: Means,
) -> Outcome<Means> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&source)?;
    if file_type(&stat) != FileType::RegularFile {
        return Err(Errno::BUSY.into());
    }
    let target = create_new(to, copy)?;
    let (source, target) = (File::from(source), File::from(target));
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let cloned = means == Means::Clone && (size == 0 || rustix::fs::ioctl_ficlone(&target, &source).is_ok());
    if !cloned {
        copy_data(&source, &target, size)?;
    }
    apply_metadata(source.as_fd(), target.as_fd(), &stat)?;
    Ok(if cloned { Means::Clone } else { Means::Copy })
}

/// A new file of mode 0600, for writing.
pub(super) fn create_new(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
}

/// Copies the first `size` bytes, leaving the holes out.
pub(super) fn copy_data(source: &File, mut target: &File, size: u64) -> io::Result<()> {
    rustix::fs::ftruncate(target, size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?.min(size);
        rustix::fs::seek(source, SeekFrom::Start(start))?;
        rustix::fs::seek(target, SeekFrom::Start(start))?;
        // Shorter only if the guest truncates it now.
        let copied = io::copy(&mut source.take(end.saturating_sub(start)), &mut target)?;
        if copied == 0 {
            break;
        }
        at = start.saturating_add(copied);
    }
    Ok(())
}

fn copy_special(to: BorrowedFd<'_>, copy: &CStr, typ: FileType, stat: &Stat) -> Outcome<()> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    rustix::fs::mknodat(to, copy, typ, mode, 0)?;
    apply_by_name(to, copy, stat)?;
    if typ == FileType::Fifo {
        // For what the umask took. Read and write: opening neither blocks nor fails for want of another end.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = rustix::fs::openat(to, copy, flags, Mode::empty())?;
        if file_type(&rustix::fs::fstat(&fifo)?) == FileType::Fifo {
            rustix::fs::fchmod(&fifo, mode)?;
        }
    }
    Ok(())
}

fn ids(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds(stat.st_atime_nsec) },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds(stat.st_mtime_nsec) },
    }
}

/// Below 1,000,000,000, whatever integer this architecture has it in.
fn nanoseconds(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(0)
}

fn apply_by_name(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Outcome<()> {
    let (owner, group) = ids(stat);
    rustix::fs::chownat(dir, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::utimensat(dir, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Owner, mode, times and attributes.
pub(super) fn copy_metadata(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Outcome<()> {
    let stat = rustix::fs::fstat(source)?;
    apply_metadata(source, target, &stat)
}

/// The owner first: chown clears setuid bits and file capabilities.
fn apply_metadata(source: BorrowedFd<'_>, target: BorrowedFd<'_>, stat: &Stat) -> Outcome<()> {
    let (owner, group) = ids(stat);
    rustix::fs::fchown(target, owner, group)?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(source, target, |_| true)?;
    Ok(rustix::fs::futimens(target, &times(stat))?)
}

/// Copies the extended attributes that belong to the file (and `wanted`): the user's, capabilities and ACLs.
pub(super) fn copy_xattrs(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    wanted: impl Fn(&[u8]) -> bool,
) -> Outcome<()> {
    match rustix::fs::flistxattr_query(source) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    let mut list = vec![0; MAX_XATTR];
    let length = rustix::fs::flistxattr(source, list.as_mut_slice())?;
    for name in list[..length].split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let bytes = name.to_bytes();
        let ours = bytes.starts_with(b"user.")
            || bytes.starts_with(b"system.posix_acl_")
            || bytes == b"security.capability";
        if ours && wanted(bytes) {
            let mut value = vec![0; MAX_XATTR];
            let length = rustix::fs::fgetxattr(source, name, value.as_mut_slice())?;
            rustix::fs::fsetxattr(target, name, &value[..length], XattrFlags::empty())?;
        }
    }
    Ok(())
}
