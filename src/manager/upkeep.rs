//! What is done for a vessel in the background: archives of sealed snapshots are packed and stored, and layers merged.
//!
//! Whoever does it holds `upkeep.lock` of the vessel. It is done by tasks of the process that made the snapshot, or by a
//! process of its own ([`Packer`]), and taken up again by whoever opens the vessel when nobody does it.
#![forbid(unsafe_code)]

mod archive;

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use vesselrt_runtime::shim::protocol::Driver;
use vesselrt_runtime::worker::{Job, JobDone};
use vesselrt_storage::manifest::SnapshotManifest;

use self::archive::{Archived, Waiting};
use super::ManagerInner;
use super::open::{OPS_LOCK, read_state, write_state};
use crate::config::Packer;
use crate::error::{Error, ErrorKind, Result};
use crate::history;
use crate::offload::blocking;
use crate::state::{Pending, VesselState};
use crate::store::dirs;
use crate::store::lock::{self, FileLock};
use crate::store::staged::Staged;

/// Held by whoever packs the snapshots of a vessel.
const UPKEEP_LOCK: &str = "upkeep.lock";
/// How often is looked whether somebody else has packed what is waited for.
const LOOK: Duration = Duration::from_millis(25);

/// A task that is counted among the upkeepers.
struct AtWork<'a>(&'a ManagerInner);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.upkeepers.send_modify(|count| *count -= 1);
    }
}

impl ManagerInner {
    /// Waits until no task of this process does anything in the background.
    pub(super) async fn upkept(&self) {
        // The sender is ours: it is not gone while we wait.
        let _ = self.upkeepers.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Sees to it that what a vessel's snapshots wait for is done. What fails is tried again when the vessel is opened.
    pub(crate) fn upkeep_later(self: &Arc<Self>, id: &str) {
        self.upkeep_these_later(vec![id.to_owned()]);
    }

    /// [`Self::upkeep_later`] of some vessels, one after the other.
    pub(crate) fn upkeep_these_later(self: &Arc<Self>, ids: Vec<String>) {
        match &self.config.packer {
            Packer::Tasks => {
                let manager = Arc::clone(self);
                self.upkeepers.send_modify(|count| *count += 1);
                tokio::spawn(async move {
                    let at_work = AtWork(&manager);
                    for id in ids {
                        let _ = manager.upkeep(&id).await;
                    }
                    drop(at_work);
                });
            }
            Packer::Process { program, arguments } => {
                let mut command = Command::new(program);
                command.args(arguments).args(ids).env_clear().current_dir("/");
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                // Without it the archive is packed when the vessel is opened next.
                let Ok(mut child) = command.spawn() else { return };
                let reaper = std::thread::Builder::new().name("vesselrt-reaper".into());
                let _ = reaper.stack_size(128 << 10).spawn(move || child.wait());
            }
        }
    }

    /// Does all that is to be done for a vessel, unless somebody else is at it.
    ///
    /// # Errors
    /// The first that is met.
    pub(crate) async fn upkeep(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(dir) = self.dir_of_vessel(id).await? else { return Ok(()) };
        loop {
            let state = state_of(id, &dir).await?;
            let waits = self.first_waiting(id, &dir).await?.is_some();
            if !waits && self.store.merge_due(&state).is_none() {
                return Ok(());
            }
            let fd = Arc::clone(&dir);
            let Some(lock) = blocking(move || lock::attempt(fd.as_fd(), UPKEEP_LOCK)).await? else {
                // Its holder looks again when it has let go of the lock.
                return Ok(());
            };
            // That is quick, and later snapshots are the quicker for it. What fails must not keep archives from being packed.
            let merged = self.merge_all(&state).await;
            self.store_all(id, &dir, lock).await?;
            merged?;
        }
    }

    /// Makes the merged layers that a vessel has none of yet.
    async fn merge_all(&self, state: &VesselState) -> Result<()> {
        while let Some(merge) = self.store.merge_due(state) {
            let (launcher, store, image) =
                (self.launcher()?, Arc::clone(&self.store), state.image.layers.clone());
            blocking(move || {
                let staged = Staged::new(&store)?;
                let job = Job::MergeLayers { layers: merge.parts, sealed: merge.below, image };
                let (sealed, image) = (store.layers.as_fd(), store.image_layers.as_fd());
                match launcher.worker()?.run(&job, &[sealed, image, staged.dir()], &mut |_| {})? {
                    JobDone::Merged => {}
                    _ => return Err(Error::internal("unexpected reply of the worker: not merged")),
                }
                dirs::sync_all(staged.dir())?;
                // One that somebody else has made meanwhile is the same.
                staged.publish(store.layers.as_fd(), &merge.name)?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Makes merged layers now when more layers are to be mounted than is good.
    ///
    /// # Errors
    /// Only if without them there are too many.
    pub(crate) async fn make_room(&self, state: &VesselState) -> Result<()> {
        // Without merged layers, which are looked for one by one.
        if !state.is_crowded(state.sealed.len()) {
            return Ok(());
        }
        if !state.is_crowded(self.store.stack(state).len()) {
            return Ok(());
        }
        let merged = self.merge_all(state).await;
        state.check_room(self.store.stack(state).len()).map_err(|full| merged.err().unwrap_or(full))
    }

    /// Waits until every snapshot of a vessel has its archive.
    ///
    /// # Errors
    /// Why one has not.
    pub(crate) async fn settle(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(dir) = self.dir_of_vessel(id).await? else { return Ok(()) };
        while self.first_waiting(id, &dir).await?.is_some() {
            let fd = Arc::clone(&dir);
            match blocking(move || lock::attempt(fd.as_fd(), UPKEEP_LOCK)).await? {
                Some(lock) => self.store_all(id, &dir, lock).await?,
                None => tokio::time::sleep(LOOK).await,
            }
        }
        Ok(())
    }

    async fn dir_of_vessel(&self, id: &str) -> Result<Option<Arc<OwnedFd>>> {
        let (store, id) = (Arc::clone(&self.store), id.to_owned());
        Ok(blocking(move || store.vessel(&id)).await?.map(Arc::new))
    }

    /// The oldest snapshot that waits for its archive.
    async fn first_waiting(&self, id: &str, dir: &Arc<OwnedFd>) -> Result<Option<Waiting>> {
        let state = state_of(id, dir).await?;
        if state.packing.is_empty() {
            return Ok(None);
        }
        let manifest = self.load_manifest(id).await?;
        let first = history::waiting(&manifest, &state).into_iter().next().cloned();
        let driver = state.driver.unwrap_or(Driver::Kernel);
        Ok(first.map(|snapshot| Waiting { level: state.levels.get(&snapshot.id).copied(), snapshot, driver }))
    }

    /// One after the other, parents before their children.
    async fn store_all(self: &Arc<Self>, id: &str, dir: &Arc<OwnedFd>, _lock: FileLock) -> Result<()> {
        while let Some(waiting) = self.first_waiting(id, dir).await? {
            let archived = self.provide_archive(&waiting).await;
            let waiting = waiting.snapshot;
            match archived {
                // Then whether it still waits is looked at again: the vessel may be deleted meanwhile.
                Ok(None) => tokio::time::sleep(LOOK).await,
                Ok(Some(archived)) => {
                    let snapshot = waiting.id.clone();
                    let recorded = self.record(id, dir, waiting, archived).await;
                    if recorded.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                        // The vessel was deleted meanwhile.
                        self.forget_archive(id, &snapshot).await?;
                    }
                    recorded?;
                }
                // A layer that was deleted meanwhile cannot be packed.
                Err(error) => {
                    let (_ops, state) = self.ops(id, dir).await?;
                    if state.packing.iter().any(|other| other.id == waiting.id) {
                        return Err(error);
                    }
                    self.forget_archive(id, &waiting.id).await?;
                }
            }
        }
        Ok(())
    }

    /// The snapshot enters the manifest, unless it was deleted meanwhile.
    async fn record(
        self: &Arc<Self>,
        id: &str,
        dir: &Arc<OwnedFd>,
        waiting: SnapshotManifest,
        archived: Archived,
    ) -> Result<()> {
        let (_ops, mut state) = self.ops(id, dir).await?;
        let manifest = self.load_manifest(id).await?;
        if !history::waiting(&manifest, &state).iter().any(|other| other.id == waiting.id) {
            return self.forget_archive(id, &waiting.id).await;
        }
        let mut merged = history::merged(&manifest, &state);
        let stored = SnapshotManifest {
            checksum: archived.checksum,
            size: archived.size,
            ..merged.snapshot(&waiting.id).unwrap_or(&waiting).clone()
        };
        merged.snapshots.iter_mut().filter(|other| other.id == stored.id).for_each(|s| s.clone_from(&stored));
        merged.update_time = time::OffsetDateTime::now_utc();
        self.save_manifest(&history::stored(&Arc::new(merged))).await?;
        state.packing.retain(|other| other.id != stored.id);
        state.levels.remove(&stored.id);
        let (fd, store) = (Arc::clone(dir), Arc::clone(&self.store));
        blocking(move || {
            if matches!(state.pending, Some(Pending::Sealed { .. })) {
                dirs::sync(store.layers.as_fd())?;
            }
            write_state(fd.as_fd(), &state)
        })
        .await
    }

    /// The right to change the snapshots of a vessel, however long that takes, and its state. A vessel that was deleted
    /// meanwhile has none.
    async fn ops(&self, id: &str, dir: &Arc<OwnedFd>) -> Result<(FileLock, VesselState)> {
        let fd = Arc::clone(dir);
        let lock = blocking(move || lock::wait(fd.as_fd(), OPS_LOCK, lock::Mode::Exclusive)).await?;
        let (store, fd, name) = (Arc::clone(&self.store), Arc::clone(dir), id.to_owned());
        let is_there = blocking(move || dirs::is_same(store.vessels.as_fd(), &name, fd.as_fd())).await?;
        if !is_there {
            return Err(super::open::unknown(id));
        }
        Ok((lock, state_of(id, dir).await?))
    }

    async fn forget_archive(&self, vessel: &str, snapshot: &str) -> Result<()> {
        let failed = |e| Error::storage(format!("failed to delete the archive of snapshot {snapshot}"), e);
        self.storage.delete_snapshot(vessel, snapshot).await.map_err(failed)
    }

    /// Waits until a snapshot, or every snapshot, of a vessel has its archive.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "snapshot not found: …"; why it cannot be stored.
    pub(crate) async fn wait_snapshot(
        self: &Arc<Self>,
        id: &str,
        snapshot: Option<&str>,
    ) -> Result<Vec<SnapshotManifest>> {
        let asked = |other: &&SnapshotManifest| snapshot.is_none_or(|snapshot| other.id == snapshot);
        loop {
            let found: Vec<_> = self.view(id).await?.snapshots.iter().filter(asked).cloned().collect();
            if let (Some(snapshot), true) = (snapshot, found.is_empty()) {
                return Err(Error::not_found(format!("snapshot not found: {snapshot}")));
            }
            if found.iter().all(SnapshotManifest::is_stored) {
                return Ok(found);
            }
            self.settle(id).await?;
        }
    }

    /// [`Self::upkeep_later`] of every vessel that is here and needs it.
    pub(crate) async fn upkeep_all_later(self: &Arc<Self>) -> Result<()> {
        let own = Arc::clone(self);
        let waiting = blocking(move || {
            let mut waiting = Vec::new();
            for id in dirs::names(own.store.vessels.as_fd())? {
                let Some(dir) = own.store.vessel(&id)? else { continue };
                if read_state(&id, dir.as_fd()).is_ok_and(|state| !state.packing.is_empty()) {
                    waiting.push(id);
                }
            }
            Ok(waiting)
        });
        waiting.await?.iter().for_each(|id| self.upkeep_later(id));
        Ok(())
    }
}

async fn state_of(id: &str, dir: &Arc<OwnedFd>) -> Result<VesselState> {
    let (fd, name) = (Arc::clone(dir), id.to_owned());
    blocking(move || read_state(&name, fd.as_fd())).await
}
