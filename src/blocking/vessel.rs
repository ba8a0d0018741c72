//! [`Vessel`] and [`Running`] for synchronous callers.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use vesselrt_storage::{SnapshotManifest, VesselManifest};

use super::{File, Shared};
use crate::SnapshotOptions;

use crate::error::Result;
use crate::vessel::diff::{Change, Contents, Diff, DiffOptions};
use crate::vessel::exec::{ExecOptions, ExecResult};
use crate::vessel::file::OpenOptions;
use crate::vessel::files::{DirEntry, FileInfo};
use crate::vessel::snapshot::upkeep::{SnapshotDeletion, SnapshotPruning, SnapshotsDeleted};

/// [`crate::Vessel`] for synchronous callers.
#[derive(Debug, Clone)]
pub struct Vessel {
    inner: crate::Vessel,
    runtime: Shared,
}

impl Vessel {
    pub(super) fn new(inner: crate::Vessel, runtime: Shared) -> Self {
        Self { inner, runtime }
    }

    pub(super) fn parts(&self) -> (&crate::Vessel, &Shared) {
        (&self.inner, &self.runtime)
    }

    /// See [`crate::Vessel::id`].
    #[must_use]
    pub fn id(&self) -> &str {
        self.inner.id()
    }

    /// See [`crate::Vessel::manifest`].
    #[must_use]
    pub fn manifest(&self) -> VesselManifest {
        self.inner.manifest()
    }

    /// See [`crate::Vessel::open_file`].
    ///
    /// # Errors
    /// As there.
    pub fn open_file(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<File> {
        let file = self.runtime.run(self.inner.open_file(path, options))?;
        Ok(File::new(file, self.runtime.clone()))
    }

    /// See [`crate::Vessel::read_file`].
    ///
    /// # Errors
    /// As there.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        self.runtime.run(self.inner.read_file(path))
    }

    /// See [`crate::Vessel::write_file`].
    ///
    /// # Errors
    /// As there.
    pub fn write_file(&self, path: impl AsRef<Path>, data: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        self.runtime.run(self.inner.write_file(path, data, mode))
    }

    /// See [`crate::Vessel::delete_file`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_file(&self, path: impl AsRef<Path>) -> Result<()> {
        self.runtime.run(self.inner.delete_file(path))
    }

    /// See [`crate::Vessel::delete_all`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_all(&self, path: impl AsRef<Path>) -> Result<()> {
        self.runtime.run(self.inner.delete_all(path))
    }

    /// See [`crate::Vessel::rename_file`].
    ///
    /// # Errors
    /// As there.
    pub fn rename_file(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.runtime.run(self.inner.rename_file(from, to))
    }

    /// See [`crate::Vessel::stat`].
    ///
    /// # Errors
    /// As there.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        self.runtime.run(self.inner.stat(path))
    }

    /// See [`crate::Vessel::symlink_stat`].
    ///
    /// # Errors
    /// As there.
    pub fn symlink_stat(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        self.runtime.run(self.inner.symlink_stat(path))
    }

    /// See [`crate::Vessel::make_dir`].
    ///
    /// # Errors
    /// As there.
    pub fn make_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.runtime.run(self.inner.make_dir(path, mode))
    }

    /// See [`crate::Vessel::make_dir_all`].
    ///
    /// # Errors
    /// As there.
    pub fn make_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.runtime.run(self.inner.make_dir_all(path, mode))
    }

    /// See [`crate::Vessel::read_dir`].
    ///
    /// # Errors
    /// As there.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        self.runtime.run(self.inner.read_dir(path))
    }

    /// See [`crate::Vessel::copy_in`].
    ///
    /// # Errors
    /// As there.
    pub fn copy_in(&self, path: impl AsRef<Path>, tar: impl Read + Send + Unpin) -> Result<()> {
        self.runtime.run(self.inner.copy_in(path, Direct(tar)))
    }

    /// See [`crate::Vessel::copy_out`].
    ///
    /// # Errors
    /// As there.
    pub fn copy_out(&self, path: impl AsRef<Path>, tar: impl Write + Send + Unpin) -> Result<()> {
        self.runtime.run(self.inner.copy_out(path, Direct(tar)))
    }

    /// See [`crate::Vessel::exec`]. Streams of the options are served by the manager's runtime; descriptors
    /// ([`ExecOptions::stdout_fd`]) need none.
    ///
    /// # Errors
    /// As there.
    pub fn exec(&self, options: ExecOptions) -> Result<ExecResult> {
        self.runtime.run(self.inner.exec(options))
    }

    /// See [`crate::Vessel::spawn`].
    ///
    /// # Errors
    /// As there.
    pub fn spawn(&self, options: ExecOptions) -> Result<Running> {
        let inner = self.runtime.run(self.inner.spawn(options))?;
        Ok(Running { inner, runtime: self.runtime.clone() })
    }

    /// See [`crate::Vessel::create_snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn create_snapshot(&self, message: &str) -> Result<SnapshotManifest> {
        self.runtime.run(self.inner.create_snapshot(message))
    }

    /// See [`crate::Vessel::create_snapshot_with`].
    ///
    /// # Errors
    /// As there.
    pub fn create_snapshot_with(&self, options: SnapshotOptions) -> Result<SnapshotManifest> {
        self.runtime.run(self.inner.create_snapshot_with(options))
    }

    /// See [`crate::Vessel::wait_snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_snapshot(&self, snapshot: &str) -> Result<SnapshotManifest> {
        self.runtime.run(self.inner.wait_snapshot(snapshot))
    }

    /// See [`crate::Vessel::restore_snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn restore_snapshot(&self, snapshot: &str) -> Result<()> {
        self.runtime.run(self.inner.restore_snapshot(snapshot))
    }

    /// See [`crate::Vessel::delete_snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_snapshot(&self, snapshot: &str) -> Result<()> {
        self.runtime.run(self.inner.delete_snapshot(snapshot))
    }

    /// See [`crate::Vessel::delete_snapshot_with`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_snapshot_with(
        &self,
        snapshot: &str,
        deletion: SnapshotDeletion,
    ) -> Result<SnapshotsDeleted> {
        self.runtime.run(self.inner.delete_snapshot_with(snapshot, deletion))
    }

    /// See [`crate::Vessel::prune_snapshots`].
    ///
    /// # Errors
    /// As there.
    pub fn prune_snapshots(&self, pruning: SnapshotPruning) -> Result<SnapshotsDeleted> {
        self.runtime.run(self.inner.prune_snapshots(pruning))
    }

    /// See [`crate::Vessel::set_snapshot_labels`].
    ///
    /// # Errors
    /// As there.
    pub fn set_snapshot_labels(
        &self,
        snapshot: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<SnapshotManifest> {
        self.runtime.run(self.inner.set_snapshot_labels(snapshot, labels))
    }

    /// See [`crate::Vessel::list_snapshots`].
    ///
    /// # Errors
    /// As there.
    pub fn list_snapshots(&self) -> Result<Vec<SnapshotManifest>> {
        self.runtime.run(self.inner.list_snapshots())
    }

    /// See [`crate::Vessel::diff`].
    ///
    /// # Errors
    /// As there.
    pub fn diff(&self, options: DiffOptions) -> Result<Diff> {
        self.runtime.run(self.inner.diff(options))
    }

    /// See [`crate::Vessel::read_changes`].
    ///
    /// # Errors
    /// As there.
    pub fn read_changes(&self, diff: &Diff, changes: &[Change], limit: u64) -> Result<Vec<Contents>> {
        self.runtime.run(self.inner.read_changes(diff, changes, limit))
    }

    /// See [`crate::Vessel::set_labels`].
    ///
    /// # Errors
    /// As there.
    pub fn set_labels(&self, labels: BTreeMap<String, String>) -> Result<()> {
        self.runtime.run(self.inner.set_labels(labels))
    }

    /// See [`crate::Vessel::linger`].
    ///
    /// # Errors
    /// The same.
    pub fn linger(&self, time: std::time::Duration) -> Result<()> {
        self.runtime.run(self.inner.linger(time))
    }

    /// See [`crate::Vessel::keep`].
    ///
    /// # Errors
    /// As there.
    pub fn keep(&self, keep: bool) -> Result<()> {
        self.runtime.run(self.inner.keep(keep))
    }

    /// See [`crate::Vessel::limits`].
    ///
    /// # Errors
    /// As there.
    pub fn limits(&self) -> Result<crate::LimitsStatus> {
        self.runtime.run(self.inner.limits())
    }

    /// See [`crate::Vessel::update`].
    ///
    /// # Errors
    /// As there.
    pub fn update(
        &self,
        change: impl FnOnce(&mut crate::settings::Limits) + Send + 'static,
    ) -> Result<crate::LimitsStatus> {
        self.runtime.run(self.inner.update(change))
    }

    /// See [`crate::Vessel::stats`].
    ///
    /// # Errors
    /// As there.
    pub fn stats(&self) -> Result<crate::VesselStats> {
        self.runtime.run(self.inner.stats())
    }

    /// See [`crate::Vessel::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self) -> Result<()> {
        self.runtime.run(self.inner.close())
    }
}

/// [`crate::Running`] for synchronous callers.
#[derive(Debug)]
pub struct Running {
    inner: crate::Running,
    runtime: Shared,
}

impl Running {
    /// See [`crate::Running::wait`].
    ///
    /// # Errors
    /// As there.
    pub fn wait(&mut self) -> Result<ExecResult> {
        self.runtime.run(self.inner.wait())
    }

    /// See [`crate::Running::signal`].
    ///
    /// # Errors
    /// As there.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.inner.signal(signal)
    }

    /// See [`crate::Running::resize`].
    ///
    /// # Errors
    /// As there.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        self.inner.resize(rows, cols)
    }

    /// See [`crate::Running::terminal`].
    #[must_use]
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.inner.terminal()
    }
}

/// A synchronous stream on the caller's own thread, which waits for it anyway.
struct Direct<T>(T);

impl<T: Read + Unpin> AsyncRead for Direct<T> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        loop {
            match self.0.read(buf.initialize_unfilled()) {
                Ok(read) => buf.advance(read),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return std::task::Poll::Ready(Err(e)),
            }
            return std::task::Poll::Ready(Ok(()));
        }
    }
}

impl<T: Write + Unpin> AsyncWrite for Direct<T> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        loop {
            match self.0.write(data) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                written => return std::task::Poll::Ready(written),
            }
        }
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(self.0.flush())
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.poll_flush(cx)
    }
}
