//! [`UserFiles`]: files of a vessel as one of its users reads and writes them, in a directory that they do not leave.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use vesselrt_runtime::shim::client::CallError;
use vesselrt_runtime::shim::protocol::{Reply, Request};

use super::file::{self, File, OpenOptions};
use super::files::{self, DirEntry, FileInfo};
use super::{Vessel, VesselInner, paths};
use crate::error::{Error, Result};

/// Files as a user of the vessel reads and writes them, in a directory that they do not leave.
///
/// The kernel judges every operation as it would judge a process of that user, and what is made is theirs. A path that leads
/// out of the directory, by its names or by symlinks, is refused ([`Error::leads_outside`]); a relative one begins at it.
/// Symlinks mean what they mean inside, so that one that leads into the directory again is followed.
#[derive(Debug, Clone)]
pub struct UserFiles {
    vessel: Arc<VesselInner>,
    uid: u32,
    gid: u32,
    base: PathBuf,
}

impl Vessel {
    /// Files as the user `uid` with the group `gid` reads and writes them, in the directory `base`, to which no symlink may
    /// lead.
    #[must_use]
    pub fn user_files(&self, uid: u32, gid: u32, base: impl Into<PathBuf>) -> UserFiles {
        UserFiles { vessel: Arc::clone(&self.inner), uid, gid, base: base.into() }
    }

    /// Gives a file or a directory to a user of the vessel, by the ids that they have inside. A symlink at the end of the path is
    /// not followed.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for ids that the
    /// vessel does not have.
    pub async fn set_owner(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
        let request = Request::SetOwner { path: self.inner.inside(path.as_ref())?, uid, gid };
        self.inner.request(move |connection| connection.call_done(&request, &[])).await
    }
}

impl UserFiles {
    /// The directory.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// [`Vessel::open_file`].
    ///
    /// # Errors
    /// Those of open(2) by kind.
    pub async fn open_file(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<File> {
        let (flags, mode) = options.request()?;
        let path = paths::resolve_from(&self.base, path.as_ref())?;
        let request = self.within(Request::Open { path: paths::bytes(path.clone()), flags, mode });
        file::open_by(&self.vessel, path, request).await
    }

    /// [`Vessel::read_file`].
    ///
    /// # Errors
    /// Those of [`Vessel::read_file`].
    pub async fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = path.as_ref().to_owned();
        let request = Request::Open { path: self.inside(&path)?, flags: OFlags::RDONLY.bits(), mode: 0 };
        files::read_by(&self.vessel, path, self.within(request)).await
    }

    /// [`Vessel::write_file`].
    ///
    /// # Errors
    /// Those of [`Vessel::write_file`].
    pub async fn write_file(&self, path: impl AsRef<Path>, data: &[u8], mode: u32) -> Result<()> {
        let request = self.within(Request::WriteFile { path: self.inside(path.as_ref())?, mode });
        let content = files::memory_file(data)
            .map_err(|e| Error::io("failed to hand over the content of the file", e))?;
        self.vessel.request(move |connection| connection.call_done(&request, &[content.as_fd()])).await
    }

    /// [`Vessel::delete_all`].
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub async fn delete_all(&self, path: impl AsRef<Path>) -> Result<()> {
        self.done(Request::Remove { path: self.inside(path.as_ref())?, recursive: true }).await
    }

    /// [`Vessel::rename_file`].
    ///
    /// # Errors
    /// Those of rename(2) by kind.
    pub async fn rename_file(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.done(Request::Rename { from: self.inside(from.as_ref())?, to: self.inside(to.as_ref())? }).await
    }

    /// [`Vessel::make_dir_all`].
    ///
    /// # Errors
    /// Those of mkdir(2) by kind.
    pub async fn make_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.done(Request::MakeDir { path: self.inside(path.as_ref())?, mode, parents: true }).await
    }

    /// [`Vessel::stat`].
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        self.look(path.as_ref(), true).await
    }

    /// [`Vessel::symlink_stat`].
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub async fn symlink_stat(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        self.look(path.as_ref(), false).await
    }

    /// [`Vessel::read_dir`].
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is no
    /// directory.
    pub async fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        files::read_dir_by(&self.vessel, self.within(Request::ReadDir { path: self.inside(path.as_ref())? }))
            .await
    }

    async fn look(&self, path: &Path, follow: bool) -> Result<FileInfo> {
        let request = self.within(Request::Stat { path: self.inside(path)?, follow });
        self.vessel
            .request(move |connection| match connection.call(&request, &[])?.0 {
                Reply::Stat(stat) => Ok(FileInfo::from(*stat)),
                _ => Err(CallError::Unexpected("no metadata")),
            })
            .await
    }

    async fn done(&self, request: Request) -> Result<()> {
        let request = self.within(request);
        self.vessel.request(move |connection| connection.call_done(&request, &[])).await
    }

    fn inside(&self, path: &Path) -> Result<Vec<u8>> {
        Ok(paths::bytes(paths::resolve_from(&self.base, path)?))
    }

    fn within(&self, request: Request) -> Request {
        let base = paths::bytes(self.base.clone());
        Request::Within { uid: self.uid, gid: self.gid, base, request: Box::new(request) }
    }
}
