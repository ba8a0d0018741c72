//! [`SnapshotFile`] for synchronous callers.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::path::Path;

use tokio::io::AsyncReadExt;

use super::{Manager, Shared, Vessel};
use crate::error::Result;
use crate::manager::cat::SnapshotRead;

/// [`crate::SnapshotFile`] for synchronous callers, read by [`Read`].
#[derive(Debug)]
pub struct SnapshotFile {
    inner: crate::SnapshotFile,
    runtime: Shared,
}

impl Manager {
    /// See [`crate::Manager::open_snapshot_file`].
    ///
    /// # Errors
    /// As there.
    pub fn open_snapshot_file(
        &self,
        vessel: &str,
        snapshot: &str,
        path: impl AsRef<Path>,
        read: SnapshotRead,
    ) -> Result<SnapshotFile> {
        let inner = self.runtime.run(self.inner.open_snapshot_file(vessel, snapshot, path, read))?;
        Ok(SnapshotFile { inner, runtime: self.runtime.clone() })
    }
}

impl Vessel {
    /// See [`crate::Vessel::read_snapshot_file`].
    ///
    /// # Errors
    /// As there.
    pub fn read_snapshot_file(&self, snapshot: &str, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let (inner, runtime) = self.parts();
        runtime.run(inner.read_snapshot_file(snapshot, path))
    }
}

impl SnapshotFile {
    /// See [`crate::SnapshotFile::size`].
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.size()
    }

    /// See [`crate::SnapshotFile::mode`].
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.inner.mode()
    }
}

impl Read for SnapshotFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.run(self.inner.read(buffer))
    }
}
