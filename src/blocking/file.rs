//! [`File`] for synchronous callers.
#![forbid(unsafe_code)]

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::Shared;
use crate::error::Result;
use crate::vessel::files::FileInfo;

/// [`crate::File`] for synchronous callers: it reads, writes and seeks by [`Read`], [`Write`] and [`Seek`].
#[derive(Debug)]
pub struct File {
    inner: crate::File,
    runtime: Shared,
}

impl File {
    pub(super) fn new(inner: crate::File, runtime: Shared) -> Self {
        Self { inner, runtime }
    }

    /// See [`crate::File::name`].
    #[must_use]
    pub fn name(&self) -> &Path {
        self.inner.name()
    }

    /// See [`crate::File::read_at`].
    ///
    /// # Errors
    /// As there.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.runtime.run(self.inner.read_at(buffer, offset))
    }

    /// See [`crate::File::write_at`].
    ///
    /// # Errors
    /// As there.
    pub fn write_at(&mut self, data: &[u8], offset: u64) -> Result<()> {
        self.runtime.run(self.inner.write_at(data, offset))
    }

    /// See [`crate::File::stat`].
    ///
    /// # Errors
    /// As there.
    pub fn stat(&mut self) -> Result<FileInfo> {
        self.runtime.run(self.inner.stat())
    }

    /// See [`crate::File::sync`].
    ///
    /// # Errors
    /// As there.
    pub fn sync(&mut self) -> Result<()> {
        self.runtime.run(self.inner.sync())
    }

    /// See [`crate::File::truncate`].
    ///
    /// # Errors
    /// As there.
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        self.runtime.run(self.inner.truncate(size))
    }

    /// See [`crate::File::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(self) -> Result<()> {
        self.runtime.run(self.inner.close())
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.run(self.inner.read(buffer))
    }
}

impl Write for File {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.runtime.run(self.inner.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.runtime.run(self.inner.flush())
    }
}

impl Seek for File {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.runtime.run(self.inner.seek(position))
    }
}
