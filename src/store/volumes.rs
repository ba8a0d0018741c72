//! Volumes: directories that are mounted in vessels and outlive them.
//!
//! What is in one belongs to the ids of the store, and its root is the guest's, modes and all: it is a directory in the one that
//! is named, which is ours.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use vesselrt_runtime::settings::check_volume_name;

use super::lock::{self, FileLock};
use super::staged::Staged;
use super::{Store, dirs};
use crate::error::{Error, Result};

const LOCK_FILE: &str = "volumes.lock";
/// The guest's part of a volume.
const TREE: &str = "fs";

impl Store {
    /// While it is held, no volume is removed.
    pub(crate) fn use_volumes(&self) -> Result<FileLock> {
        lock::wait(self.root_fd.as_fd(), LOCK_FILE, lock::Mode::Shared)
    }

    /// While it is held, no vessel takes a volume.
    pub(crate) fn remove_volumes(&self) -> Result<FileLock> {
        lock::wait(self.root_fd.as_fd(), LOCK_FILE, lock::Mode::Exclusive)
    }

    /// The directory of a volume, if there is one.
    pub(crate) fn volume(&self, name: &str) -> Result<Option<OwnedFd>> {
        check_volume_name(name).map_err(|e| Error::invalid(e.to_string()))?;
        dirs::open(self.volumes.as_fd(), name)
    }

    /// Makes an empty volume; false when there is one of that name.
    pub(crate) fn make_volume(self: &Arc<Self>, name: &str) -> Result<bool> {
        check_volume_name(name).map_err(|e| Error::invalid(e.to_string()))?;
        let staged = Staged::new(self)?;
        let tree = self.make_owned(staged.dir(), TREE)?;
        rustix::fs::fchmod(&tree, Mode::from_raw_mode(0o755))
            .map_err(|e| Error::io(format!("failed to make the volume {name}"), e))?;
        dirs::sync(staged.dir())?;
        if staged.publish(self.volumes.as_fd(), name)?.is_none() {
            return Ok(false);
        }
        dirs::sync(self.volumes.as_fd()).map(|()| true)
    }

    /// What is mounted of a volume, which is made if missing: a path only, as the guest may have given it to another user.
    pub(crate) fn volume_tree(self: &Arc<Self>, name: &str) -> Result<OwnedFd> {
        if self.volume(name)?.is_none() {
            self.make_volume(name)?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |e| Error::io(format!("failed to open the volume {name}"), e);
        let dir = self.volume(name)?.ok_or_else(|| failed(Errno::NOENT))?;
        rustix::fs::openat(&dir, TREE, flags, Mode::empty()).map_err(failed)
    }

    /// The names of all volumes, sorted.
    pub(crate) fn volume_names(&self) -> Result<Vec<String>> {
        let mut names = dirs::names(self.volumes.as_fd())?;
        names.retain(|name| check_volume_name(name).is_ok());
        names.sort_unstable();
        Ok(names)
    }
}
