//! Pulling an image: a layer is unpacked while the next ones are downloaded.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vesselrt_storage::image::platform::Platform;
use vesselrt_storage::registry::{self, Client, FetchEvent, FetchOptions, Fetched};
use vesselrt_storage::{Digest, ImageRecord, Reference};

use super::ManagerInner;
use super::images::{ImportProgress, parse_reference};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;

/// What is to be pulled. The setters return the changed value, to be chained.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PullOptions {
    /// Reference of the image.
    pub reference: String,
    /// `os/architecture[/variant]`, where there are several; `None`: this host's.
    pub platform: Option<String>,
}

impl PullOptions {
    /// The image `reference` for this host.
    pub fn new(reference: impl Into<String>) -> Self {
        Self { reference: reference.into(), platform: None }
    }

    /// Sets the platform: `linux/arm64`.
    #[must_use]
    pub fn platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
        self
    }
}

/// What happens to a blob that is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlobState {
    /// It will be downloaded when there is room.
    Queued {
        /// Its size in bytes.
        size: u64,
    },
    /// Another process downloads it.
    Waiting,
    /// A part of it is here.
    Downloading {
        /// Bytes that are here.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// Something failed, and is tried again.
    Retrying {
        /// After this pause.
        after: Duration,
        /// What failed.
        error: String,
    },
    /// It is verified and stored.
    Stored {
        /// Its size in bytes.
        size: u64,
    },
    /// It was in the store.
    Exists {
        /// Its size in bytes.
        size: u64,
    },
    /// It is unpacked.
    Unpacking {
        /// Bytes of it so far, as stored.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// It is unpacked, or was.
    Unpacked,
}

/// How far a pull is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PullProgress {
    /// It is known what the image is: these layers follow.
    Image(Arc<ImageRecord>),
    /// Something happens to a blob.
    Blob {
        /// Which one.
        digest: Digest,
        /// What.
        state: BlobState,
    },
}

/// What a pull came to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PullReport {
    /// The image.
    pub image: ImageRecord,
    /// Bytes that came from the registry.
    pub transferred: u64,
    /// What was left out or changed when its layers were unpacked. Bounded.
    pub warnings: Vec<String>,
}

pub(super) type Progress = Arc<Mutex<dyn FnMut(PullProgress) + Send>>;

/// Nobody listens.
pub(super) fn silent() -> Progress {
    Arc::new(Mutex::new(|_| {}))
}

pub(super) fn tell(progress: &Progress, at: PullProgress) {
    (progress.lock().unwrap_or_else(PoisonError::into_inner))(at);
}

pub(super) async fn pull(
    manager: Arc<ManagerInner>,
    options: PullOptions,
    progress: Progress,
) -> Result<PullReport> {
    let reference = parse_reference(&options.reference)?;
    let client = manager.client()?;
    manager.pull(&client, &reference, platform(options.platform.as_deref())?, &progress).await
}

/// The platform called `text`.
pub(super) fn platform(text: Option<&str>) -> Result<Option<Platform>> {
    let parse = |text: &str| {
        let parsed: std::result::Result<Platform, _> = text.parse();
        parsed.map_err(|e| Error::invalid(format!("invalid platform: {text:?}")).with_source(e))
    };
    text.map(parse).transpose()
}

impl ManagerInner {
    /// Pulls an image and gives it its name.
    pub(super) async fn pull(
        self: &Arc<Self>,
        client: &Client,
        reference: &Reference,
        platform: Option<Platform>,
        progress: &Progress,
    ) -> Result<PullReport> {
        let (fetched, mut warnings) = self.fetch(client, reference, platform, progress).await?;
        let (own, name, progress) = (Arc::clone(self), reference.clone(), Arc::clone(progress));
        let (image, transferred) = (fetched.image.clone(), fetched.transferred);
        let (image, more) = blocking(move || {
            let _in_use = own.store.use_images()?;
            own.content
                .tag(&name, &fetched.root)
                .map_err(|e| Error::storage(format!("failed to give image {name} its name"), e))?;
            // Not before it has its name, and its unpacked layers are safe.
            drop(fetched.lease);
            let image = ImageRecord { reference: Some(name.to_string()), ..image };
            // What somebody removed since.
            let more = own.unpack_layers(&image, image.layers.len(), &mut None, &mut |at| {
                unpacking(&progress, &image, at);
            })?;
            Ok((image, more))
        })
        .await?;
        warnings.extend(more);
        Ok(PullReport { image, transferred, warnings })
    }

    /// Everything of the image, unpacked as it came.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        client: &Client,
        reference: &Reference,
        platform: Option<Platform>,
        progress: &Progress,
    ) -> Result<(Fetched, Vec<String>)> {
        // An index is looked into for this host whenever it is used: for another platform the manifest itself is kept.
        let keep_index = platform.is_none();
        let platform = platform.unwrap_or_else(Platform::host);
        let max_bytes = self.config.limits.image_archive_bytes;
        let options = FetchOptions { platform, keep_index, max_bytes };
        let (send, arrivals) = mpsc::channel();
        let told = Arc::clone(progress);
        let hear = move |event: FetchEvent| {
            // The unpacker has gone only if it failed, and then everything ends.
            let _ = arrival(&event).map(|arrival| send.send(arrival));
            if let Some(at) = of_fetch(event) {
                tell(&told, at);
            }
        };
        let (own, told) = (Arc::clone(self), Arc::clone(progress));
        let unpack = blocking(move || own.unpack_arrivals(&arrivals, &told));
        let fetch = registry::fetch(client, &self.content, reference, &options, hear);
        tokio::pin!(unpack, fetch);
        let fetched = tokio::select! {
            fetched = &mut fetch => fetched,
            // It ends first when it fails, or when the last layer is done and the fetch has only to return.
            unpacked = &mut unpack => {
                let warnings = unpacked?;
                let fetched = fetch.await.map_err(|e| pull_failed(reference, e))?;
                return Ok((fetched, warnings));
            }
        };
        let fetched = fetched.map_err(|e| pull_failed(reference, e))?;
        Ok((fetched, unpack.await?))
    }

    /// Unpacks layers from below as soon as they are there, until all are or no more come.
    fn unpack_arrivals(&self, arrivals: &Receiver<Arrival>, progress: &Progress) -> Result<Vec<String>> {
        let mut image: Option<Arc<ImageRecord>> = None;
        let (mut here, mut done) = (HashSet::new(), 0);
        let (mut worker, mut warnings) = (None, Vec::new());
        for arrival in arrivals {
            match arrival {
                Arrival::Image(record) => image = Some(record),
                Arrival::Blob(digest) => _ = here.insert(digest),
            }
            let Some(image) = &image else { continue };
            let ready = image.layers.iter().take_while(|layer| here.contains(&layer.digest)).count();
            if ready > done {
                // Together with those below, should somebody have removed them meanwhile.
                let _in_use = self.store.use_images()?;
                let mut at = |at| unpacking(progress, image, at);
                warnings.extend(self.unpack_layers(image, ready, &mut worker, &mut at)?);
                for layer in &image.layers[done..ready] {
                    let digest = layer.digest.clone();
                    tell(progress, PullProgress::Blob { digest, state: BlobState::Unpacked });
                }
                done = ready;
            }
        }
        Ok(warnings)
    }

    /// Pulls an image that is not here because a vessel is to be made of it. A registry that is not reached, or has no
    /// such image, is no other answer than that it is not here.
    pub(super) async fn pull_missing(
        self: &Arc<Self>,
        text: &str,
        progress: &Progress,
    ) -> Result<ImageRecord> {
        let reference = parse_reference(text)?;
        // Nobody asked for a registry: who is offline should not wait for long.
        let client = self.impatient_client()?;
        match self.pull(&client, &reference, None, progress).await {
            Ok(report) => Ok(report.image),
            Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {
                Err(super::images::not_known(text).with_source(e))
            }
            Err(e) => Err(e),
        }
    }
}

fn pull_failed(reference: &Reference, error: registry::RegistryError) -> Error {
    Error::registry(format!("failed to pull {reference}"), error)
}

/// What the unpacker must know.
enum Arrival {
    Image(Arc<ImageRecord>),
    Blob(Digest),
}

fn arrival(event: &FetchEvent) -> Option<Arrival> {
    match event {
        FetchEvent::Image(image) => Some(Arrival::Image(Arc::clone(image))),
        FetchEvent::Verified { digest, .. } | FetchEvent::Exists { digest, .. } => {
            Some(Arrival::Blob(digest.clone()))
        }
        _ => None,
    }
}

pub(super) fn of_fetch(event: FetchEvent) -> Option<PullProgress> {
    let (digest, state) = match event {
        FetchEvent::Image(image) => return Some(PullProgress::Image(image)),
        FetchEvent::Queued { digest, size } => (digest, BlobState::Queued { size }),
        FetchEvent::Waiting { digest } => (digest, BlobState::Waiting),
        FetchEvent::Downloading { digest, done, total } => (digest, BlobState::Downloading { done, total }),
        FetchEvent::Verified { digest, size } => (digest, BlobState::Stored { size }),
        FetchEvent::Exists { digest, size } => (digest, BlobState::Exists { size }),
        FetchEvent::Retrying { digest, after, error } => (digest, BlobState::Retrying { after, error }),
        _ => return None,
    };
    Some(PullProgress::Blob { digest, state })
}

fn unpacking(progress: &Progress, image: &ImageRecord, at: ImportProgress) {
    if let ImportProgress::Unpacking { layer, bytes, total, .. } = at
        && let Some(layer) = image.layers.get(layer - 1)
    {
        let state = BlobState::Unpacking { done: bytes, total };
        tell(progress, PullProgress::Blob { digest: layer.digest.clone(), state });
    }
}
