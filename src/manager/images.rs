//! Images: how they come in, how they are found, how they go.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vesselrt_storage::manifest::VesselManifest;
use vesselrt_storage::{ByteStream, Digest, ImageRecord, Reference, StorageErrorKind};

use super::prune::{PRUNE_PATIENCE, is_busy};
use super::pull;
use super::taps::Taps;
use super::{ManagerInner, open};
use crate::config::PullPolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use crate::state::ImageState;
use crate::store::lock::FileLock;
use crate::store::{dirs, staged::Staged};

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImportProgress {
    /// The archive is read, verified and stored.
    Reading {
        /// Bytes so far, of the layer that is being read.
        bytes: u64,
        /// Of how many, if that is known.
        total: Option<u64>,
    },
    /// A layer is unpacked.
    Unpacking {
        /// Which one, from 1.
        layer: usize,
        /// Of how many.
        layers: usize,
        /// Bytes of it so far, as stored.
        bytes: u64,
        /// Of how many.
        total: u64,
    },
}

/// What an import came to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImportReport {
    /// The image.
    pub image: ImageRecord,
    /// What was left out or changed when its layers were unpacked: device nodes, for one. Bounded.
    pub warnings: Vec<String>,
}

/// What is to be imported. The setters return the changed value, to be chained.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImageImport {
    /// A docker-archive, an oci-archive, an OCI layout directory, a rootfs tar or a rootfs directory.
    pub path: PathBuf,
    /// What the image is to be called; `None`: what the archive says.
    pub reference: Option<String>,
    /// Which image of the archive, if it has several: a reference, a tag, or the digest of a manifest.
    pub source: Option<String>,
    /// Which platform of an archive that has several, as `linux/arm64`; `None`: this host's.
    pub platform: Option<String>,
}

impl ImageImport {
    /// The only image at `path`, by the name it has there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), reference: None, source: None, platform: None }
    }

    /// Sets what the image is to be called.
    #[must_use]
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    /// Sets which platform is meant: `os/architecture` or `os/architecture/variant`. Programs for another processor are
    /// imported, but do not run.
    #[must_use]
    pub fn platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
        self
    }

    /// Sets which image of the archive is meant.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }
}

pub(super) type Progress = Box<dyn FnMut(ImportProgress) + Send>;

pub(super) fn parse_reference(text: &str) -> Result<Reference> {
    Reference::parse(text)
        .map_err(|e| Error::invalid(format!("invalid image reference: {text:?}")).with_source(e))
}

pub(super) fn not_known(image: &str) -> Error {
    Error::not_found(format!("image not found: {image}"))
        .with_remedy(format!("vesselrt image import PATH --ref {image}"))
}

impl ManagerInner {
    /// The image called `text`: a reference or the digest of a manifest.
    pub(super) fn find_image(&self, text: &str) -> Result<ImageRecord> {
        let found = match Digest::parse(text) {
            Ok(digest) => self.content.resolve_digest(&digest),
            Err(_) => self.content.resolve(&parse_reference(text)?),
        };
        found
            .map_err(|e| Error::storage(format!("failed to read image {text}"), e))?
            .ok_or_else(|| not_known(text))
    }

    pub(super) fn list_images(&self) -> Result<Vec<ImageRecord>> {
        let entries = self.content.list().map_err(|e| Error::storage("failed to list the images", e))?;
        let record = |entry: vesselrt_storage::content::ImageEntry| {
            let name = entry.reference.clone().unwrap_or_else(|| entry.manifest_digest.to_string());
            let record =
                entry.record.map_err(|e| Error::storage(format!("failed to read image {name}"), e))?;
            Ok(ImageRecord { reference: entry.reference, ..record })
        };
        entries.into_iter().map(record).collect()
    }

    /// The image called `text`; where it comes from is `policy`'s business. While it is pulled, images can be removed.
    pub(super) async fn obtain_image(
        self: &Arc<Self>,
        text: &str,
        policy: PullPolicy,
        progress: &pull::Progress,
    ) -> Result<(FileLock, ImageRecord)> {
        if policy == PullPolicy::Always && Digest::parse(text).is_err() {
            let reference = parse_reference(text)?;
            self.pull(&self.client()?, &reference, None, progress).await?;
        }
        // What was pulled may be removed again before it is in use; not for ever.
        for _ in 0..3 {
            let own = Arc::clone(self);
            let in_use = blocking(move || own.store.use_images()).await?;
            match self.provide_image(text).await {
                Err(e) if e.kind() == ErrorKind::NotFound && policy != PullPolicy::Never => {}
                found => return Ok((in_use, found?)),
            }
            drop(in_use);
            if Digest::parse(text).is_ok() {
                break;
            }
            self.pull_missing(text, progress).await?;
        }
        Err(not_known(text))
    }

    /// The image called `text`, imported from the storage if it is not known. One import for all who ask at once.
    pub(super) async fn provide_image(self: &Arc<Self>, text: &str) -> Result<ImageRecord> {
        let name = Reference::parse(text).map_or_else(|_| text.to_owned(), |reference| reference.to_string());
        let lock = {
            let mut imports = self.imports.lock().unwrap_or_else(PoisonError::into_inner);
            imports.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(imports.entry(name).or_default())
        };
        let _one = lock.lock().await;
        let (own, name) = (Arc::clone(self), text.to_owned());
        match blocking(move || own.find_image(&name)).await {
            Err(e) if e.kind() == ErrorKind::NotFound && Digest::parse(text).is_err() => {}
            other => return other,
        }
        let reference = parse_reference(text)?;
        let Some(archive) = self.stored_archive(text, &reference).await? else { return Err(not_known(text)) };
        let staged = self.stage_archive(text, archive).await?;
        let own = Arc::clone(self);
        blocking(move || {
            let path = staged.path().join(ARCHIVE);
            let mut taps = Taps::new(&own);
            let image = own.import_path(&ImageImport::new(path), Some(reference), &mut |_| {}, &mut taps)?;
            taps.publish()?;
            Ok(image)
        })
        .await
    }

    /// The archive that the storage has under the name as given, in full, or in short.
    async fn stored_archive(&self, text: &str, reference: &Reference) -> Result<Option<ByteStream>> {
        let mut names = vec![text.to_owned(), reference.to_string(), reference.familiar()];
        names.dedup();
        for name in names {
            match self.storage.load_image(&name).await {
                Ok(archive) => return Ok(Some(archive)),
                // A reference that cannot be the name of an archive is the name of none.
                Err(e)
                    if matches!(e.kind(), StorageErrorKind::NotFound | StorageErrorKind::InvalidArgument) => {
                }
                Err(e) => {
                    return Err(Error::storage(format!("failed to load the archive of image {text}"), e));
                }
            }
        }
        Ok(None)
    }

    /// An archive as a file, as importing needs to seek.
    async fn stage_archive(self: &Arc<Self>, text: &str, archive: ByteStream) -> Result<Staged> {
        let store = Arc::clone(&self.store);
        let staged = blocking(move || Staged::new(&store)).await?;
        let failed = |e| Error::io(format!("failed to load the archive of image {text}"), e);
        let limit = self.config.limits.image_archive_bytes;
        let mut file = tokio::fs::File::create_new(staged.path().join(ARCHIVE)).await.map_err(failed)?;
        let mut bounded = archive.take(limit.saturating_add(1));
        let copied = tokio::io::copy(&mut bounded, &mut file).await.map_err(failed)?;
        file.flush().await.map_err(failed)?;
        if copied > limit {
            let message = format!("the archive of image {text} has more than {limit} bytes");
            return Err(Error::new(ErrorKind::LimitExceeded, message));
        }
        Ok(staged)
    }

    /// The image of a vessel.
    pub(super) async fn base_of(self: &Arc<Self>, manifest: &VesselManifest) -> Result<ImageRecord> {
        let (reference, digest) = (&manifest.base_image_ref, &manifest.base_image_digest);
        let lost =
            |cause: Error| Error::not_found(format!("base image not found: {reference}")).with_source(cause);
        if !digest.is_empty() {
            let (own, digest) = (Arc::clone(self), digest.clone());
            if let Ok(record) = blocking(move || own.find_image(&digest)).await {
                return Ok(record);
            }
        }
        let record = match self.provide_image(reference).await {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.pull_base(reference, digest).await.map_err(lost)?
            }
            record => record.map_err(lost)?,
        };
        if digest.is_empty() || record.manifest_digest.to_string() == *digest {
            return Ok(record);
        }
        Err(lost(Error::integrity(format!("{reference} is another image now: {}", record.manifest_digest))))
    }

    /// A base that is gone, by its digest if that is known, from where its name says.
    async fn pull_base(self: &Arc<Self>, reference: &str, digest: &str) -> Result<ImageRecord> {
        let name = parse_reference(reference)?;
        let pinned = if digest.is_empty() { name.to_string() } else { format!("{}@{digest}", name.name()) };
        self.pull_missing(&pinned, &pull::silent()).await
    }

    /// Makes sure that the layers of a vessel's image are unpacked.
    pub(super) async fn provide_base(
        self: &Arc<Self>,
        manifest: &VesselManifest,
        image: &mut ImageState,
    ) -> Result<()> {
        let (own, layers) = (Arc::clone(self), image.layers.clone());
        let there = move |name: &String| dirs::exists(own.store.image_layers.as_fd(), name);
        let complete = blocking(move || {
            layers.iter().map(there).try_fold(true, |all, there| Ok::<_, Error>(all && there?))
        });
        if complete.await? {
            return Ok(());
        }
        let own = Arc::clone(self);
        let _in_use = blocking(move || own.store.use_images()).await?;
        let record = self.base_of(manifest).await?;
        *image = super::create::image_state(&record)?;
        let own = Arc::clone(self);
        blocking(move || own.unpack_image(&record, &mut |_| {})).await?;
        Ok(())
    }

    pub(super) async fn remove_image(self: &Arc<Self>, text: &str) -> Result<()> {
        let own = Arc::clone(self);
        let _alone = blocking(move || own.store.remove_images()).await?;
        let vessels = open::list(self).await?;
        let (own, text) = (Arc::clone(self), text.to_owned());
        blocking(move || own.remove_unused(&text, &vessels)).await?;
        self.sweep_later();
        Ok(())
    }

    fn remove_unused(&self, text: &str, vessels: &[VesselManifest]) -> Result<()> {
        let record = self.find_image(text)?;
        let failed = |e| Error::storage(format!("failed to remove image {text}"), e);
        let names: Vec<Reference> = self
            .list_images()?
            .into_iter()
            .filter(|image| image.manifest_digest == record.manifest_digest)
            .filter_map(|image| Reference::parse(&image.reference?).ok())
            .collect();
        // A digest means the image by all its names.
        let going: Vec<Reference> = match Digest::parse(text) {
            Ok(_) => names.clone(),
            Err(_) => vec![parse_reference(text)?],
        };
        if names.iter().all(|name| going.contains(name)) {
            let digest = record.manifest_digest.to_string();
            if let Some(user) = vessels.iter().find(|vessel| is_base(vessel, &digest, &names)) {
                let message = format!("image {text} is the base of vessel {}", user.id);
                return Err(Error::conflict(message).with_remedy(format!("vesselrt rm {}", user.id)));
            }
            if self.local_states()?.iter().any(|state| state.image.digest == digest) {
                return Err(Error::conflict(format!(
                    "image {text} is the base of a vessel of another storage"
                )));
            }
        }
        for reference in &going {
            self.content.untag(reference).map_err(failed)?;
        }
        let keep = self.bases(vessels)?;
        match self.content.prune_blobs_within(&keep, PRUNE_PATIENCE) {
            // Something is being pulled or committed: the next prune removes what nothing needs then.
            Err(e) if is_busy(&e) => {}
            pruned => _ = pruned.map_err(failed)?,
        }
        self.discard_unused_layers(&keep, &HashSet::new()).map(drop)
    }

    /// The manifests that vessels are based on.
    pub(super) fn bases(&self, vessels: &[VesselManifest]) -> Result<Vec<Digest>> {
        let bases = vessels.iter().map(|vessel| vessel.base_image_digest.clone());
        let bases = bases.chain(self.local_states()?.into_iter().map(|state| state.image.digest));
        Ok(bases.filter_map(|digest| Digest::parse(&digest).ok()).collect())
    }

    /// Removes unpacked layers that neither an image of the store nor one of `keep` has, but for `spared`, and says how
    /// many.
    pub(super) fn discard_unused_layers(&self, keep: &[Digest], spared: &HashSet<String>) -> Result<u64> {
        let mut images = self.list_images()?;
        for digest in keep {
            images.extend(self.find_image(&digest.to_string()).ok());
        }
        let used: HashSet<&str> =
            images.iter().flat_map(|image| &image.layers).map(|layer| layer.chain_id.hex()).collect();
        let layers = self.store.image_layers.as_fd();
        let mut discarded = 0;
        for name in dirs::names(layers)? {
            if !name.starts_with('.') && !used.contains(name.as_str()) && !spared.contains(&name) {
                self.store.discard(layers, &name)?;
                discarded += 1;
            }
        }
        Ok(discarded)
    }
}

/// Where an archive is in its staging directory.
const ARCHIVE: &str = "archive";

pub(super) fn is_base(vessel: &VesselManifest, digest: &str, names: &[Reference]) -> bool {
    if !vessel.base_image_digest.is_empty() {
        return vessel.base_image_digest == digest;
    }
    Reference::parse(&vessel.base_image_ref).is_ok_and(|reference| names.contains(&reference))
}
