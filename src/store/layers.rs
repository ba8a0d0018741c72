//! Sealed layers that several vessels have: who may remove them, and when.
//!
//! A layer is named after its snapshot, and forks have the snapshots of their origin. Which layers a vessel has is said by its
//! manifest, so finding out whether a layer has lost its last vessel means to read all manifests. Vessels that were
//! neither forked nor are forks need not: nobody else has what they have. Others carry a mark.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use super::lock::{self, FileLock};
use super::{Store, dirs};
use crate::error::Result;

const LOCK_FILE: &str = "layers.lock";
const UNCHECKED: &str = "layers.unchecked";
/// The mark, in the directory of a vessel. One that is lost with its directory is made again with it.
const SHARED: &str = "shared";

/// Says that other vessels may have snapshots of this one. True if it did not say so before.
pub(crate) fn mark_shared(vessel: BorrowedFd<'_>) -> Result<bool> {
    if dirs::exists(vessel, SHARED)? {
        return Ok(false);
    }
    dirs::touch(vessel, SHARED).map(|()| true)
}

impl Store {
    /// While it is held, no layer that a manifest mentions is removed.
    pub(crate) fn share_layers(&self) -> Result<FileLock> {
        lock::wait(self.root_fd.as_fd(), LOCK_FILE, lock::Mode::Shared)
    }

    /// While it is held, no layer gets another vessel.
    pub(crate) fn remove_layers(&self) -> Result<FileLock> {
        lock::wait(self.root_fd.as_fd(), LOCK_FILE, lock::Mode::Exclusive)
    }

    /// Whether other vessels may have the snapshots of vessel `id`. Of one without a directory nobody knows.
    pub(crate) fn is_shared(&self, id: &str) -> Result<bool> {
        match self.vessel(id)? {
            Some(dir) => dirs::exists(dir.as_fd(), SHARED),
            None => Ok(true),
        }
    }

    /// Marks every vessel that is here: one whose directory was lost has come back, and nobody knows whose snapshots it
    /// shares.
    pub(crate) fn mark_all_shared(&self) -> Result<()> {
        for id in dirs::names(self.vessels.as_fd())? {
            if let Some(dir) = self.vessel(&id)? {
                mark_shared(dir.as_fd())?;
            }
        }
        Ok(())
    }

    /// Says that some layers may have lost their last vessel.
    pub(crate) fn ask_for_check(&self) -> Result<()> {
        dirs::touch(self.root_fd.as_fd(), UNCHECKED)
    }

    /// Whether somebody said so.
    pub(crate) fn is_check_asked_for(&self) -> Result<bool> {
        dirs::exists(self.root_fd.as_fd(), UNCHECKED)
    }

    /// The check begins: whoever asks from now on asks for another.
    pub(crate) fn begin_check(&self) -> Result<()> {
        dirs::unlink(self.root_fd.as_fd(), UNCHECKED)
    }
}
