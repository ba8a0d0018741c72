//! [`Dir`]: a directory descriptor, and the few safe things that are done under it.
//!
//! Names are single components; symbolic links are never followed; only regular files are read. Sources:
//! open(2), rename(2), fsync(2).
#![forbid(unsafe_code)]

pub(crate) mod stage;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use crate::error::{Result, StorageError};

/// Mode of everything that is made: nobody else's business.
const DIR_MODE: Mode = Mode::RWXU;
/// How deep a tree that is deleted may be. Ours are two directories deep.
const MAX_DEPTH: u32 = 64;

/// Why a file of the store is not read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The name is a symbolic link, a directory, a FIFO, a socket or a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// The name of a directory of the store is something else.
    #[error("it is not a directory")]
    NotDirectory,
}

/// An open directory and its path, which serves for messages only.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory at a trusted path, making it and its parents if needed.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        make_all(path).map_err(|e| StorageError::io("create directory", path, e))?;
        Self::open(path)
    }

    /// Opens the directory at a trusted path.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fd = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| StorageError::io("open directory", path, e))?;
        Ok(Self { fd, path: path.to_path_buf() })
    }

    /// The path of `name` in this directory, for messages.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the subdirectory `name`; `None` if there is nothing of that name.
    pub(crate) fn subdir(&self, name: &str) -> Result<Option<Self>> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: self.path_of(name) })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(self.damaged(name, FileError::NotDirectory)),
            Err(e) => Err(StorageError::io("open directory", self.path_of(name), e)),
        }
    }

    /// Opens the subdirectory `name`, making it (durably) if needed.
    pub(crate) fn make_subdir(&self, name: &str) -> Result<Self> {
        if self.make(name)? {
            self.sync()?;
        }
        self.made(name)
    }

    /// [`Self::make_subdir`], but a power cut may take it away again.
    pub(crate) fn make_subdir_unsynced(&self, name: &str) -> Result<Self> {
        self.make(name)?;
        self.made(name)
    }

    /// Whether it was not there.
    fn make(&self, name: &str) -> Result<bool> {
        match rustix::fs::mkdirat(&self.fd, name, DIR_MODE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(StorageError::io("create directory", self.path_of(name), e)),
        }
    }

    fn made(&self, name: &str) -> Result<Self> {
        let made = self.subdir(name)?;
        made.ok_or_else(|| StorageError::io("open directory", self.path_of(name), Errno::NOENT))
    }

    /// Opens the regular file `name` for reading and tells its size; `None` if there is nothing of that name.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<(File, u64)>> {
        // O_NONBLOCK: a FIFO must not hang us before it is found out.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
                return Err(self.damaged(name, FileError::NotRegular));
            }
            Err(e) => return Err(StorageError::io("open", self.path_of(name), e)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| StorageError::io("stat", self.path_of(name), e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.damaged(name, FileError::NotRegular));
        }
        Ok(Some((File::from(fd), u64::try_from(stat.st_size).unwrap_or(0))))
    }

    /// Reads the regular file `name`, at most `limit` bytes; `None` if there is nothing of that name.
    pub(crate) fn read_file(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some((file, size)) = self.open_file(name)? else { return Ok(None) };
        let too_large = || StorageError::LimitExceeded {
            what: format!("{} of {size} bytes", self.path_of(name).display()),
            limit,
        };
        if size > limit {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        // One more than the limit: the file may have grown since.
        let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|e| StorageError::io("read", self.path_of(name), e))?;
        if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(Some(bytes)) }
    }

    /// Removes the file `name`; false if there was nothing of that name.
    pub(crate) fn remove_file(&self, name: &str) -> Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(StorageError::io("remove", self.path_of(name), e)),
        }
    }

    /// Removes the directory `name` if nothing is in it; false if something is.
    pub(crate) fn remove_empty_dir(&self, name: &str) -> Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(e) => Err(StorageError::io("remove", self.path_of(name), e)),
        }
    }

    /// Renames `from` to `to`, both in this directory; false if there is no `from`.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<bool> {
        match rustix::fs::renameat(&self.fd, from, &self.fd, to) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(StorageError::io("rename", self.path_of(from), e)),
        }
    }

    /// Removes the tree `name`, never following a link.
    pub(crate) fn remove_tree(&self, name: &str) -> Result<()> {
        let failed = |e: Errno| StorageError::io("remove", self.path_of(name), e);
        let name = CString::new(name).map_err(|_| failed(Errno::INVAL))?;
        remove_tree_at(self.as_fd(), &name, MAX_DEPTH).map_err(failed)
    }

    /// The names in this directory, unordered, without `.` and `..`. Names that are not UTF-8 are not ours and left out.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let entries = entries(self.as_fd()).map_err(|e| StorageError::io("list", &self.path, e))?;
        Ok(entries.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Makes what was created, renamed and removed here survive a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).map_err(|e| StorageError::io("sync directory", &self.path, e))
    }

    fn damaged(&self, name: &str, why: FileError) -> StorageError {
        StorageError::corrupt(self.path_of(name).display().to_string(), why)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The names in a directory, whatever they are made of.
fn entries(dir: BorrowedFd<'_>) -> std::result::Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Removes `name`, a directory with all that is in it or anything else, at most `depth` levels; `ELOOP` beyond.
fn remove_tree_at(dir: BorrowedFd<'_>, name: &CStr, depth: u32) -> std::result::Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    let deeper = depth.checked_sub(1).ok_or(Errno::LOOP)?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        // Somebody else removes it as well.
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    for child in entries(inner.as_fd())? {
        remove_tree_at(inner.as_fd(), &child, deeper)?;
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

/// `mkdir -p` with [`DIR_MODE`] for what is made, and every new name made durable.
fn make_all(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(Errno::NOTDIR.into()),
    };
    make_all(parent)?;
    match rustix::fs::mkdir(path, DIR_MODE) {
        Ok(()) => File::open(parent)?.sync_all(),
        Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::StorageErrorKind;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_regular_files_are_read() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("secret"), "x").unwrap();
        symlink("secret", tmp.path().join("link")).unwrap();
        symlink("/nowhere", tmp.path().join("dangling")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, tmp.path().join("fifo"), Mode::RUSR).unwrap();
        std::fs::create_dir(tmp.path().join("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tmp.path().join("socket")).unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        for name in ["link", "dangling", "fifo", "dir", "socket"] {
            let error = dir.read_file(name, 10).unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation, "{name}: {error}");
        }
        assert_eq!(dir.read_file("secret", 1).unwrap().unwrap(), b"x");
        assert_eq!(dir.read_file("secret", 0).unwrap_err().kind(), StorageErrorKind::LimitExceeded);
        assert!(dir.read_file("missing", 1).unwrap().is_none());
    }

    #[test]
    fn directories_are_private_and_never_links() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::create(&tmp.path().join("a/b")).unwrap();
        dir.make_subdir("c").unwrap();
        dir.make_subdir("c").unwrap();
        for path in ["a", "a/b", "a/b/c"] {
            let mode = std::fs::metadata(tmp.path().join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{path}");
        }
        symlink("c", tmp.path().join("a/b/link")).unwrap();
        assert_eq!(dir.subdir("link").unwrap_err().kind(), StorageErrorKind::IntegrityViolation);
        assert!(dir.subdir("none").unwrap().is_none());
    }

    #[test]
    fn remove_tree_leaves_the_targets_of_links() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("victim/deep")).unwrap();
        std::fs::create_dir_all(tmp.path().join("tree/x/y")).unwrap();
        symlink(tmp.path().join("victim"), tmp.path().join("tree/x/link")).unwrap();
        std::fs::write(tmp.path().join("tree/x").join(OsStr::from_bytes(b"\xff")), "").unwrap();
        symlink(tmp.path().join("victim"), tmp.path().join("top")).unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        dir.remove_tree("tree").unwrap();
        dir.remove_tree("tree").unwrap();
        dir.remove_tree("top").unwrap();
        let mut left = dir.names().unwrap();
        left.sort();
        assert_eq!(left, ["victim"]);
        assert!(tmp.path().join("victim/deep").is_dir());
    }
}
