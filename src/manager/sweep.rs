//! Removing what was deleted, and what crashes left.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::Arc;

use vesselrt_runtime::worker::Job;
use vesselrt_storage::StorageErrorKind;

use super::ManagerInner;
use super::open::LOCK;
use crate::error::{Error, Result};
use crate::offload::blocking;
use crate::store::lock;
use crate::store::{dirs, staged};

/// Held by whoever empties the trash, in the trash itself.
const TRASH_LOCK: &str = ".lock";

impl ManagerInner {
    /// [`Self::sweep`] in the background. What fails is tried again by the next manager.
    pub(crate) fn sweep_later(self: &Arc<Self>) {
        let manager = Arc::clone(self);
        tokio::spawn(async move {
            let _ = manager.sweep().await;
        });
    }

    /// Moves to the trash what crashes left half made, and empties it.
    pub(crate) async fn sweep(self: &Arc<Self>) -> Result<()> {
        let _one = self.sweeper.lock().await;
        let manager = Arc::clone(self);
        blocking(move || {
            let staged = staged::sweep(&manager.store);
            manager.empty_trash()?;
            staged
        })
        .await
    }

    /// [`Self::sweep`], and whatever else belongs to nobody.
    pub(super) async fn collect(self: &Arc<Self>) -> Result<()> {
        let orphans = self.discard_orphans().await;
        self.sweep().await?;
        orphans
    }

    /// Directories of vessels that have no manifest and that nobody is making: the lock of those is held.
    async fn discard_orphans(self: &Arc<Self>) -> Result<()> {
        let manager = Arc::clone(self);
        for id in blocking(move || dirs::names(manager.store.vessels.as_fd())).await? {
            let known = self.storage.load_vessel_manifest(&id).await;
            if !known.is_err_and(|e| e.kind() == StorageErrorKind::NotFound) {
                continue;
            }
            let manager = Arc::clone(self);
            let locked = {
                let id = id.clone();
                blocking(move || {
                    let Some(dir) = manager.store.vessel(&id)? else { return Ok(None) };
                    lock::attempt(dir.as_fd(), LOCK)
                })
                .await?
            };
            let Some(_lock) = locked else { continue };
            // Looked at before it was locked, its manifest may just have been saved.
            let known = self.storage.load_vessel_manifest(&id).await;
            if known.is_err_and(|e| e.kind() == StorageErrorKind::NotFound) {
                let manager = Arc::clone(self);
                blocking(move || manager.store.discard(manager.store.vessels.as_fd(), &id)).await?;
            }
        }
        Ok(())
    }

    /// Workers remove what is there: most of it belongs to ids that only the user namespace has power over.
    fn empty_trash(&self) -> Result<()> {
        let trash = self.store.trash.as_fd();
        let names: Vec<String> = dirs::names(trash)?.into_iter().filter(|name| name != TRASH_LOCK).collect();
        if names.is_empty() {
            return Ok(());
        }
        // Another process does it, and may have begun before the last of these was put there: it will be found later.
        let Some(_one) = lock::attempt(trash, TRASH_LOCK)? else { return Ok(()) };
        let mut worker = self.launcher()?.worker()?;
        let mut failure: Option<Error> = None;
        for name in names {
            let job = Job::RemoveTree { name };
            if let Err(error) = worker.run(&job, &[trash], &mut |_| {}) {
                failure = failure.or(Some(error.into()));
            }
        }
        failure.map_or(Ok(()), Err)
    }
}
