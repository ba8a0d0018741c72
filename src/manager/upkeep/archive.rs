//! Archives of sealed layers: packed once, whoever has the snapshot.
//!
//! A vessel and its forks may wait for the archive of one layer. The first that gets to it packs it for itself and writes
//! down beside the layer where the archive is; the others, one at a time, make it theirs as well, which the default storage
//! does without copying. The note is a hint: when that archive is gone, with its vessel perhaps, the layer is packed
//! again, so that nobody depends on anybody.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vesselrt_runtime::shim::protocol::{Driver, Packed};
use vesselrt_runtime::worker::{Job, JobDone, TreeFormat};
use vesselrt_storage::StorageErrorKind;
use vesselrt_storage::manifest::SnapshotManifest;

use super::super::ManagerInner;
use crate::error::{Error, Result};
use crate::offload::blocking;
use crate::store::dirs::{self, Durable};
use crate::store::lock;
use crate::vessel::snapshot::stream_archive;

/// The note, in the directory of a layer.
const NOTE: &str = "archive.json";
const MAX_BYTES: u64 = 4096;

/// Where the archive of a layer is, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Archived {
    /// The vessel that has it.
    vessel: String,
    /// Of the snapshot's manifest.
    pub(super) checksum: String,
    /// Of the snapshot's manifest.
    pub(super) size: u64,
}

/// A snapshot that waits for its archive, and how that is made.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) snapshot: SnapshotManifest,
    /// What wrote its layer.
    pub(super) driver: Driver,
    /// How much to compress it, if not as ever.
    pub(super) level: Option<i32>,
}

impl ManagerInner {
    /// Sees to it that a vessel has the archive of a snapshot whose layer is here; `None` when somebody else has it and
    /// nothing was done.
    ///
    /// # Errors
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) when the layer is missing; those of the worker and of the
    /// storage.
    pub(super) async fn provide_archive(self: &Arc<Self>, waiting: &Waiting) -> Result<Option<Archived>> {
        let (store, name) = (Arc::clone(&self.store), waiting.snapshot.id.clone());
        let held = blocking(move || {
            let open = || {
                let missing = || Error::integrity(format!("the sealed layer of snapshot {name} is missing"));
                dirs::open(store.layers.as_fd(), &name)?.ok_or_else(missing)
            };
            // Whoever holds it packs. Not waited for: hundreds of forks may want it, and each would take a thread.
            Ok(lock::attempt_dir(open()?)?.map(|one| open().map(|layer| (Arc::new(layer), one))))
        });
        let Some(held) = held.await? else { return Ok(None) };
        let (layer, _one) = held?;
        if let Some(shared) = self.share_archive(waiting, &layer).await? {
            return Ok(Some(shared));
        }
        let packed = self.pack_sealed(waiting, Arc::clone(&layer)).await?;
        let archived = Archived {
            vessel: waiting.snapshot.vessel_id.clone(),
            checksum: format!("sha256:{}", packed.sha256),
            size: packed.size,
        };
        let note = archived.clone();
        // Without it others pack for themselves.
        let _ = blocking(move || note.write(&layer)).await;
        Ok(Some(archived))
    }

    /// The archive that another vessel has, as this one's too; `None` if there is none any more.
    async fn share_archive(&self, waiting: &Waiting, layer: &Arc<OwnedFd>) -> Result<Option<Archived>> {
        let own = Arc::clone(layer);
        let Some(note) = blocking(move || Ok(Archived::read(&own))).await? else { return Ok(None) };
        let snapshot = &waiting.snapshot;
        // Its own archive without the manifest that would mention it: a crash came between the two.
        if note.vessel == snapshot.vessel_id {
            return Ok(None);
        }
        match self.storage.copy_snapshot(&note.vessel, &snapshot.id, &snapshot.vessel_id).await {
            Ok(()) => Ok(Some(Archived { vessel: snapshot.vessel_id.clone(), ..note })),
            Err(e)
                if matches!(e.kind(), StorageErrorKind::NotFound | StorageErrorKind::IntegrityViolation) =>
            {
                Ok(None)
            }
            Err(e) => {
                Err(Error::storage(format!("failed to share the archive of snapshot {}", snapshot.id), e))
            }
        }
    }

    /// Streams a sealed layer into the storage.
    async fn pack_sealed(self: &Arc<Self>, waiting: &Waiting, layer: Arc<OwnedFd>) -> Result<Packed> {
        let launcher = self.launcher()?;
        let format = match waiting.driver {
            Driver::Kernel => TreeFormat::Overlay,
            Driver::Fuse => TreeFormat::FuseOverlay,
        };
        let snapshot = &waiting.snapshot;
        stream_archive(self, &snapshot.vessel_id, &snapshot.id, waiting.level, move |out| {
            let job = Job::PackSealed { format };
            match launcher.worker()?.run(&job, &[layer.as_fd(), out.as_fd()], &mut |_| {})? {
                JobDone::Packed(packed) => Ok(packed),
                _ => Err(Error::internal("unexpected reply of the worker: not packed")),
            }
        })
        .await
    }
}

impl Archived {
    /// Whatever is wrong with it, it says nothing.
    fn read(layer: &OwnedFd) -> Option<Self> {
        let bytes = dirs::read_small(layer.as_fd(), NOTE, MAX_BYTES).ok()??;
        let note: Self = serde_json::from_slice(&bytes).ok()?;
        vesselrt_storage::validate_id(&note.vessel).ok().map(|()| note)
    }

    fn write(&self, layer: &OwnedFd) -> Result<()> {
        let bytes = serde_json::to_vec(self)
            .map_err(|e| Error::internal("failed to write down where an archive is").with_source(e))?;
        dirs::write_atomic(layer.as_fd(), NOTE, &bytes, Durable::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_that_is_damaged_or_names_something_else_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dirs::open_path(dir.path()).unwrap();
        assert_eq!(Archived::read(&layer), None);
        let note = Archived { vessel: "v".into(), checksum: "sha256:00".into(), size: 1 };
        note.write(&layer).unwrap();
        assert_eq!(Archived::read(&layer), Some(note.clone()));
        for bad in ["", "{", "{\"vessel\":\"../v\",\"checksum\":\"\",\"size\":1}"] {
            std::fs::write(dir.path().join(NOTE), bad).unwrap();
            assert_eq!(Archived::read(&layer), None, "{bad}");
        }
    }
}
