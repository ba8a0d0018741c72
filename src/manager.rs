//! [`Manager`]: makes, opens, lists and deletes the vessels of one store, and keeps its images.
#![forbid(unsafe_code)]

pub(crate) mod commit;
pub(crate) mod create;
mod delete;
pub(crate) mod history;
pub(crate) mod images;
mod layers;
pub(crate) mod open;
mod parts;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
mod remote;
pub(crate) mod save;
mod start;
mod sweep;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use vesselrt_runtime::launch::{Launcher, host_mapping};
use vesselrt_runtime::shim::protocol::Driver;
use vesselrt_storage::manifest::VesselManifest;
use vesselrt_storage::registry::{Client, Kept as CredentialsKept};
use vesselrt_storage::{CompressedStorage, Storage};
use vesselrt_storage::{ContentStore, ImageRecord};

use crate::config::{ManagerConfig, OverlayDriver};
use crate::error::{Error, Result};
use crate::offload::{blocking, detached};
use crate::store::Store;
use crate::vessel::Vessel;
use commit::{CommitOptions, CommitProgress, CommitReport};
use create::CreateOptions;
use images::{ImageImport, ImportProgress, ImportReport};
use prune::{ImageUsage, PruneReport, VerifyReport};
use pull::{PullOptions, PullProgress, PullReport};
use push::{PushProgress, PushReport};
use save::SaveFormat;

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
    sweeper: tokio::sync::Mutex<()>,
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
        self.inner.load_manifest(id).await
    }

    /// Whether a vessel is in use. It is not opened.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn vessel_status(&self, id: &str) -> Result<VesselStatus> {
        open::status(&self.inner, id).await
    }

    /// Stops a vessel, whoever has it open: its commands are killed, its shim leaves. False when it did not run.
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

    /// Commits a vessel as an image: its base's layers, one per snapshot, and one of what is in no snapshot yet. The
    /// configuration is the base's, with [`CommitOptions::changes`]. The result can be run, saved and pushed at once.
    /// The same vessel gives the same digests again.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …", "snapshot not found: …";
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a change that is not understood, and with all names
    /// for files whose names begin with `.wh.`, which no OCI layer can hold;
    /// [`Conflict`](crate::ErrorKind::Conflict) while a command runs, unless a snapshot is committed.
    pub async fn commit_vessel(
        &self,
        id: &str,
        options: CommitOptions,
        progress: impl FnMut(CommitProgress) + Send + 'static,
    ) -> Result<CommitReport> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let progress = Arc::new(Mutex::new(progress));
        detached(async move { commit::commit(inner, id, options, progress).await }).await
    }

    /// Pulls an image from its registry, or finds that it is here already. Layers are unpacked as they come.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`PermissionDenied`](crate::ErrorKind::PermissionDenied),
    /// [`LimitExceeded`](crate::ErrorKind::LimitExceeded) by the registry;
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when it is not reached;
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) when it sends something else. What came by then is
    /// used by the next pull.
    pub async fn pull_image(
        &self,
        options: PullOptions,
        progress: impl FnMut(PullProgress) + Send + 'static,
    ) -> Result<PullReport> {
        pull::pull(Arc::clone(&self.inner), options, Arc::new(Mutex::new(progress))).await
    }

    /// Pushes an image to its registry, or under the name `target`: only what the registry lacks, taken over from other
    /// repositories there where that is possible.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "image not found: …";
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) by the registry;
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when it is not reached.
    pub async fn push_image(
        &self,
        reference: &str,
        target: Option<&str>,
        progress: impl FnMut(PushProgress) + Send + 'static,
    ) -> Result<PushReport> {
        let (inner, reference, target) =
            (Arc::clone(&self.inner), reference.to_owned(), target.map(str::to_owned));
        push::push(inner, reference, target, Arc::new(Mutex::new(progress))).await
    }

    /// Pushes a vessel's manifest and all its snapshots as OCI artifacts under the tag `reference`; with `with_base` its
    /// image too. What is in no snapshot is not pushed.
    ///
    /// # Errors
    /// Those of [`Self::push_image`]; [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn push_snapshots(
        &self,
        id: &str,
        reference: &str,
        with_base: bool,
        progress: impl FnMut(PushProgress) + Send + 'static,
    ) -> Result<PushReport> {
        let (inner, id, reference) = (Arc::clone(&self.inner), id.to_owned(), reference.to_owned());
        history::push(inner, id, reference, with_base, Arc::new(Mutex::new(progress))).await
    }

    /// Makes a vessel of what [`Self::push_snapshots`] pushed, with its own id or with `id`: every archive is verified
    /// before it exists. Snapshots whose ids are taken here get new ones.
    ///
    /// # Errors
    /// Those of [`Self::pull_image`]; [`AlreadyExists`](crate::ErrorKind::AlreadyExists) for an id that is taken;
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a reference that leads to something else.
    pub async fn pull_snapshots(
        &self,
        reference: &str,
        id: Option<&str>,
        progress: impl FnMut(PullProgress) + Send + 'static,
    ) -> Result<VesselManifest> {
        let (inner, reference, id) = (Arc::clone(&self.inner), reference.to_owned(), id.map(str::to_owned));
        history::take::pull(inner, reference, id, Arc::new(Mutex::new(progress))).await
    }

    /// Checks a user's password (or token) against a registry and keeps it where podman does, or with the credential
    /// helper of its settings.
    ///
    /// # Errors
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) when the registry does not accept it.
    pub async fn login(&self, host: &str, user: &str, password: &str) -> Result<CredentialsKept> {
        self.inner.login(host, user, password).await
    }

    /// Forgets what [`Self::login`] kept. False if there was nothing.
    ///
    /// # Errors
    /// Those of the file or the helper.
    pub async fn logout(&self, host: &str) -> Result<bool> {
        self.inner.logout(host).await
    }

    /// Saves an image to `path`, which is replaced as a whole if it is a file; a directory must be empty or not there.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "image not found: …";
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) for a directory with something in it;
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for an image that is damaged.
    pub async fn save_image(
        &self,
        reference: &str,
        format: SaveFormat,
        path: impl Into<std::path::PathBuf>,
    ) -> Result<()> {
        let (inner, reference, path) = (Arc::clone(&self.inner), reference.to_owned(), path.into());
        save::save(inner, reference, format, path).await
    }

    /// [`Self::save_image`] to a stream, which is worth nothing after an error.
    ///
    /// # Errors
    /// Those of [`Self::save_image`]; [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for
    /// [`SaveFormat::OciDir`].
    pub async fn save_image_to(
        &self,
        reference: &str,
        format: SaveFormat,
        out: impl std::io::Write + Send + 'static,
    ) -> Result<()> {
        save::save_to(Arc::clone(&self.inner), reference.to_owned(), format, out).await
    }

    /// Gives an image another name. A name that meant another image means this one from now on.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "image not found: …".
    pub async fn tag_image(&self, source: &str, target: &str) -> Result<ImageRecord> {
        Arc::clone(&self.inner).tag(source.to_owned(), target.to_owned()).await
    }

    /// All images that have a reference, with the bytes that are theirs alone and those they share.
    ///
    /// # Errors
    /// Those of [`Self::list_images`].
    pub async fn image_usage(&self) -> Result<Vec<ImageUsage>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.usage()).await
    }

    /// Removes what no image has any more; with `all`, also the images that no vessel is based on. What is being pulled,
    /// committed or run is left alone.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) while something is pulled or committed.
    pub async fn prune_images(&self, all: bool) -> Result<PruneReport> {
        let inner = Arc::clone(&self.inner);
        detached(async move { inner.prune(all).await }).await
    }

    /// Reads every blob of an image, or of all images, and says which are damaged. With `repair` those are had again from
    /// the registry of an image that has them.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "image not found: …". That something cannot be repaired is no error:
    /// [`VerifyReport::repaired`] lacks it.
    pub async fn verify_images(&self, reference: Option<&str>, repair: bool) -> Result<VerifyReport> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.map(str::to_owned));
        detached(async move { inner.verify_and_repair(reference, repair).await }).await
    }

    /// Removes what crashes left behind and what was deleted but not removed yet. Most of that is done in the background,
    /// by [`Self::new`] and after every deletion.
    ///
    /// # Errors
    /// The first that is met, after everything has been tried.
    pub async fn collect_garbage(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        detached(async move { inner.collect().await }).await
    }

    /// Waits until what was deleted is removed. Vessels stay open until they are closed themselves.
    ///
    /// # Errors
    /// None at present: what cannot be removed now stays in the trash for the next manager.
    pub async fn close(&self) -> Result<()> {
        // A host without user namespaces cannot remove trees of other ids; that is no reason to fail here.
        let inner = Arc::clone(&self.inner);
        let _ = detached(async move { inner.sweep().await }).await;
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
            None => Arc::new(CompressedStorage::local(store.path("data"))?),
        };
        Ok(Self {
            config,
            store,
            storage,
            content,
            client: Mutex::new(None),
            launcher: Mutex::new(None),
            imports: Mutex::default(),
            sweeper: tokio::sync::Mutex::default(),
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
    pub(crate) async fn load_manifest(&self, id: &str) -> Result<VesselManifest> {
        vesselrt_storage::validate_id(id)
            .map_err(|e| Error::invalid(format!("invalid id of a vessel: {id:?}")).with_source(e))?;
        let bytes = match self.storage.load_vessel_manifest(id).await {
            Err(e) if e.kind() == vesselrt_storage::StorageErrorKind::NotFound => {
                return Err(Error::not_found(format!("vessel not found: {id}")));
            }
            other => {
                other.map_err(|e| Error::storage(format!("failed to load the manifest of vessel {id}"), e))?
            }
        };
        VesselManifest::parse_for(id, &bytes)
            .map_err(|e| Error::storage(format!("failed to read the manifest of vessel {id}"), e))
    }

    pub(crate) async fn save_manifest(&self, manifest: &VesselManifest) -> Result<()> {
        let id = &manifest.id;
        let failed = |e| Error::storage(format!("failed to save the manifest of vessel {id}"), e);
        let json = manifest.to_json().map_err(failed)?;
        self.storage.save_vessel_manifest(id, &json).await.map_err(failed)
    }
}

/// The public name of a driver.
pub(crate) fn overlay_of(driver: Driver) -> OverlayDriver {
    match driver {
        Driver::Kernel => OverlayDriver::Kernel,
        Driver::Fuse => OverlayDriver::Fuse,
    }
}
