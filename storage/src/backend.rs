//! [`Storage`]: where the durable bytes of vessels live.
#![forbid(unsafe_code)]

mod sharing;

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncRead;

pub use self::sharing::{ArchiveUsage, VesselFork};
use crate::error::{Result, StorageError};

/// A body on its way in or out. Memory use of every implementation is independent of its length.
pub type ByteStream = Pin<Box<dyn AsyncRead + Send>>;

/// An archive that is read in any order.
#[async_trait]
pub trait RandomAccess: Debug + Send + Sync {
    /// Its bytes.
    fn len(&self) -> u64;

    /// Whether it is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the bytes from `offset` on: at least one and at most `most`, none only at or after the end.
    ///
    /// # Errors
    /// `Corrupt` for what is not as it was saved, as far as the archive itself can tell; `Io`.
    async fn read_at(&self, offset: u64, most: usize) -> Result<Bytes>;
}

/// The largest vessel manifest that is stored or loaded, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 16 * 1024 * 1024;

/// A backend for vessel manifests, snapshot archives and base-image archives.
///
/// # Contract
///
/// 1. **Names.** Vessel and snapshot ids must satisfy [`crate::id::validate_id`], image references
///    [`crate::local::validate_image_ref`]; anything else is [`StorageError::Invalid`], from every method,
///    before anything is touched.
/// 2. **Atomic.** A save is seen whole or not at all, also by other processes and after a crash. A body that
///    fails midway, or a future that is dropped, leaves what was there before; only a future dropped after the
///    body has ended may still complete. When a save returned `Ok`, the bytes survive a power cut.
/// 3. **Replace.** Saving under a name that exists replaces it. Concurrent saves of one name leave one of
///    them, whole.
/// 4. **Missing** is [`StorageError::NotFound`] from the loads, `Ok` from the deletes (idempotent), and an
///    empty list.
/// 5. **Prompt.** When the backend cannot take more (disk full), the save fails at once, without draining
///    the body.
/// 6. **Bytes, not meaning.** What a load gives is what was saved; digests and sizes are checked by whoever
///    knows them (the manifest does). An error of a [`ByteStream`] is an [`std::io::Error`];
///    [`crate::error::io_kind`] classifies it.
/// 7. **Independent of vessels' life.** Snapshots may be saved before the vessel's first manifest. A vessel
///    is listed if and only if it has a manifest.
#[async_trait]
pub trait Storage: Debug + Send + Sync + 'static {
    /// Stores the manifest of a vessel, at most [`MAX_MANIFEST_BYTES`].
    ///
    /// # Errors
    /// `Invalid` id, `LimitExceeded`, `Io`.
    async fn save_vessel_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()>;

    /// [`Self::save_vessel_manifest`] of a vessel that is thrown away after use: it need not survive a power cut. What
    /// a backend gains by knowing that is its own affair; by default, nothing.
    ///
    /// # Errors
    /// Those of [`Self::save_vessel_manifest`].
    async fn save_volatile_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()> {
        self.save_vessel_manifest(vessel_id, manifest).await
    }

    /// Loads the manifest of a vessel.
    ///
    /// # Errors
    /// `Invalid` id, `NotFound`, `Corrupt` (not a regular file), `LimitExceeded`, `Io`.
    async fn load_vessel_manifest(&self, vessel_id: &str) -> Result<Vec<u8>>;

    /// Opens the archive of a base image, by the exact reference it was stored under.
    ///
    /// # Errors
    /// `Invalid` reference, `NotFound`, `Corrupt`, `Io`.
    async fn load_image(&self, image_ref: &str) -> Result<ByteStream>;

    /// Stores the archive of a snapshot.
    ///
    /// # Errors
    /// `Invalid` ids, `Io` (also the error of `body`).
    async fn save_snapshot(&self, vessel_id: &str, snapshot_id: &str, body: ByteStream) -> Result<()>;

    /// [`Self::save_snapshot`] compressed with this level of zstd, by a backend that compresses; by default, and to others,
    /// it is the same.
    ///
    /// # Errors
    /// Those of [`Self::save_snapshot`]; `Invalid` for a level that zstd does not have.
    async fn save_snapshot_at(
        &self,
        vessel_id: &str,
        snapshot_id: &str,
        body: ByteStream,
        _level: i32,
    ) -> Result<()> {
        self.save_snapshot(vessel_id, snapshot_id, body).await
    }

    /// Opens the archive of a snapshot.
    ///
    /// # Errors
    /// `Invalid` ids, `NotFound`, `Corrupt`, `Io`.
    async fn load_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<ByteStream>;

    /// Opens the archive of a snapshot, as [`Storage::load_snapshot`] gives it, to be read in any order. `None` from a
    /// storage that cannot, or for an archive that must be read from its beginning.
    ///
    /// # Errors
    /// Those of [`Storage::load_snapshot`].
    async fn open_snapshot(
        &self,
        _vessel_id: &str,
        _snapshot_id: &str,
    ) -> Result<Option<Arc<dyn RandomAccess>>> {
        Ok(None)
    }

    /// Removes the archive of a snapshot, if there is one.
    ///
    /// # Errors
    /// `Invalid` ids, `Io`.
    async fn delete_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<()>;

    /// Removes a vessel's manifest and all its snapshots, if there are any. The manifest goes first.
    ///
    /// # Errors
    /// `Invalid` id, `Io`.
    async fn delete_vessel(&self, vessel_id: &str) -> Result<()>;

    /// [`Self::delete_vessel`] of one that [`Self::save_volatile_manifest`] saved: after a power cut it may be there
    /// again.
    ///
    /// # Errors
    /// Those of [`Self::delete_vessel`].
    async fn delete_volatile_vessel(&self, vessel_id: &str) -> Result<()> {
        self.delete_vessel(vessel_id).await
    }

    /// The ids of all vessels that have a manifest, sorted.
    ///
    /// # Errors
    /// `Io`.
    async fn list_vessels(&self) -> Result<Vec<String>>;

    /// Makes the archive of a snapshot an archive of another vessel as well, under the same snapshot id: each can be
    /// deleted without the other. A backend that can keep the bytes once does so; by default they are read and saved.
    ///
    /// # Errors
    /// `Invalid` ids, `NotFound`, `Io`.
    async fn copy_snapshot(&self, from_vessel: &str, snapshot_id: &str, to_vessel: &str) -> Result<()> {
        let body = self.load_snapshot(from_vessel, snapshot_id).await?;
        self.save_snapshot(to_vessel, snapshot_id, body).await
    }

    /// Makes vessels that begin with `snapshots` of another: their archives first, then the manifests. When it returned
    /// `Ok`, all of it survives a power cut. After an error some of the vessels may be there, each of them whole; and there
    /// may be archives of vessels that are not, which [`Storage::delete_vessel`] removes.
    ///
    /// # Errors
    /// Those of [`Storage::copy_snapshot`] and [`Storage::save_vessel_manifest`].
    async fn fork_vessel(&self, from_vessel: &str, snapshots: &[String], forks: &[VesselFork]) -> Result<()> {
        for fork in forks {
            for snapshot in snapshots {
                self.copy_snapshot(from_vessel, snapshot, &fork.vessel_id).await?;
            }
            self.save_vessel_manifest(&fork.vessel_id, &fork.manifest).await?;
        }
        Ok(())
    }

    /// The archives there are of a vessel's snapshots, in no order, also of those that no manifest mentions; `None` from a
    /// backend that cannot tell, which is the default.
    ///
    /// # Errors
    /// `Invalid` id, `Io`.
    async fn list_archives(&self, vessel_id: &str) -> Result<Option<Vec<ArchiveUsage>>> {
        crate::local::check_id("vessel", vessel_id).map(|()| None)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Storage + ?Sized> Storage for Arc<S> {
    async fn save_vessel_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()> {
        (**self).save_vessel_manifest(vessel_id, manifest).await
    }
    async fn save_volatile_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()> {
        (**self).save_volatile_manifest(vessel_id, manifest).await
    }
    async fn load_vessel_manifest(&self, vessel_id: &str) -> Result<Vec<u8>> {
        (**self).load_vessel_manifest(vessel_id).await
    }
    async fn load_image(&self, image_ref: &str) -> Result<ByteStream> {
        (**self).load_image(image_ref).await
    }
    async fn save_snapshot(&self, vessel_id: &str, snapshot_id: &str, body: ByteStream) -> Result<()> {
        (**self).save_snapshot(vessel_id, snapshot_id, body).await
    }
    async fn save_snapshot_at(
        &self,
        vessel_id: &str,
        snapshot_id: &str,
        body: ByteStream,
        level: i32,
    ) -> Result<()> {
        (**self).save_snapshot_at(vessel_id, snapshot_id, body, level).await
    }
    async fn load_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<ByteStream> {
        (**self).load_snapshot(vessel_id, snapshot_id).await
    }
    async fn open_snapshot(
        &self,
        vessel_id: &str,
        snapshot_id: &str,
    ) -> Result<Option<Arc<dyn RandomAccess>>> {
        (**self).open_snapshot(vessel_id, snapshot_id).await
    }
    async fn delete_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<()> {
        (**self).delete_snapshot(vessel_id, snapshot_id).await
    }
    async fn delete_vessel(&self, vessel_id: &str) -> Result<()> {
        (**self).delete_vessel(vessel_id).await
    }
    async fn delete_volatile_vessel(&self, vessel_id: &str) -> Result<()> {
        (**self).delete_volatile_vessel(vessel_id).await
    }
    async fn list_vessels(&self) -> Result<Vec<String>> {
        (**self).list_vessels().await
    }
    async fn copy_snapshot(&self, from_vessel: &str, snapshot_id: &str, to_vessel: &str) -> Result<()> {
        (**self).copy_snapshot(from_vessel, snapshot_id, to_vessel).await
    }
    async fn fork_vessel(&self, from_vessel: &str, snapshots: &[String], forks: &[VesselFork]) -> Result<()> {
        (**self).fork_vessel(from_vessel, snapshots, forks).await
    }
    async fn list_archives(&self, vessel_id: &str) -> Result<Option<Vec<ArchiveUsage>>> {
        (**self).list_archives(vessel_id).await
    }
}

/// Runs blocking file work on the runtime's threads for that.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    finished(what, tokio::task::spawn_blocking(work).await)
}

/// The result of a task; its panic is passed on.
pub(crate) fn finished<T>(
    what: &'static str,
    joined: std::result::Result<Result<T>, tokio::task::JoinError>,
) -> Result<T> {
    match joined {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StorageError::Cancelled { what }),
    }
}
