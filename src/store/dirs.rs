//! Directories and small files of a store, by descriptor. A symlink is never followed: the store has none.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::staged::unique;
use crate::error::{Error, Result};
use crate::offload;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens a directory by its path.
pub(crate) fn open_path(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, DIRECTORY, Mode::empty())
        .map_err(|e| Error::io(format!("failed to open the directory {}", path.display()), e))
}

/// Opens a directory, if it is there.
pub(crate) fn open(parent: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>> {
    match rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(Error::io(format!("failed to open the directory {name:?} of the store"), e)),
    }
}

/// Makes a directory (0700) unless it is there, and opens it.
pub(crate) fn make(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(Error::io(format!("failed to make the directory {name:?} in the store"), e)),
    }
    open(parent, name)?
        .ok_or_else(|| Error::io(format!("failed to open the directory {name:?}"), Errno::NOENT))
}

/// Whether there is an entry of that name.
pub(crate) fn exists(parent: BorrowedFd<'_>, name: &str) -> Result<bool> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::io(format!("failed to stat {name:?} in the store"), e)),
    }
}

/// `name` in `parent` is the directory that `fd` is open on.
pub(crate) fn is_same(parent: BorrowedFd<'_>, name: &str, fd: BorrowedFd<'_>) -> Result<bool> {
    let own = rustix::fs::fstat(fd).map_err(|e| Error::io(format!("failed to stat {name:?}"), e))?;
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::io(format!("failed to stat {name:?} in the store"), e)),
    }
}

/// The names in a directory that are UTF-8, as all of ours are; in no order.
pub(crate) fn names(dir: BorrowedFd<'_>) -> Result<Vec<String>> {
    let failed = |e| Error::io("failed to list a directory of the store", e);
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Renames from directory to directory; false when something has the new name.
pub(crate) fn publish(from: BorrowedFd<'_>, old: &str, to: BorrowedFd<'_>, new: &str) -> Result<bool> {
    let renamed = match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        // Not every file system knows the flag; a directory that is not empty is not replaced anyway.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(from, old, to, new),
        other => other,
    };
    match renamed {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
        Err(e) => Err(Error::io(format!("failed to rename {old:?} to {new:?} in the store"), e)),
    }
}

/// Renames from directory to directory, if it is there.
pub(crate) fn rename_if_there(from: BorrowedFd<'_>, old: &str, to: BorrowedFd<'_>, new: &str) -> Result<()> {
    match rustix::fs::renameat(from, old, to, new) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io(format!("failed to rename {old:?} to {new:?} in the store"), e)),
    }
}

/// Removes a file, if it is there.
pub(crate) fn unlink(dir: BorrowedFd<'_>, name: &str) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io(format!("failed to remove {name:?} in the store"), e)),
    }
}

/// Makes an empty file, or finds it.
pub(crate) fn touch(dir: BorrowedFd<'_>, name: &str) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, PRIVATE_FILE)
        .map(drop)
        .map_err(|e| Error::io(format!("failed to create {name:?} in the store"), e))
}

/// Waits until the entries of a directory are on disk.
pub(crate) fn sync(dir: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fsync(dir).map_err(|e| Error::io("failed to sync a directory of the store", e))
}

/// Waits until everything that was written to the file system of a directory is on disk.
pub(crate) fn sync_all(dir: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::syncfs(dir).map_err(|e| Error::io("failed to sync the file system of the store", e))
}

/// The content of a regular file of at most `limit` bytes, if it is there.
pub(crate) fn read_small(dir: BorrowedFd<'_>, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let failed = |e: std::io::Error| Error::io(format!("failed to read {name:?} in the store"), e);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(failed(e.into())),
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(Error::integrity(format!("{name:?} in the store is not a regular file")));
    }
    // One more than there should be, so that the end is seen without asking again.
    let mut bytes = Vec::with_capacity(usize::try_from(found.len().min(limit)).unwrap_or(0) + 1);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::integrity(format!("{name:?} in the store has more than {limit} bytes")));
    }
    Ok(Some(bytes))
}

/// What of a written file survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// Nothing for sure: it may even be empty.
    Nothing,
    /// Either the old content or the new.
    Either,
    /// The new content.
    New,
}

/// Replaces a file as a whole.
pub(crate) fn write_atomic(dir: BorrowedFd<'_>, name: &str, bytes: &[u8], durable: Durable) -> Result<()> {
    let replacement = Replacement::write(dir, name, bytes, durable != Durable::Nothing)?;
    match durable {
        Durable::Nothing => replacement.exchange(),
        _ => replacement.put(durable == Durable::New),
    }
}

/// The new content of a file beside the old one. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Replacement<'a> {
    dir: BorrowedFd<'a>,
    name: &'a str,
    staged: Option<String>,
}

impl<'a> Replacement<'a> {
    /// Writes it. One that is not `synced` here must be on disk before it is put in place.
    pub(crate) fn write(dir: BorrowedFd<'a>, name: &'a str, bytes: &[u8], synced: bool) -> Result<Self> {
        let staged = unique(&format!(".{name}"));
        let written = write_new(dir, &staged, bytes, synced);
        let replacement = Self { dir, name, staged: Some(staged) };
        written.map_err(|e| Error::io(format!("failed to write {name:?} in the store"), e))?;
        Ok(replacement)
    }

    /// Puts it in the place of the old one, of which nobody minds if it is lost, too.
    ///
    /// ext4 writes a file that replaces another one to disk at once (mount option `auto_da_alloc`, ext4(5)), and whoever removes
    /// it a moment later waits for that, and for its blocks to be discarded: a millisecond. It does not when they change places.
    fn exchange(self) -> Result<()> {
        let Some(staged) = &self.staged else { return Ok(()) };
        match rustix::fs::renameat_with(self.dir, staged, self.dir, self.name, RenameFlags::EXCHANGE) {
            // The old one goes under the name of the new one.
            Ok(()) => Ok(()),
            // There is none, or the file system does not know that.
            Err(_) => self.put(false),
        }
    }

    /// Puts it in the place of the old one.
    pub(crate) fn put(mut self, synced: bool) -> Result<()> {
        let Some(staged) = &self.staged else { return Ok(()) };
        // A file goes with the last descriptor of it. That takes longer than all the rest where its blocks are discarded.
        let before = rustix::fs::openat(
            self.dir,
            self.name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let put = rustix::fs::renameat(self.dir, staged, self.dir, self.name).and_then(|()| {
            self.staged = None;
            if synced { rustix::fs::fsync(self.dir) } else { Ok(()) }
        });
        offload::drop_later(before);
        put.map_err(|e| Error::io(format!("failed to write {:?} in the store", self.name), e))
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if let Some(staged) = &self.staged {
            // What cannot be removed now is not seen by anyone.
            let _ = rustix::fs::unlinkat(self.dir, staged, AtFlags::empty());
        }
    }
}

fn write_new(dir: BorrowedFd<'_>, name: &str, bytes: &[u8], synced: bool) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, name, flags, PRIVATE_FILE)?);
    file.write_all(bytes)?;
    if synced { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::os::fd::AsFd;

    #[test]
    fn files_are_replaced_and_read_within_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        let fd = open_path(dir.path()).unwrap();
        assert!(read_small(fd.as_fd(), "f", 9).unwrap().is_none());
        let kinds = [Durable::Nothing, Durable::Nothing, Durable::New, Durable::Nothing];
        for (content, durable) in ["one", "two2", "3", "four"].into_iter().zip(kinds) {
            write_atomic(fd.as_fd(), "f", content.as_bytes(), durable).unwrap();
            assert_eq!(read_small(fd.as_fd(), "f", 4).unwrap().unwrap(), content.as_bytes());
        }
        assert_eq!(read_small(fd.as_fd(), "f", 3).unwrap_err().kind(), ErrorKind::IntegrityViolation);
        assert_eq!(names(fd.as_fd()).unwrap(), ["f"]);
    }

    #[test]
    fn symlinks_and_fifos_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let fd = open_path(dir.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert!(read_small(fd.as_fd(), "link", 1 << 20).is_err());
        std::os::unix::fs::symlink("/etc", dir.path().join("dir")).unwrap();
        assert!(open(fd.as_fd(), "dir").is_err());
        rustix::fs::mknodat(&fd, "fifo", rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read_small(fd.as_fd(), "fifo", 9).unwrap_err().kind(), ErrorKind::IntegrityViolation);
    }

    #[test]
    fn nothing_is_published_over_something() {
        let dir = tempfile::tempdir().unwrap();
        let fd = open_path(dir.path()).unwrap();
        let fd = fd.as_fd();
        make(fd, "a").unwrap();
        make(fd, "b").unwrap();
        assert!(!publish(fd, "a", fd, "b").unwrap());
        assert!(publish(fd, "a", fd, "c").unwrap());
        assert!(publish(fd, "none", fd, "d").is_err());
        assert!(exists(fd, "c").unwrap() && !exists(fd, "a").unwrap());
    }
}
