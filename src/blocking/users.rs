//! [`UserFiles`] for synchronous callers.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::{File, Shared, Vessel};
use crate::error::Result;
use crate::vessel::file::OpenOptions;
use crate::vessel::files::{DirEntry, FileInfo};

/// [`crate::UserFiles`] for synchronous callers.
#[derive(Debug, Clone)]
pub struct UserFiles {
    inner: crate::UserFiles,
    runtime: Shared,
}

impl Vessel {
    /// See [`crate::Vessel::user_files`].
    #[must_use]
    pub fn user_files(&self, uid: u32, gid: u32, base: impl Into<PathBuf>) -> UserFiles {
        let (inner, runtime) = self.parts();
        UserFiles { inner: inner.user_files(uid, gid, base), runtime: runtime.clone() }
    }

    /// See [`crate::Vessel::set_owner`].
    ///
    /// # Errors
    /// As there.
    pub fn set_owner(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
        let (inner, runtime) = self.parts();
        runtime.run(inner.set_owner(path, uid, gid))
    }
}

impl UserFiles {
    /// See [`crate::UserFiles::base`].
    #[must_use]
    pub fn base(&self) -> &Path {
        self.inner.base()
    }

    /// See [`crate::UserFiles::open_file`].
    ///
    /// # Errors
    /// As there.
    pub fn open_file(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<File> {
        let file = self.runtime.run(self.inner.open_file(path, options))?;
        Ok(File::new(file, self.runtime.clone()))
    }

    /// See [`crate::UserFiles::read_file`].
    ///
    /// # Errors
    /// As there.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        self.runtime.run(self.inner.read_file(path))
    }

    /// See [`crate::UserFiles::write_file`].
    ///
    /// # Errors
    /// As there.
    pub fn write_file(&self, path: impl AsRef<Path>, data: &[u8], mode: u32) -> Result<()> {
        self.runtime.run(self.inner.write_file(path, data, mode))
    }

    /// See [`crate::UserFiles::delete_all`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_all(&self, path: impl AsRef<Path>) -> Result<()> {
        self.runtime.run(self.inner.delete_all(path))
    }

    /// See [`crate::UserFiles::rename_file`].
    ///
    /// # Errors
    /// As there.
    pub fn rename_file(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.runtime.run(self.inner.rename_file(from, to))
    }

    /// See [`crate::UserFiles::make_dir_all`].
    ///
    /// # Errors
    /// As there.
    pub fn make_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.runtime.run(self.inner.make_dir_all(path, mode))
    }

    /// See [`crate::UserFiles::stat`].
    ///
    /// # Errors
    /// As there.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        self.runtime.run(self.inner.stat(path))
    }

    /// See [`crate::UserFiles::symlink_stat`].
    ///
    /// # Errors
    /// As there.
    pub fn symlink_stat(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        self.runtime.run(self.inner.symlink_stat(path))
    }

    /// See [`crate::UserFiles::read_dir`].
    ///
    /// # Errors
    /// As there.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        self.runtime.run(self.inner.read_dir(path))
    }
}
