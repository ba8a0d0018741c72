//! What a [`Manager`] does with images besides importing them: commit, save, pull, push, and their upkeep.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use vesselrt_storage::ImageRecord;
use vesselrt_storage::manifest::VesselManifest;
use vesselrt_storage::registry::Kept as CredentialsKept;

use super::commit::{self, CommitOptions, CommitProgress, CommitReport};
use super::prune::{ImageUsage, PruneReport, VerifyReport};
use super::pull::{self, PullOptions, PullProgress, PullReport};
use super::push::{self, PushProgress, PushReport};
use super::save::{self, SaveFormat};
use super::trees::TreeReport;
use super::{Manager, history};
use crate::error::Result;
use crate::offload::{blocking, detached};

impl Manager {
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

    /// Unpacks every layer of an image, or of all images, once more from its blob, compares that with the unpacked layer
    /// that vessels are mounted on, and says which are damaged. With `repair` those are replaced. Blobs are verified on
    /// the way; which of them are damaged is the business of [`Self::verify_images`].
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "image not found: …". That something cannot be repaired, because a vessel
    /// runs on it, is no error: [`DamagedTree::repaired`](super::trees::DamagedTree::repaired) is false.
    pub async fn verify_trees(&self, reference: Option<&str>, repair: bool) -> Result<TreeReport> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.map(str::to_owned));
        detached(async move { inner.verify_trees(reference, repair).await }).await
    }
}
