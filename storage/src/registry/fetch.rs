//! [`fetch`]: an image from a registry into the content store.
//!
//! Documents come first (index, manifest, configuration), then the layers, several at once. Each blob is downloaded
//! by one task of one process, whoever else wants it waits for that one, and what was cut off is resumed.
#![forbid(unsafe_code)]

mod blob;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use self::blob::Job;
use super::client::Client;
use super::error::{RegistryError, Result};
use crate::content::{ContentStore, Lease};
use crate::digest::Digest;
use crate::error::StorageError;
use crate::image::descriptor::Descriptor;
use crate::image::document::{Document, Manifest, best};
use crate::image::platform::Platform;
use crate::image::record::ImageRecord;
use crate::image::{ImageError, MAX_INDEX_DEPTH, MAX_JSON_BYTES};
use crate::reference::Reference;

/// What to fetch.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Which image of an index.
    pub platform: Platform,
    /// Whether [`Fetched::root`] is the index that the reference leads to, or the manifest chosen from it. The index
    /// is stored in both cases, and as long as it is there, the next fetch of an unchanged tag is one request; as the
    /// root, it is not pruned. For another platform than that of this host the root is always the manifest, since
    /// the store would choose another one of the index.
    pub keep_index: bool,
    /// The most that configuration and layers may have together, in bytes as stored.
    pub max_bytes: u64,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { platform: Platform::host(), keep_index: true, max_bytes: 256 << 30 }
    }
}

/// An image that is complete in the store.
#[derive(Debug)]
pub struct Fetched {
    /// The image. Its `reference` is not set: nothing is tagged here.
    pub image: ImageRecord,
    /// What to give to [`ContentStore::tag`].
    pub root: Descriptor,
    /// How many bytes of blobs and documents came from the registry, as far as they belong to the image.
    pub transferred: u64,
    /// Keeps the blobs from being pruned; drop it when the reference is set.
    pub lease: Lease,
}

/// What happens while an image is fetched. `digest` is that of a blob.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FetchEvent {
    /// Manifest and configuration are here: these layers follow.
    Image(Arc<ImageRecord>),
    /// The blob is needed, and will be downloaded when there is room.
    Queued {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Another task or process downloads it already.
    Waiting {
        /// The blob.
        digest: Digest,
    },
    /// A part of it is here.
    Downloading {
        /// The blob.
        digest: Digest,
        /// How many bytes are here.
        done: u64,
        /// How many there are.
        total: u64,
    },
    /// It is verified and stored.
    Verified {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// It was in the store.
    Exists {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Something failed, and is tried again.
    Retrying {
        /// The blob.
        digest: Digest,
        /// After this pause.
        after: Duration,
        /// What failed.
        error: String,
    },
}

/// Who is told what happens.
pub(super) type Progress = Arc<dyn Fn(FetchEvent) + Send + Sync>;

/// Fetches the image that `reference` leads to. Dropping the future stops everything; what is here by then is used
/// by the next fetch.
///
/// A reference with a digest needs no request if the image is complete in the store, and an unchanged tag one.
///
/// # Errors
/// [`RegistryError`]. Nothing unverified is stored.
pub async fn fetch(
    client: &Client,
    store: &Arc<ContentStore>,
    reference: &Reference,
    options: &FetchOptions,
    progress: impl Fn(FetchEvent) + Send + Sync + 'static,
) -> Result<Fetched> {
    let lease = blocking(store, ContentStore::lease).await?;
    let mut fetch = Fetch { client, store, reference, options, progress: Arc::new(progress), transferred: 0 };
    let (root, image) = fetch.run().await?;
    Ok(Fetched { image, root, transferred: fetch.transferred, lease })
}

/// Fetches one blob of `repository`, unless the store has it: for what is no image, such as an artifact. Hold a
/// [`Lease`].
///
/// # Errors
/// [`RegistryError`].
pub async fn fetch_blob(
    client: &Client,
    store: &Arc<ContentStore>,
    repository: &Reference,
    blob: &Descriptor,
    progress: impl Fn(FetchEvent) + Send + Sync + 'static,
) -> Result<()> {
    job(client, store, repository, blob, &(Arc::new(progress) as Progress)).run().await.map(drop)
}

struct Fetch<'a> {
    client: &'a Client,
    store: &'a Arc<ContentStore>,
    reference: &'a Reference,
    options: &'a FetchOptions,
    progress: Progress,
    transferred: u64,
}

/// A manifest and what leads to it.
struct Chosen {
    root: Descriptor,
    descriptor: Descriptor,
    manifest: Manifest,
}

impl Fetch<'_> {
    async fn run(&mut self) -> Result<(Descriptor, ImageRecord)> {
        let known = {
            let reference = self.reference.clone();
            blocking(self.store, move |store| store.known(&reference)).await?
        };
        let mut root = known.clone();
        if known.is_some() && self.reference.digest().is_none() {
            let head = self.client.head(self.reference).await?;
            let head = head.ok_or_else(|| RegistryError::not_found(self.reference.to_string()))?;
            let digest = head.digest.clone();
            let here = blocking(self.store, move |store| store.guess_descriptor(&digest)).await;
            // One that is damaged here is fetched again.
            root = Some(here.ok().flatten().unwrap_or(head));
        }
        if let Some(root) = &root
            && let Some(complete) = self.complete(root).await
        {
            return Ok(complete);
        }
        let chosen = self.choose(root).await?;
        self.transfer(chosen).await
    }

    /// The image if all of it is in the store. Whatever is wrong with it, the registry's is better.
    async fn complete(&self, root: &Descriptor) -> Option<(Descriptor, ImageRecord)> {
        let (root, platform, keep) = (root.clone(), self.options.platform.clone(), self.options.keep_index);
        let found = blocking(self.store, move |store| {
            let Some((descriptor, manifest, usual)) = choose_local(store, &root, &platform)? else {
                return Ok(None);
            };
            let config = store.read_json_blob(&manifest.config.digest, manifest.config.size)?;
            for layer in &manifest.layers {
                if !store.has_blob(&layer.digest, layer.size)? {
                    return Ok(None);
                }
            }
            let image = ImageRecord::new(&descriptor, &manifest, &config)?;
            Ok(Some((if keep && usual { plain(&root) } else { descriptor }, image)))
        });
        let (root, image) = found.await.ok().flatten()?;
        let event = Arc::new(image.clone());
        (self.progress)(FetchEvent::Image(event));
        for layer in &image.layers {
            (self.progress)(FetchEvent::Exists { digest: layer.digest.clone(), size: layer.size });
        }
        Some((root, image))
    }

    /// Goes from the reference, or what is known to be its root, through indexes to the manifest; stores all.
    async fn choose(&mut self, known: Option<Descriptor>) -> Result<Chosen> {
        let (mut bytes, root) = match known {
            Some(root) => (self.document(&root).await?, plain(&root)),
            None => {
                let (bytes, root) = self.client.manifest(self.reference).await?;
                self.keep(&root, bytes.to_vec()).await?;
                (bytes.to_vec(), root)
            }
        };
        let (mut descriptor, mut usual) = (root.clone(), true);
        for _ in 0..=MAX_INDEX_DEPTH {
            match Document::parse(&bytes, &descriptor)? {
                Document::Manifest(manifest) => {
                    let root = if self.options.keep_index && usual { root } else { plain(&descriptor) };
                    return Ok(Chosen { root, descriptor, manifest: *manifest });
                }
                Document::Index(entries) => {
                    let chosen = best(&entries, &self.options.platform).cloned();
                    descriptor = chosen.ok_or_else(|| no_platform(self.reference, &self.options.platform))?;
                    usual &= is_usual(&entries, &descriptor);
                    bytes = self.document(&descriptor).await?;
                }
            }
        }
        Err(StorageError::corrupt(format!("image {}", descriptor.digest), ImageError::IndexDepth).into())
    }

    /// A manifest or index, of the store or of the registry.
    async fn document(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let wanted = descriptor.clone();
        let here = blocking(self.store, move |store| store.read_json_blob(&wanted.digest, wanted.size)).await;
        if let Ok(bytes) = here {
            return Ok(bytes);
        }
        let bytes = self.client.manifest_by_digest(self.reference, descriptor).await?.to_vec();
        self.keep(descriptor, bytes.clone()).await?;
        Ok(bytes)
    }

    async fn keep(&mut self, descriptor: &Descriptor, bytes: Vec<u8>) -> Result<()> {
        self.transferred += bytes.len() as u64;
        let expected = (descriptor.digest.clone(), descriptor.size);
        blocking(self.store, move |store| store.put_blob(bytes.as_slice(), Some(expected)).map(drop)).await
    }

    /// Configuration, then layers.
    async fn transfer(&mut self, chosen: Chosen) -> Result<(Descriptor, ImageRecord)> {
        let config = chosen.manifest.config.clone();
        if config.size > MAX_JSON_BYTES {
            let what = format!("a configuration of {} bytes", config.size);
            return Err(RegistryError::TooLarge { what, limit: MAX_JSON_BYTES });
        }
        let sizes = chosen.manifest.layers.iter().map(|layer| layer.size);
        let total = sizes.fold(config.size, u64::saturating_add);
        if total > self.options.max_bytes {
            let what = format!("an image of {total} bytes");
            return Err(RegistryError::TooLarge { what, limit: self.options.max_bytes });
        }
        self.transferred +=
            job(self.client, self.store, self.reference, &config, &self.progress).run().await?;
        let read = move |store: &ContentStore| store.read_json_blob(&config.digest, config.size);
        let bytes = blocking(self.store, read).await?;
        let image = ImageRecord::new(&chosen.descriptor, &chosen.manifest, &bytes)?;
        (self.progress)(FetchEvent::Image(Arc::new(image.clone())));
        let mut seen = HashSet::new();
        // Aborts what runs when it is dropped.
        let mut jobs = JoinSet::new();
        for layer in chosen.manifest.layers.iter().filter(|layer| seen.insert(layer.digest.clone())) {
            jobs.spawn(job(self.client, self.store, self.reference, layer, &self.progress).run());
        }
        while let Some(done) = jobs.join_next().await {
            self.transferred += done.map_err(|_| cancelled())??;
        }
        Ok((chosen.root, image))
    }
}

fn job(
    client: &Client,
    store: &Arc<ContentStore>,
    repository: &Reference,
    blob: &Descriptor,
    progress: &Progress,
) -> Job {
    Job {
        client: client.clone(),
        store: store.clone(),
        repository: repository.clone(),
        blob: plain(blob),
        progress: progress.clone(),
    }
}

/// Type, digest and size alone.
fn plain(descriptor: &Descriptor) -> Descriptor {
    Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size)
}

fn choose_local(
    store: &ContentStore,
    root: &Descriptor,
    platform: &Platform,
) -> crate::error::Result<Option<(Descriptor, Manifest, bool)>> {
    let (mut descriptor, mut usual) = (plain(root), true);
    for _ in 0..=MAX_INDEX_DEPTH {
        let bytes = store.read_json_blob(&descriptor.digest, descriptor.size)?;
        match Document::parse(&bytes, &descriptor)? {
            Document::Manifest(manifest) => return Ok(Some((descriptor, *manifest, usual))),
            Document::Index(entries) => match best(&entries, platform) {
                Some(entry) => {
                    descriptor = plain(entry);
                    usual &= is_usual(&entries, &descriptor);
                }
                None => return Ok(None),
            },
        }
    }
    Ok(None)
}

/// Whether the store would choose the same of an index: it does so for the platform of this host.
fn is_usual(entries: &[Descriptor], chosen: &Descriptor) -> bool {
    best(entries, &Platform::host()).is_some_and(|usual| usual.digest == chosen.digest)
}

fn no_platform(reference: &Reference, platform: &Platform) -> RegistryError {
    RegistryError::not_found(format!("an image for {platform} of {reference}"))
}

fn cancelled() -> RegistryError {
    StorageError::Cancelled { what: "a download" }.into()
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    store: &Arc<ContentStore>,
    work: impl FnOnce(&ContentStore) -> crate::error::Result<T> + Send + 'static,
) -> Result<T> {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    Ok(done.map_err(|_| cancelled())??)
}
