//! [`File`]: an open file of a vessel.
#![forbid(unsafe_code)]

mod stream;

use std::io::{self, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use rustix::fs::OFlags;
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, AsyncWriteExt, ReadBuf};
use vesselrt_runtime::idmap::Extent;
use vesselrt_runtime::shim::protocol::{FileStat, Request};

use super::files::{self, FileInfo, open_fd, regular};
use super::fsids::as_mapped_root;
use super::{VesselInner, paths};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use stream::Stream;

/// How a file is opened, as in [`std::fs::OpenOptions`]. The setters return the changed value, to be chained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    append: bool,
    create: bool,
    exclusive: bool,
    truncate: bool,
    mode: u32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Nothing is allowed yet; a file that is created gets mode 0644.
    #[must_use]
    pub fn new() -> Self {
        Self {
            read: false,
            write: false,
            append: false,
            create: false,
            exclusive: false,
            truncate: false,
            mode: 0o644,
        }
    }

    /// For reading.
    #[must_use]
    pub fn read(mut self, read: bool) -> Self {
        self.read = read;
        self
    }

    /// For writing.
    #[must_use]
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// For writing at the end only.
    #[must_use]
    pub fn append(mut self, append: bool) -> Self {
        self.append = append;
        self
    }

    /// Creates it if missing.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Creates it and fails when it is there.
    #[must_use]
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Empties it first.
    #[must_use]
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.truncate = truncate;
        self
    }

    /// Permission bits of a file that is created; no umask is applied.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// What a request says of it: `O_*` flags, and permission bits.
    pub(super) fn request(self) -> Result<(u32, u32)> {
        Ok((self.flags()?.bits(), self.mode & 0o7777))
    }

    fn flags(self) -> Result<OFlags> {
        let writes = self.write || self.append;
        if !writes && (self.create || self.exclusive || self.truncate) {
            return Err(Error::invalid("a file is created or truncated only when it is opened for writing"));
        }
        if self.append && self.truncate {
            return Err(Error::invalid("a file is not truncated when it is opened to append"));
        }
        let mut flags = match (self.read, writes) {
            (true, false) => OFlags::RDONLY,
            (false, true) => OFlags::WRONLY,
            (true, true) => OFlags::RDWR,
            (false, false) => return Err(Error::invalid("a file is opened for reading or for writing")),
        };
        flags.set(OFlags::APPEND, self.append);
        flags.set(OFlags::CREATE, self.create || self.exclusive);
        flags.set(OFlags::EXCL, self.exclusive);
        flags.set(OFlags::TRUNC, self.truncate);
        Ok(flags)
    }
}

pub(super) async fn open(vessel: &Arc<VesselInner>, path: &Path, options: &OpenOptions) -> Result<File> {
    let name = paths::resolve(&vessel.work_dir(), path)?;
    let (flags, mode) = options.request()?;
    let request = Request::Open { path: paths::bytes(name.clone()), flags, mode };
    open_by(vessel, name, request).await
}

/// What `request` opens, called `name`.
pub(super) async fn open_by(vessel: &Arc<VesselInner>, name: PathBuf, request: Request) -> Result<File> {
    let fd = vessel.request(move |connection| open_fd(connection, &request)).await?;
    let file = regular(fd, &name)?;
    let ids = vessel.manager.store.ids().clone();
    Ok(File { name, stream: Stream::new(file, ids), vessel: Arc::downgrade(vessel) })
}

/// An open file. It reads, writes and seeks by [`AsyncRead`], [`AsyncWrite`] and [`AsyncSeek`].
///
/// It stays usable when the vessel is closed or restored, but then is a file of the past. Written bytes may be on their
/// way until [`flush`](AsyncWriteExt::flush), [`sync`](Self::sync) or [`close`](Self::close).
#[derive(Debug)]
pub struct File {
    name: PathBuf,
    stream: Stream,
    vessel: Weak<VesselInner>,
}

/// What a host id is inside; the kernel's overflow id when it is none there.
fn seen_inside(extents: &[Extent], host: u32) -> u32 {
    const OVERFLOW: u32 = 65534;
    let within = |extent: &Extent| {
        let offset = host.checked_sub(extent.outside).filter(|&offset| offset < extent.count)?;
        extent.inside.checked_add(offset)
    };
    extents.iter().find_map(within).unwrap_or(OVERFLOW)
}

impl File {
    /// The absolute path inside that it was opened by.
    #[must_use]
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Reads at `offset` without moving the position; 0 at the end of the file.
    ///
    /// # Errors
    /// Those of pread(2).
    pub async fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.settle().await?;
        let (file, len) = (Arc::clone(self.stream.file()), buffer.len());
        let data = self
            .on_thread("read", move || {
                let mut data = vec![0; len];
                let read = file.read_at(&mut data, offset)?;
                data.truncate(read);
                Ok(data)
            })
            .await?;
        buffer[..data.len()].copy_from_slice(&data);
        Ok(data.len())
    }

    /// Writes all of `data` at `offset` without moving the position. A file opened to append writes at its end
    /// instead, as pwrite(2) does on Linux.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub async fn write_at(&mut self, data: &[u8], offset: u64) -> Result<()> {
        self.settle().await?;
        let (file, data) = (Arc::clone(self.stream.file()), data.to_vec());
        self.on_thread("write", move || file.write_all_at(&data, offset)).await
    }

    /// Metadata as it is now. With fuse-overlayfs that of whatever has the file's name now.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub async fn stat(&mut self) -> Result<FileInfo> {
        self.settle().await?;
        let file = Arc::clone(self.stream.file());
        let meta = match self.on_thread("stat", move || file.metadata()).await {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return self.stat_inside(error).await;
            }
            other => other?,
        };
        // A descriptor tells the host's ids, whoever opened it.
        let (uid, gid) = (
            seen_inside(&self.stream.ids().uids, meta.uid()),
            seen_inside(&self.stream.ids().gids, meta.gid()),
        );
        Ok(FileInfo::from(FileStat {
            mode: meta.mode(),
            uid,
            gid,
            size: meta.len(),
            mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0)),
            ino: meta.ino(),
            nlink: meta.nlink(),
            target: None,
        }))
    }

    /// A FUSE file system tells nothing to processes outside its user namespace: the shim is asked.
    async fn stat_inside(&self, refused: Error) -> Result<FileInfo> {
        match self.vessel.upgrade() {
            Some(vessel) => files::stat(&vessel, &self.name, true).await,
            None => Err(refused),
        }
    }

    /// Waits until content and metadata are on disk.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub async fn sync(&mut self) -> Result<()> {
        self.settle().await?;
        let file = Arc::clone(self.stream.file());
        self.on_thread("sync", move || file.sync_all()).await
    }

    /// Cuts the file, or extends it with zeros, to `size` bytes.
    ///
    /// # Errors
    /// Those of ftruncate(2).
    pub async fn truncate(&mut self, size: u64) -> Result<()> {
        self.settle().await?;
        let file = Arc::clone(self.stream.file());
        match self.on_thread("truncate", move || file.set_len(size)).await {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.truncate_inside(size, error).await
            }
            other => other,
        }
    }

    /// As [`Self::stat_inside`].
    async fn truncate_inside(&self, size: u64, refused: Error) -> Result<()> {
        let Some(vessel) = self.vessel.upgrade() else { return Err(refused) };
        let file = Arc::clone(self.stream.file());
        let request = Request::SetLen { size };
        vessel.request(move |connection| connection.call_done(&request, &[file.as_fd()])).await
    }

    /// Writes what is on its way and closes the file.
    ///
    /// # Errors
    /// Those of write(2).
    pub async fn close(mut self) -> Result<()> {
        self.settle().await
    }

    /// Ends the write in progress, so that what follows sees it.
    async fn settle(&mut self) -> Result<()> {
        self.stream.flush().await.map_err(|e| Error::io(format!("failed to write {:?}", self.name), e))
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        verb: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let message = format!("failed to {verb} {:?}", self.name);
        let ids = self.stream.ids().clone();
        blocking(move || as_mapped_root(&ids, work).map_err(|e| Error::io(message, e))).await
    }
}

impl AsyncRead for File {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for File {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncSeek for File {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.stream).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.stream).poll_complete(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use vesselrt_runtime::idmap::IdMapping;

    #[test]
    fn options_become_flags_or_are_refused() {
        let new = OpenOptions::new;
        for (options, flags) in [
            (new().read(true), OFlags::RDONLY),
            (new().write(true).create(true).truncate(true), OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC),
            (new().read(true).append(true), OFlags::RDWR | OFlags::APPEND),
            (new().write(true).exclusive(true), OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL),
        ] {
            assert_eq!(options.flags().unwrap(), flags, "{options:?}");
        }
        for bad in
            [new(), new().create(true), new().read(true).truncate(true), new().append(true).truncate(true)]
        {
            assert_eq!(bad.flags().unwrap_err().kind(), crate::ErrorKind::InvalidArgument, "{bad:?}");
        }
    }

    fn ids() -> IdMapping {
        let extents =
            [Extent { inside: 0, outside: 1000, count: 1 }, Extent { inside: 1, outside: 100_000, count: 9 }];
        IdMapping { uids: extents.to_vec(), gids: extents.to_vec() }
    }

    #[test]
    fn host_ids_are_translated_and_foreign_ones_are_nobody() {
        for (host, inside) in
            [(1000, 0), (100_000, 1), (100_008, 9), (100_009, 65534), (0, 65534), (1001, 65534)]
        {
            assert_eq!(seen_inside(&ids().uids, host), inside, "{host}");
        }
    }

    fn own_ids() -> IdMapping {
        let root = |id: u32| vec![Extent { inside: 0, outside: id, count: 1 }];
        IdMapping {
            uids: root(rustix::process::geteuid().as_raw()),
            gids: root(rustix::process::getegid().as_raw()),
        }
    }

    #[tokio::test]
    async fn what_was_written_is_seen_by_the_next_call() {
        let std = tempfile::tempfile().unwrap();
        let mut file = File { name: "/f".into(), stream: Stream::new(std, own_ids()), vessel: Weak::new() };
        for _ in 0..200 {
            file.write_all(b"0123456789").await.unwrap();
        }
        assert_eq!(file.stat().await.unwrap().size, 2000);
        file.write_at(b"xy", 1990).await.unwrap();
        let mut tail = [0; 16];
        assert_eq!(file.read_at(&mut tail, 1990).await.unwrap(), 10);
        assert_eq!(&tail[..10], b"xy23456789");
        file.truncate(3).await.unwrap();
        let mut all = String::new();
        tokio::io::AsyncSeekExt::rewind(&mut file).await.unwrap();
        file.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "012");
        file.sync().await.unwrap();
        file.close().await.unwrap();
    }
}
