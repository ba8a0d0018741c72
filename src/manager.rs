//! [`Manager`]: makes, opens, lists and deletes the vessels of one store, and keeps its images.
#![forbid(unsafe_code)]

pub(crate) mod cat;
pub(crate) mod commit;
pub(crate) mod create;
mod delete;
pub(crate) mod fork;
pub(crate) mod history;
mod host;
pub(crate) mod images;
mod import;
mod layers;
pub(crate) mod limits;
mod manifests;
mod mounts;
mod network;
pub(crate) mod open;
mod parts;
mod probe;
mod processes;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
mod remote;
pub(crate) mod save;
mod start;
mod sweep;
mod taps;
mod transfer;
pub(crate) mod trees;
pub(crate) mod upkeep;
pub(crate) mod usage;
pub(crate) mod volumes;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use vesselrt_runtime::launch::{Launcher, host_mapping};
use vesselrt_runtime::settings::Settings;
use vesselrt_runtime::shim::protocol::Driver;
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};
use vesselrt_storage::registry::Client;
use vesselrt_storage::{CompressedStorage, Storage};
use vesselrt_storage::{ContentStore, ImageRecord};

use crate::config::{ManagerConfig, OverlayDriver};
use crate::error::{Error, Result};
use crate::offload::{blocking, detached};
use crate::store::Store;
use crate::vessel::Vessel;
use create::CreateOptions;
use fork::ForkOptions;
use images::{ImageImport, ImportProgress, ImportReport};
use pull::PullProgress;
use usage::DiskUsage;

/// Makes, opens, lists and deletes the vessels of one store. Clones are handles on the same manager; any number of
/// processes may have managers of the same store.
#[derive(Clone)]
pub struct Manager {
    inner: Arc<ManagerInner>,
}

/// What all handles and vessels of a manager share.
pub(crate) struct ManagerInner {
    pub(crate) config: ManagerConfig,
    pub(crate) store: Arc<Store>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) content: Arc<ContentStore>,
    /// Made when a registry is first needed.
    client: Mutex<Option<Client>>,
    launcher: Mutex<Option<Launcher>>,
    /// One lock per reference that is looked up, so that it is imported once.
    imports: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    manifests: manifests::Manifests,
    sweeper: tokio::sync::Mutex<()>,
    /// How many tasks do something in the background for vessels.
    upkeepers: tokio::sync::watch::Sender<usize>,
}

/// Whether a vessel is in use, by whoever it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VesselStatus {
    /// Its shim runs: some process has it open, or it was started.
    pub running: bool,
    /// Commands that run in it.
    pub commands: u32,
    /// Its shim stays when the last process that has it open is gone.
    pub kept: bool,
    /// Connections of processes that have it open.
    pub connections: u32,
    /// What stacks its layers ([`OverlayDriver::Kernel`] or [`OverlayDriver::Fuse`]), while it runs.
    pub driver: Option<OverlayDriver>,
}

impl Manager {
    /// Opens the store of `config`, which is created if missing.
    ///
    /// # Errors
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) when it belongs to someone else;
    /// [`Conflict`](crate::ErrorKind::Conflict) when the directory is no store, or was written under other id mappings;
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when its file system is full or read-only.
    pub async fn new(config: ManagerConfig) -> Result<Self> {
        let inner = blocking(move || ManagerInner::open(config)).await?;
        let manager = Self { inner: Arc::new(inner) };
        manager.inner.sweep_later();
        Ok(manager)
    }

    /// Another handle.
    pub(crate) fn of(inner: &Arc<ManagerInner>) -> Self {
        Self { inner: Arc::clone(inner) }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ManagerConfig {
        &self.inner.config
    }

    /// Makes a vessel with a new id. An image that is not known yet is looked for in the
    /// [`Storage`](crate::Storage::load_image), and then in its registry. `work_dir` is where relative paths and commands
    /// begin, created if missing: empty is the image's own, a relative one is `/`.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for an unknown image;
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) "path is not a directory: …"; whatever the host cannot do is
    /// [`Unsupported`](crate::ErrorKind::Unsupported). Nothing is left behind.
    pub async fn create_vessel(&self, image: &str, work_dir: &str) -> Result<Vessel> {
        self.create_vessel_with(CreateOptions::new(image).work_dir(work_dir)).await
    }

    /// [`Self::create_vessel`] with all options.
    ///
    /// # Errors
    /// Those of [`Self::create_vessel`]; [`AlreadyExists`](crate::ErrorKind::AlreadyExists) for a given id that is taken.
    pub async fn create_vessel_with(&self, options: CreateOptions) -> Result<Vessel> {
        self.create_vessel_telling(options, |_| {}).await
    }

    /// [`Self::create_vessel_with`], where `progress` hears how far the pull is, if there is one.
    ///
    /// # Errors
    /// Those of [`Self::create_vessel_with`].
    pub async fn create_vessel_telling(
        &self,
        options: CreateOptions,
        progress: impl FnMut(PullProgress) + Send + 'static,
    ) -> Result<Vessel> {
        let (inner, progress) = (Arc::clone(&self.inner), Arc::new(Mutex::new(progress)) as pull::Progress);
        detached(async move { create::create(&inner, options, &progress).await }).await
    }

    /// Opens a vessel: joins its shim if one runs, starts one otherwise. What was not snapshotted is still there. What a
    /// crash interrupted is finished or undone. A store that lost its local directories gets them back from the
    /// archives.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …" or "base image not found: …";
    /// [`Conflict`](crate::ErrorKind::Conflict) when another process keeps it locked for longer than the configured time.
    pub async fn open_vessel(&self, id: &str) -> Result<Vessel> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        detached(async move { open::open(&inner, &id).await }).await
    }

    /// Makes new vessels that begin where this one is, or at one of its snapshots: all of them, or none. They share
    /// what they have in common, cost next to nothing until they are opened, and depend neither on each other nor on this
    /// vessel. What it is now becomes a snapshot first, unless nothing was written since the last one; its archive is not
    /// waited for ([`SnapshotOptions::sealed`](crate::SnapshotOptions::sealed)): the vessel and its forks share it when it is
    /// stored, and until then the snapshot is on this machine only.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …" or "snapshot not found: …";
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) for an id that is taken; those of
    /// [`Vessel::create_snapshot`](crate::Vessel::create_snapshot).
    pub async fn fork_vessel(&self, id: &str, options: ForkOptions) -> Result<Vec<VesselManifest>> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        detached(async move { fork::fork(&inner, &id, options).await }).await
    }

    /// Deletes a vessel with its snapshots. One that runs is stopped first, commands and all.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn delete_vessel(&self, id: &str) -> Result<()> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        detached(async move { delete::delete(&inner, &id).await }).await
    }

    /// The manifests of all vessels, oldest first.
    ///
    /// # Errors
    /// Those of the storage; [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for a damaged manifest.
    pub async fn list_vessels(&self) -> Result<Vec<VesselManifest>> {
        // A vessel that nobody will use again is not worth listing; one that cannot be deleted now is listed.
        let _ = self.inner.delete_abandoned().await;
        open::list(&self.inner).await
    }

    /// The manifest of one vessel, which is not opened.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn vessel_manifest(&self, id: &str) -> Result<VesselManifest> {
        Ok(Arc::unwrap_or_clone(self.inner.view(id).await?))
    }

    /// What the commands of a vessel may use of the host, as it was made.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn vessel_settings(&self, id: &str) -> Result<Settings> {
        network::settings(&self.inner, id).await
    }

    /// What the proxy of a vessel with [`Network::allow`](crate::settings::Network::allow) has denied, oldest first. Hosts are
    /// what a guest has asked for: any text.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn denied_connections(&self, id: &str) -> Result<Vec<crate::DeniedConnection>> {
        network::denied(&self.inner, id).await
    }

    /// Opens a file of a snapshot to be read from its beginning. The vessel is not opened, nothing is restored: the file
    /// is read out of the snapshots' archives, or of the image's layers. A relative path begins at the working directory
    /// of the vessel; symlinks are followed inside.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …", "snapshot not found: …", "file not found: …";
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is no regular file;
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for an archive that is not what it must be.
    pub async fn open_snapshot_file(
        &self,
        vessel: &str,
        snapshot: &str,
        path: impl AsRef<std::path::Path>,
        read: cat::SnapshotRead,
    ) -> Result<cat::SnapshotFile> {
        cat::open(&self.inner, vessel, snapshot, path.as_ref(), read).await
    }

    /// Whether a vessel is in use. It is not opened.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn vessel_status(&self, id: &str) -> Result<VesselStatus> {
        open::status(&self.inner, id).await
    }

    /// Stops a vessel, whoever has it open: its detached processes get SIGTERM and two seconds, its commands are killed, its
    /// shim leaves. False when it did not run.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …"; [`Unavailable`](crate::ErrorKind::Unavailable)
    /// when the shim is not gone after 10 s.
    pub async fn stop_vessel(&self, id: &str) -> Result<bool> {
        open::stop(&self.inner, id).await
    }

    /// Stops all vessels that run, and says which they were.
    ///
    /// # Errors
    /// The first error of [`Self::stop_vessel`], after all have been tried.
    pub async fn stop_all(&self) -> Result<Vec<String>> {
        open::stop_all(&self.inner).await
    }

    /// Imports an image from a docker-archive, an oci-archive, an OCI layout directory, a rootfs tar or a rootfs
    /// directory, plain or compressed, as `reference`. `progress` hears how far it is.
    ///
    /// # Errors
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for an archive that is not what it says;
    /// [`LimitExceeded`](crate::ErrorKind::LimitExceeded).
    pub async fn import_image(
        &self,
        path: impl Into<std::path::PathBuf>,
        reference: &str,
        progress: impl FnMut(ImportProgress) + Send + 'static,
    ) -> Result<ImportReport> {
        self.import_image_with(ImageImport::new(path).reference(reference), progress).await
    }

    /// [`Self::import_image`] with all options.
    ///
    /// # Errors
    /// Those of [`Self::import_image`].
    pub async fn import_image_with(
        &self,
        import: ImageImport,
        progress: impl FnMut(ImportProgress) + Send + 'static,
    ) -> Result<ImportReport> {
        let inner = Arc::clone(&self.inner);
        detached(async move { inner.import(import, Box::new(progress)).await }).await
    }

    /// All images that have a reference.
    ///
    /// # Errors
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for a damaged store.
    pub async fn list_images(&self) -> Result<Vec<ImageRecord>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.list_images()).await
    }

    /// One image, by reference or by the digest of its manifest.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "image not found: …".
    pub async fn inspect_image(&self, reference: &str) -> Result<ImageRecord> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        blocking(move || inner.find_image(&reference)).await
    }

    /// Removes a reference, and what nothing else uses of its image.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "image not found: …"; [`Conflict`](crate::ErrorKind::Conflict) while a
    /// vessel is based on it and no other reference keeps it.
    pub async fn remove_image(&self, reference: &str) -> Result<()> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        detached(async move { inner.remove_image(&reference).await }).await
    }

    /// What all vessels take on disk, or one of them.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …"; those of the storage.
    pub async fn disk_usage(&self, vessel: Option<&str>) -> Result<DiskUsage> {
        let (inner, vessel) = (Arc::clone(&self.inner), vessel.map(str::to_owned));
        detached(async move { usage::disk_usage(&inner, vessel.as_deref()).await }).await
    }

    /// Removes what crashes left behind and what was deleted but not removed yet. Most of that is done in the background,
    /// by [`Self::new`] and after every deletion.
    ///
    /// # Errors
    /// The first that is met, after everything has been tried.
    pub async fn collect_garbage(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        detached(async move {
            let collected = inner.collect().await;
            let begun = inner.upkeep_all_later().await;
            collected.and(begun)
        })
        .await
    }

    /// Does now what is done for a vessel in the background, unless another process is at it: packs the archives that its
    /// sealed snapshots wait for.
    ///
    /// # Errors
    /// The first that is met; what is not done is done when the vessel is opened next.
    pub async fn upkeep_vessel(&self, id: &str) -> Result<()> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        detached(async move { inner.upkeep(&id).await }).await
    }

    /// Waits until a snapshot of a vessel, or every one, has its archive in the storage; packs what nobody packs. Says
    /// which they are, with checksum and size.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …" or "snapshot not found: …"; those of the storage.
    pub async fn wait_snapshot(&self, id: &str, snapshot: Option<&str>) -> Result<Vec<SnapshotManifest>> {
        let (inner, id, snapshot) = (Arc::clone(&self.inner), id.to_owned(), snapshot.map(str::to_owned));
        detached(async move { inner.wait_snapshot(&id, snapshot.as_deref()).await }).await
    }

    /// Waits until what was deleted is removed, and what sealed snapshots left to the background is done. Vessels stay open until they are closed themselves.
    ///
    /// # Errors
    /// None at present: what cannot be removed now stays in the trash for the next manager.
    pub async fn close(&self) -> Result<()> {
        // A host without user namespaces cannot remove trees of other ids; that is no reason to fail here.
        let inner = Arc::clone(&self.inner);
        let _ = detached(async move {
            inner.upkept().await;
            inner.sweep().await
        })
        .await;
        Ok(())
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("root", &self.inner.config.root).finish_non_exhaustive()
    }
}

impl ManagerInner {
    fn open(config: ManagerConfig) -> Result<Self> {
        let store = Arc::new(Store::open(&config.root, || Ok(host_mapping()?))?);
        let content = Arc::new(ContentStore::open(store.path("images"))?);
        let storage = match &config.storage {
            Some(storage) => Arc::clone(storage),
            None => {
                let local = CompressedStorage::local(store.path("data"))?.with_level(config.compression);
                Arc::new(local.map_err(|e| Error::storage("failed to set the level of compression", e))?)
            }
        };
        Ok(Self {
            config,
            store,
            storage,
            content,
            client: Mutex::new(None),
            launcher: Mutex::new(None),
            imports: Mutex::default(),
            manifests: manifests::Manifests::default(),
            sweeper: tokio::sync::Mutex::default(),
            upkeepers: tokio::sync::watch::Sender::default(),
        })
    }

    /// What starts shims and workers; made when it is first needed, as a manager that only lists needs none.
    pub(crate) fn launcher(&self) -> Result<Launcher> {
        let mut launcher = self.launcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(launcher) = &*launcher {
            return Ok(launcher.clone());
        }
        let new = Launcher::new(self.config.shim_path.as_deref(), self.store.ids().clone())?;
        Ok(launcher.insert(new).clone())
    }

    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub(crate) async fn load_manifest(&self, id: &str) -> Result<Arc<VesselManifest>> {
        vesselrt_storage::validate_id(id)
            .map_err(|e| Error::invalid(format!("invalid id of a vessel: {id:?}")).with_source(e))?;
        let bytes = match self.storage.load_vessel_manifest(id).await {
            Err(e) if e.kind() == vesselrt_storage::StorageErrorKind::NotFound => {
                return Err(open::unknown(id));
            }
            other => {
                other.map_err(|e| Error::storage(format!("failed to load the manifest of vessel {id}"), e))?
            }
        };
        self.manifests
            .parse(id, bytes)
            .map_err(|e| Error::storage(format!("failed to read the manifest of vessel {id}"), e))
    }

    pub(crate) async fn save_manifest(&self, manifest: &Arc<VesselManifest>) -> Result<()> {
        let json = self.put_manifest(manifest).await?;
        self.manifests.learn(json, manifest);
        Ok(())
    }

    /// What it was written as.
    async fn put_manifest(&self, manifest: &VesselManifest) -> Result<Vec<u8>> {
        let id = &manifest.id;
        let failed = |e| Error::storage(format!("failed to save the manifest of vessel {id}"), e);
        let json = manifest.to_json().map_err(failed)?;
        self.storage.save_vessel_manifest(id, &json).await.map_err(failed)?;
        Ok(json)
    }

    /// The manifest of a vessel that is new, and perhaps thrown away after use.
    pub(crate) async fn save_first_manifest(&self, manifest: &VesselManifest, volatile: bool) -> Result<()> {
        if !volatile {
            return self.put_manifest(manifest).await.map(drop);
        }
        let id = &manifest.id;
        let failed = |e| Error::storage(format!("failed to save the manifest of vessel {id}"), e);
        let json = manifest.to_json().map_err(failed)?;
        self.storage.save_volatile_manifest(id, &json).await.map_err(failed)
    }
}

/// The public name of a driver.
pub(crate) fn overlay_of(driver: Driver) -> OverlayDriver {
    match driver {
        Driver::Kernel => OverlayDriver::Kernel,
        Driver::Fuse => OverlayDriver::Fuse,
    }
}
