//! The file operations that need no open file, and what they say about files.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File as StdFile;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use vesselrt_runtime::shim::client::{CallError, Connection};
use vesselrt_runtime::shim::protocol::{FileStat, Reply, Request};

use super::fsids::as_mapped_root;
use super::lease::HangUp;
use super::{VesselInner, paths, pump};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// Something that this version does not know.
    Unknown,
}

impl FileType {
    pub(super) fn of(mode: u32) -> Self {
        match rustix::fs::FileType::from_raw_mode(mode) {
            rustix::fs::FileType::RegularFile => Self::File,
            rustix::fs::FileType::Directory => Self::Directory,
            rustix::fs::FileType::Symlink => Self::Symlink,
            rustix::fs::FileType::Fifo => Self::Fifo,
            rustix::fs::FileType::Socket => Self::Socket,
            rustix::fs::FileType::CharacterDevice => Self::CharDevice,
            rustix::fs::FileType::BlockDevice => Self::BlockDevice,
            rustix::fs::FileType::Unknown => Self::Unknown,
        }
    }
}

/// Metadata of a file, with ids as they are inside.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// What it is.
    pub file_type: FileType,
    /// Permission bits with set-user-ID, set-group-ID and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When its content changed last.
    pub modified: SystemTime,
    /// Inode number.
    pub ino: u64,
    /// Hard links.
    pub nlink: u64,
    /// Where a symlink points to, if it was not followed.
    pub link_target: Option<PathBuf>,
}

impl FileInfo {
    /// It is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// It is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file_type == FileType::File
    }

    /// It is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.file_type == FileType::Symlink
    }
}

impl From<FileStat> for FileInfo {
    fn from(stat: FileStat) -> Self {
        Self {
            file_type: FileType::of(stat.mode),
            mode: stat.mode & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            modified: time_of(stat.mtime),
            ino: stat.ino,
            nlink: stat.nlink,
            link_target: stat.target.map(|target| PathBuf::from(OsString::from_vec(target))),
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirEntry {
    /// The name: any bytes but `/` and NUL.
    pub name: OsString,
    /// Metadata of the entry itself.
    pub info: FileInfo,
}

/// Any `time_t` that [`SystemTime`] can express; those that it cannot are 1970.
pub(super) fn time_of((seconds, nanos): (i64, u32)) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    base.and_then(|time| time.checked_add(Duration::from_nanos(nanos.into())))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

impl VesselInner {
    /// `path` of a caller as a request has it.
    pub(super) fn inside(&self, path: &Path) -> Result<Vec<u8>> {
        Ok(paths::bytes(paths::resolve(&self.work_dir(), path)?))
    }

    /// A request whose answer is [`Reply::Done`].
    async fn done(&self, request: Request) -> Result<()> {
        self.request(move |connection| connection.call_done(&request, &[])).await
    }
}

/// Opens a file for a reply that has one descriptor.
pub(super) fn open_fd(connection: &mut Connection, request: &Request) -> Result<OwnedFd, CallError> {
    match connection.call(request, &[])? {
        (Reply::File, mut fds) if fds.len() == 1 => Ok(fds.remove(0)),
        _ => Err(CallError::Unexpected("not a file")),
    }
}

/// A regular file, so that reading it ends and never blocks for ever.
pub(super) fn regular(fd: OwnedFd, path: &Path) -> Result<StdFile> {
    let stat = match rustix::fs::fstat(&fd) {
        // A FUSE file system tells nothing to processes outside its user namespace, as real root's are. The shim has
        // looked already.
        Err(Errno::ACCESS) => return Ok(fd.into()),
        other => other.map_err(|e| Error::io(format!("failed to stat {path:?}"), e))?,
    };
    match FileType::of(stat.st_mode) {
        FileType::File => Ok(fd.into()),
        FileType::Directory => Err(Error::invalid(format!("is a directory: {path:?}"))),
        _ => Err(Error::invalid(format!("not a regular file: {path:?}"))),
    }
}

pub(super) async fn read(vessel: &VesselInner, path: &Path) -> Result<Vec<u8>> {
    let request = Request::Open { path: vessel.inside(path)?, flags: OFlags::RDONLY.bits(), mode: 0 };
    read_by(vessel, path.to_owned(), request).await
}

/// All of what `request` opens, called `path`.
pub(super) async fn read_by(vessel: &VesselInner, path: PathBuf, request: Request) -> Result<Vec<u8>> {
    let ids = vessel.manager.store.ids().clone();
    let limit = vessel.manager.config.limits.read_file_bytes;
    vessel
        .request(move |connection| {
            let fd = open_fd(connection, &request)?;
            let read = || regular(fd, &path).and_then(|file| read_bounded(file, limit, &path));
            Ok(as_mapped_root(&ids, read))
        })
        .await?
}

fn read_bounded(file: StdFile, limit: u64, path: &Path) -> Result<Vec<u8>> {
    let too_large =
        || Error::new(ErrorKind::LimitExceeded, format!("file has more than {limit} bytes: {path:?}"));
    let size = file.metadata().map_or(0, |meta| meta.len());
    if size > limit {
        return Err(too_large());
    }
    let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // One more than allowed, as the file may grow while it is read.
    file.take(limit.saturating_add(1))
        .read_to_end(&mut data)
        .map_err(|e| Error::io(format!("failed to read {path:?}"), e))?;
    if data.len() as u64 > limit { Err(too_large()) } else { Ok(data) }
}

pub(super) async fn write(vessel: &VesselInner, path: &Path, data: &[u8], mode: u32) -> Result<()> {
    let request = Request::WriteFile { path: vessel.inside(path)?, mode };
    // In memory and not a pipe: the other end may answer before it has read all, without anyone getting stuck.
    let content =
        memory_file(data).map_err(|e| Error::io("failed to hand over the content of the file", e))?;
    vessel.request(move |connection| connection.call_done(&request, &[content.as_fd()])).await
}

pub(super) fn memory_file(data: &[u8]) -> io::Result<StdFile> {
    let mut file = StdFile::from(rustix::fs::memfd_create("vesselrt-write", MemfdFlags::CLOEXEC)?);
    file.write_all(data)?;
    file.rewind()?;
    Ok(file)
}

pub(super) async fn delete(vessel: &VesselInner, path: &Path, recursive: bool) -> Result<()> {
    vessel.done(Request::Remove { path: vessel.inside(path)?, recursive }).await
}

pub(super) async fn rename(vessel: &VesselInner, from: &Path, to: &Path) -> Result<()> {
    vessel.done(Request::Rename { from: vessel.inside(from)?, to: vessel.inside(to)? }).await
}

pub(super) async fn make_dir(vessel: &VesselInner, path: &Path, mode: u32, parents: bool) -> Result<()> {
    vessel.done(Request::MakeDir { path: vessel.inside(path)?, mode, parents }).await
}

pub(super) async fn stat(vessel: &VesselInner, path: &Path, follow: bool) -> Result<FileInfo> {
    let request = Request::Stat { path: vessel.inside(path)?, follow };
    vessel
        .request(move |connection| match connection.call(&request, &[])?.0 {
            Reply::Stat(stat) => Ok(FileInfo::from(*stat)),
            _ => Err(CallError::Unexpected("no metadata")),
        })
        .await
}

pub(super) async fn read_dir(vessel: &VesselInner, path: &Path) -> Result<Vec<DirEntry>> {
    read_dir_by(vessel, Request::ReadDir { path: vessel.inside(path)? }).await
}

/// The entries that `request` lists.
pub(super) async fn read_dir_by(vessel: &VesselInner, request: Request) -> Result<Vec<DirEntry>> {
    let entries = vessel
        .request(move |connection| match connection.call(&request, &[])?.0 {
            Reply::Entries(entries) => Ok(entries),
            _ => Err(CallError::Unexpected("no entries")),
        })
        .await?;
    let entry = |(name, stat)| DirEntry { name: OsString::from_vec(name), info: FileInfo::from(stat) };
    let mut entries: Vec<DirEntry> = entries.into_iter().map(entry).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

pub(super) async fn copy_in(
    vessel: &VesselInner,
    path: &Path,
    mut tar: impl AsyncRead + Send + Unpin,
) -> Result<()> {
    let request = Request::CopyIn { path: vessel.inside(path)? };
    let (theirs, ours) = pump::input_pipe()?;
    let mut connection = vessel.connect().await?;
    let hang_up = HangUp::of(&connection)?;
    let call = blocking(move || Ok(connection.call_done(&request, &[theirs.as_fd()])?));
    tokio::pin!(call);
    let mut ours = Some(ours);
    let fed = tokio::select! {
        // It ends before its input does only when it fails.
        ended = &mut call => return ended,
        fed = pump::feed(&mut tar, &mut ours) => fed,
    };
    if let Err(error) = fed {
        // Before the pipe ends: what was read so far is not the whole archive.
        drop(hang_up);
        let _ = call.await;
        return Err(Error::io("failed to read the archive to copy in", error));
    }
    call.await
}

pub(super) async fn copy_out(
    vessel: &VesselInner,
    path: &Path,
    mut tar: impl AsyncWrite + Send + Unpin,
) -> Result<()> {
    let request = Request::CopyOut { path: vessel.inside(path)? };
    let (mut ours, theirs) = pump::output_pipe()?;
    let mut connection = vessel.connect().await?;
    let hang_up = HangUp::of(&connection)?;
    let call = blocking(move || {
        connection.send(&request, &[theirs.as_fd()])?;
        // Ours too must be closed for the reader to see the end.
        drop(theirs);
        match connection.receive()?.0 {
            Reply::Done | Reply::Packed(_) => Ok(()),
            _ => Err(CallError::Unexpected("not done").into()),
        }
    });
    let (ended, copied) = tokio::join!(call, async {
        let copied = pump::copy(&mut ours, &mut tar).await;
        if copied.is_err() {
            hang_up.now();
        }
        copied
    });
    match copied {
        Err(error) => Err(Error::io("failed to write the archive that is copied out", error)),
        Ok(()) => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_absurd_ones_are_no_panic() {
        let second = Duration::from_secs(1);
        assert_eq!(time_of((-1, 500_000_000)), SystemTime::UNIX_EPOCH - second / 2);
        assert_eq!(time_of((1, 0)), SystemTime::UNIX_EPOCH + second);
        for odd in [i64::MIN, i64::MAX] {
            let _ = time_of((odd, u32::MAX));
        }
    }

    #[test]
    fn a_read_is_bounded_by_what_is_there_and_not_by_what_stat_says() {
        let file = || memory_file(b"12345").unwrap();
        assert_eq!(read_bounded(file(), 5, Path::new("f")).unwrap(), b"12345");
        let error = read_bounded(file(), 4, Path::new("f")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        let endless = StdFile::open("/dev/zero").unwrap();
        assert_eq!(read_bounded(endless, 9, Path::new("f")).unwrap_err().kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn only_regular_files_are_read() {
        let fifo = rustix::pipe::pipe().unwrap().0;
        let error = regular(fifo, Path::new("p")).unwrap_err();
        assert_eq!(error.to_string(), "not a regular file: \"p\"");
        let dir = StdFile::open("/").unwrap();
        assert_eq!(regular(dir.into(), Path::new("d")).unwrap_err().to_string(), "is a directory: \"d\"");
    }
}
