//! Removing what was deleted, and what crashes left.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vesselrt_runtime::layer;
use vesselrt_runtime::worker::Job;
use vesselrt_storage::StorageErrorKind;

use super::ManagerInner;
use super::open::{self, LOCK, UNFINISHED};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use crate::state::VesselState;
use crate::store::lock;
use crate::store::{dirs, staged};

/// Between its creation and the start of its shim nobody holds a vessel's lock: that takes milliseconds.
const YOUNG: Duration = Duration::from_secs(60);

/// Whether a directory was changed just now, by whatever clock made it.
fn is_young(dir: BorrowedFd<'_>) -> bool {
    let Ok(status) = rustix::fs::fstat(dir) else { return true };
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(status.st_mtime.unsigned_abs());
    // A clock that was set back makes it young until the clock has caught up.
    SystemTime::now().duration_since(changed).map_or(true, |age| age < YOUNG)
}

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

    /// Deletes the vessels that were to be thrown away after use, and whose user died before.
    pub(super) async fn delete_abandoned(self: &Arc<Self>) -> Result<()> {
        let manager = Arc::clone(self);
        for (id, _lock) in blocking(move || manager.abandoned()).await? {
            let manifest = self.load_manifest(&id).await.ok();
            let failed = |e| Error::storage(format!("failed to delete vessel {id} from the storage"), e);
            self.storage.delete_vessel(&id).await.map_err(failed)?;
            let (manager, name) = (Arc::clone(self), id.clone());
            blocking(move || super::delete::discard(&manager, &name, manifest.as_ref())).await?;
        }
        Ok(())
    }

    /// Those vessels, with their locks.
    fn abandoned(&self) -> Result<Vec<(String, lock::FileLock)>> {
        let mut found = Vec::new();
        for id in dirs::names(self.store.vessels.as_fd())? {
            let Some(dir) = self.store.vessel(&id)? else { continue };
            if !open::read_state(&id, dir.as_fd()).is_ok_and(|state| state.volatile) || is_young(dir.as_fd())
            {
                continue;
            }
            if let Some(lock) = lock::attempt(dir.as_fd(), LOCK)? {
                found.push((id, lock));
            }
        }
        Ok(found)
    }

    /// [`Self::sweep`], and whatever else belongs to nobody.
    pub(super) async fn collect(self: &Arc<Self>) -> Result<()> {
        let abandoned = self.delete_abandoned().await;
        let orphans = self.discard_orphans().await;
        let unused = self.discard_unused_content().await;
        self.sweep().await?;
        abandoned.and(orphans).and(unused)
    }

    /// Halves of downloads, and blobs that have no name any more. Not while something is pulled or committed; and a
    /// damaged image, of which nobody knows what it needs, is what verifying is for.
    async fn discard_unused_content(self: &Arc<Self>) -> Result<()> {
        match self.prune_content().await {
            Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::IntegrityViolation) => Ok(()),
            pruned => pruned.map(drop),
        }
    }

    /// What was half made or half deleted: directories of vessels that have no manifest.
    async fn discard_orphans(self: &Arc<Self>) -> Result<()> {
        let manager = Arc::clone(self);
        for id in blocking(move || dirs::names(manager.store.vessels.as_fd())).await? {
            let known = self.storage.load_vessel_manifest(&id).await;
            if known.is_err_and(|e| e.kind() == StorageErrorKind::NotFound) {
                let manager = Arc::clone(self);
                blocking(move || manager.discard_unfinished(&id)).await?;
            }
        }
        self.discard_layers().await
    }

    /// Moves the directory of a vessel without a manifest to the trash, if it is marked as unfinished and nobody is at
    /// it; false otherwise.
    pub(super) fn discard_unfinished(&self, id: &str) -> Result<bool> {
        let Some(dir) = self.store.vessel(id)? else { return Ok(true) };
        let Some(_lock) = lock::attempt(dir.as_fd(), LOCK)? else { return Ok(false) };
        // Looked at under the lock: a creation that has ended meanwhile has removed the mark.
        if !dirs::exists(dir.as_fd(), UNFINISHED)? {
            return Ok(false);
        }
        self.store.discard(self.store.vessels.as_fd(), id)?;
        Ok(true)
    }

    /// Sealed layers that no vessel mentions.
    async fn discard_layers(self: &Arc<Self>) -> Result<()> {
        // Before the manifests: what is sealed meanwhile is not among them.
        let manager = Arc::clone(self);
        let layers = blocking(move || dirs::names(manager.store.layers.as_fd())).await?;
        let mut used: HashSet<String> = HashSet::new();
        for vessel in open::list(self).await? {
            used.extend(crate::merge::names(&vessel));
            used.extend(vessel.snapshots.into_iter().map(|snapshot| snapshot.id));
        }
        let manager = Arc::clone(self);
        blocking(move || {
            for state in manager.local_states()? {
                used.extend(state.sealed);
                used.extend(state.packing.into_iter().map(|snapshot| snapshot.id));
            }
            let mut unused = layers.iter().filter(|name| !used.contains(*name));
            unused.try_for_each(|name| manager.store.discard(manager.store.layers.as_fd(), name))
        })
        .await
    }

    /// The states of the vessels that are here, whatever storage they belong to. One that is damaged says nothing.
    pub(super) fn local_states(&self) -> Result<Vec<VesselState>> {
        let mut states = Vec::new();
        for id in dirs::names(self.store.vessels.as_fd())? {
            if let Some(dir) = self.store.vessel(&id)? {
                states.extend(open::read_state(&id, dir.as_fd()).ok());
            }
        }
        Ok(states)
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
            let Err(error) = worker.run(&job, &[trash], &mut |_| {}) else { continue };
            // A directory that real root made when it died, before it was given to the mapped root.
            let Job::RemoveTree { name } = job else { continue };
            if layer::remove_tree(trash, name.as_ref()).is_err() {
                failure = failure.or(Some(error.into()));
            }
        }
        failure.map_or(Ok(()), Err)
    }
}
