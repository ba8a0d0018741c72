//! Removing what was deleted, and what crashes left.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vesselrt_runtime::layer;
use vesselrt_runtime::worker::Job;
use vesselrt_storage::StorageErrorKind;

use super::open::{self, LOCK, OPS_LOCK, UNFINISHED};
use super::{ManagerInner, limits};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use crate::state::{Pending, VesselState};
use crate::store::lock;
use crate::store::{dirs, staged};

/// Between its creation and the start of its shim nobody holds a vessel's lock: that takes milliseconds.
const YOUNG: Duration = Duration::from_secs(60);

/// How long sweeping is put off.
const PUT_OFF: Duration = Duration::from_millis(100);
/// Trash that has waited for so long waits no longer.
const LONG: Duration = Duration::from_secs(10);
/// So many entries of the trash do not wait.
const MUCH: usize = 32;

/// Whether a directory was changed just now.
fn is_young(dir: BorrowedFd<'_>) -> bool {
    is_young_for(dir, YOUNG)
}

/// Whether a directory was changed within that time, by whatever clock made it.
fn is_young_for(dir: BorrowedFd<'_>, time: Duration) -> bool {
    let Ok(status) = rustix::fs::fstat(dir) else { return true };
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(status.st_mtime.unsigned_abs());
    // A clock that was set back makes it young until the clock has caught up.
    SystemTime::now().duration_since(changed).map_or(true, |age| age < time)
}

/// Between the end of an archive and the manifest that mentions it, on another host that shares the storage, is far less.
const OLD: Duration = Duration::from_secs(3600);

fn is_old(written: SystemTime) -> bool {
    SystemTime::now().duration_since(written).is_ok_and(|age| age > OLD)
}

/// Held by whoever empties the trash, in the trash itself.
const TRASH_LOCK: &str = ".lock";

impl ManagerInner {
    /// [`Self::sweep`] in the background, after a while: many a process is gone by then, and its work is not
    /// slowed down. Only what has been there for long, or is a lot, is not put off again. What fails is tried again by
    /// the next manager.
    pub(crate) fn sweep_later(self: &Arc<Self>) {
        if self.is_sweep_due() {
            let manager = Arc::clone(self);
            tokio::spawn(async move { manager.sweep().await });
            return;
        }
        // What only waits does not keep the store open.
        let manager = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(PUT_OFF).await;
            match manager.upgrade() {
                Some(manager) => manager.sweep().await,
                None => Ok(()),
            }
        });
    }

    fn is_sweep_due(&self) -> bool {
        let trash = self.store.trash.as_fd();
        let Ok(names) = dirs::names(trash) else { return false };
        let waiting = names.iter().filter(|name| *name != TRASH_LOCK).count();
        waiting > 0 && (waiting >= MUCH || !is_young_for(trash, LONG))
    }

    /// Moves to the trash what crashes left half made, and empties it.
    pub(crate) async fn sweep(self: &Arc<Self>) -> Result<()> {
        let _one = self.sweeper.lock().await;
        let manager = Arc::clone(self);
        let asked = blocking(move || manager.store.is_check_asked_for()).await?;
        // What fails here is tried again by the next sweep: it is still asked for.
        let checked = if asked { self.discard_layers().await } else { Ok(()) };
        let manager = Arc::clone(self);
        blocking(move || {
            let staged = staged::sweep(&manager.store);
            manager.empty_trash()?;
            staged
        })
        .await
        .and(checked)
    }

    /// Deletes the vessels that were to be thrown away after use, and whose user died before.
    pub(super) async fn delete_abandoned(self: &Arc<Self>) -> Result<()> {
        let manager = Arc::clone(self);
        for (id, _lock) in blocking(move || manager.abandoned()).await? {
            let manifest = self.load_manifest(&id).await.ok();
            let failed = |e| Error::storage(format!("failed to delete vessel {id} from the storage"), e);
            self.storage.delete_vessel(&id).await.map_err(failed)?;
            let (manager, name) = (Arc::clone(self), id.clone());
            blocking(move || {
                if let Some(dir) = manager.store.vessel(&name)? {
                    limits::release(dir.as_fd())?;
                }
                super::delete::discard(&manager, &name, manifest.as_deref())
            })
            .await?;
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
        let archives = self.discard_archives().await;
        let unused = self.discard_unused_content().await;
        let groups = self.release_groups().await;
        self.sweep().await?;
        abandoned.and(orphans).and(archives).and(unused).and(groups)
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

    /// Archives that no manifest mentions: a crash came between the two.
    async fn discard_archives(self: &Arc<Self>) -> Result<()> {
        for vessel in open::list(self).await? {
            let listed = vessel.snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect::<HashSet<_>>();
            let Some(archives) = self.archives(&vessel.id).await? else { return Ok(()) };
            if archives.keys().any(|id| !listed.contains(id.as_str())) {
                self.discard_archives_of(&vessel.id).await?;
            }
        }
        Ok(())
    }

    /// Not while somebody changes the vessel's snapshots, whose archives come before their names do.
    async fn discard_archives_of(self: &Arc<Self>, id: &str) -> Result<()> {
        let (own, name) = (Arc::clone(self), id.to_owned());
        let Some(dir) = blocking(move || own.store.vessel(&name)).await? else { return Ok(()) };
        let dir = Arc::new(dir);
        let fd = Arc::clone(&dir);
        let Some(_ops) = blocking(move || lock::attempt(fd.as_fd(), OPS_LOCK)).await? else { return Ok(()) };
        let Ok(manifest) = self.load_manifest(id).await else { return Ok(()) };
        let name = id.to_owned();
        // What was announced is made good by the next opening of the vessel.
        let Ok(state) = blocking(move || open::read_state(&name, dir.as_fd())).await else { return Ok(()) };
        let announced = state.pending.as_ref().map(Pending::snapshot);
        for (snapshot, archive) in self.archives(id).await?.unwrap_or_default() {
            let waits = state.packing.iter().any(|waiting| waiting.id == snapshot);
            let mentioned = manifest.snapshot(&snapshot).is_some() || announced == Some(&snapshot) || waits;
            if !mentioned && (self.is_alone() || is_old(archive.modified)) {
                let failed =
                    |e| Error::storage(format!("failed to delete the archive of snapshot {snapshot}"), e);
                self.storage.delete_snapshot(id, &snapshot).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Nobody uses the storage but users of this store, whose locks we see.
    fn is_alone(&self) -> bool {
        self.config.storage.is_none()
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
        limits::release(dir.as_fd())?;
        self.store.discard(self.store.vessels.as_fd(), id)?;
        Ok(true)
    }

    /// Sealed layers that no vessel mentions. Nobody forks meanwhile; what is sealed meanwhile is not among them.
    async fn discard_layers(self: &Arc<Self>) -> Result<()> {
        let manager = Arc::clone(self);
        let _alone = blocking(move || {
            let alone = manager.store.remove_layers()?;
            manager.store.begin_check()?;
            Ok(alone)
        })
        .await?;
        let discarded = self.discard_unused_layers_locked().await;
        if discarded.is_err() {
            let manager = Arc::clone(self);
            blocking(move || manager.store.ask_for_check()).await?;
        }
        discarded
    }

    async fn discard_unused_layers_locked(self: &Arc<Self>) -> Result<()> {
        // Before the manifests.
        let manager = Arc::clone(self);
        let layers = blocking(move || dirs::names(manager.store.layers.as_fd())).await?;
        if layers.is_empty() {
            return Ok(());
        }
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
