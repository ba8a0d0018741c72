//! Pushing an image: only what the registry lacks.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::registry::{BlobSource, Client, Mount, RegistryError, UploadSession};
use vesselrt_storage::{Digest, Reference};

use super::ManagerInner;
use super::images::parse_reference;
use super::parts::Parts;
use crate::error::{Error, Result};
use crate::offload::blocking;

/// What happens to a blob that is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushState {
    /// The registry has it already.
    Exists,
    /// The registry has it in another repository, and takes it from there.
    Mounted,
    /// It is being sent.
    Uploading {
        /// Bytes that left so far.
        done: u64,
    },
    /// It was sent.
    Uploaded,
}

/// How far a push is, for one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushProgress {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What happens to it.
    pub state: PushState,
}

/// What a push came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushReport {
    /// Where it is now.
    pub reference: String,
    /// Digest of the manifest there.
    pub digest: Digest,
    /// Blobs that were sent.
    pub uploaded: u64,
    /// Their size in bytes.
    pub uploaded_bytes: u64,
    /// Blobs that the registry had in another repository.
    pub mounted: u64,
    /// Blobs that the registry had already.
    pub existing: u64,
}

pub(super) type Progress = Arc<Mutex<dyn FnMut(PushProgress) + Send>>;

/// Whether the registry has a blob.
pub(super) enum Presence {
    /// This is how.
    There(PushState),
    /// It has not; it may have opened an upload already.
    Wanted(Option<UploadSession>),
}

/// Blobs on their way to one repository.
#[derive(Clone)]
pub(super) struct Pusher {
    pub(super) manager: Arc<ManagerInner>,
    pub(super) client: Client,
    pub(super) target: Reference,
    pub(super) progress: Progress,
    /// Repositories of the same registry that have a blob, as far as we know.
    sources: Arc<HashMap<Digest, Reference>>,
}

pub(super) async fn push(
    manager: Arc<ManagerInner>,
    reference: String,
    target: Option<String>,
    progress: Progress,
) -> Result<PushReport> {
    let target = parse_reference(target.as_deref().unwrap_or(&reference))?;
    let own = Arc::clone(&manager);
    // Its blobs stay although its name may go.
    let (_lease, parts) = blocking(move || {
        let lease = own.content.lease()?;
        let image = own.find_image(&reference)?;
        Ok((lease, own.parts(&image.manifest_digest)?))
    })
    .await?;
    let pusher = Pusher::new(manager, target, progress).await?;
    pusher.image(&parts).await
}

impl Pusher {
    pub(super) async fn new(
        manager: Arc<ManagerInner>,
        target: Reference,
        progress: Progress,
    ) -> Result<Self> {
        let client = manager.client()?;
        let (own, to) = (Arc::clone(&manager), target.clone());
        let sources = blocking(move || own.known_sources(&to)).await?;
        Ok(Self { manager, client, target, progress, sources: Arc::new(sources) })
    }

    pub(super) fn failed(&self) -> impl Fn(RegistryError) -> Error + use<> {
        let message = format!("failed to push to {}", self.target);
        move |error| Error::registry(message.clone(), error)
    }

    fn tell(&self, blob: &Descriptor, state: PushState) {
        let progress = PushProgress { digest: blob.digest.clone(), size: blob.size, state };
        (self.progress.lock().unwrap_or_else(PoisonError::into_inner))(progress);
    }

    /// Blobs first, then the manifest that needs them.
    pub(super) async fn image(&self, parts: &Parts) -> Result<PushReport> {
        let mut report = PushReport::new(&self.target);
        report.digest = parts.descriptor.digest.clone();
        if self.has_manifest(&parts.descriptor).await? {
            let blobs = parts.blobs();
            report.existing = blobs.len() as u64;
            blobs.iter().for_each(|blob| self.tell(blob, PushState::Exists));
            return Ok(report);
        }
        self.blobs(parts, &mut report).await?;
        self.manifest(&self.target, &parts.descriptor, &parts.bytes).await?;
        Ok(report)
    }

    /// Everything that a manifest needs, several at once.
    pub(super) async fn blobs(&self, parts: &Parts, report: &mut PushReport) -> Result<()> {
        let mut tasks = JoinSet::new();
        for blob in parts.blobs() {
            let (own, blob) = (self.clone(), blob.clone());
            tasks.spawn(async move { own.stored_blob(&blob).await.map(|state| (state, blob.size)) });
        }
        while let Some(done) = tasks.join_next().await {
            let (state, size) =
                done.map_err(|e| Error::internal("a task that pushes died").with_source(e))??;
            report.count(state, size);
        }
        Ok(())
    }

    /// Whether the target is that manifest already.
    pub(super) async fn has_manifest(&self, manifest: &Descriptor) -> Result<bool> {
        let there = self.client.head(&self.target).await.map_err(self.failed())?;
        Ok(there.is_some_and(|there| there.digest == manifest.digest))
    }

    /// A blob of the content store.
    async fn stored_blob(&self, blob: &Descriptor) -> Result<PushState> {
        let session = match self.present(blob).await? {
            Presence::There(state) => return Ok(state),
            Presence::Wanted(session) => session,
        };
        let (manager, digest) = (Arc::clone(&self.manager), blob.digest.clone());
        let (file, size) = blocking(move || Ok(manager.content.open_blob(&digest)?)).await?;
        if size != blob.size {
            return Err(Error::integrity(format!(
                "blob {} has {size} bytes and not {}",
                blob.digest, blob.size
            )));
        }
        self.upload(blob, BlobSource::File(Arc::new(file)), session).await
    }

    /// Whether the registry has a blob, or gets it without it being sent.
    pub(super) async fn present(&self, blob: &Descriptor) -> Result<Presence> {
        if self.client.exists_blob(&self.target, blob).await.map_err(self.failed())? {
            self.tell(blob, PushState::Exists);
            return Ok(Presence::There(PushState::Exists));
        }
        let Some(source) = self.sources.get(&blob.digest) else { return Ok(Presence::Wanted(None)) };
        // Whether it may be taken from there is the registry's business: if not, it is sent.
        match self.client.mount_blob(&self.target, blob, source).await {
            Ok(Mount::Mounted) => {
                self.tell(blob, PushState::Mounted);
                Ok(Presence::There(PushState::Mounted))
            }
            Ok(Mount::Session(session)) => Ok(Presence::Wanted(Some(session))),
            _ => Ok(Presence::Wanted(None)),
        }
    }

    /// Sends a blob that the registry does not have.
    pub(super) async fn upload(
        &self,
        blob: &Descriptor,
        source: BlobSource,
        session: Option<UploadSession>,
    ) -> Result<PushState> {
        self.tell(blob, PushState::Uploading { done: 0 });
        let (own, of) = (self.clone(), blob.clone());
        let told = move |done| own.tell(&of, PushState::Uploading { done });
        let (client, target) = (&self.client, &self.target);
        let sent = match session {
            Some(session) => client.upload_blob_in(target, blob, &source, session, told).await,
            None => client.upload_blob(target, blob, &source, told).await.map(drop),
        };
        sent.map_err(self.failed())?;
        self.tell(blob, PushState::Uploaded);
        Ok(PushState::Uploaded)
    }

    /// A blob that is here in whatever form.
    pub(super) async fn blob(
        &self,
        blob: &Descriptor,
        source: BlobSource,
        report: &mut PushReport,
    ) -> Result<()> {
        let state = match self.present(blob).await? {
            Presence::There(state) => state,
            Presence::Wanted(session) => self.upload(blob, source, session).await?,
        };
        report.count(state, blob.size);
        Ok(())
    }

    pub(super) async fn manifest(
        &self,
        target: &Reference,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<()> {
        let sent = self.client.put_manifest(target, &descriptor.media_type, bytes.to_vec().into()).await;
        let digest = sent.map_err(self.failed())?;
        if digest == descriptor.digest {
            return Ok(());
        }
        Err(Error::integrity(format!(
            "{target} is {digest} now, and not what was sent: {}",
            descriptor.digest
        )))
    }
}

impl PushReport {
    pub(super) fn new(target: &Reference) -> Self {
        let digest = Digest::sha256(b"");
        Self {
            reference: target.to_string(),
            digest,
            uploaded: 0,
            uploaded_bytes: 0,
            mounted: 0,
            existing: 0,
        }
    }

    pub(super) fn count(&mut self, state: PushState, size: u64) {
        match state {
            PushState::Exists => self.existing += 1,
            PushState::Mounted => self.mounted += 1,
            PushState::Uploading { .. } | PushState::Uploaded => {
                self.uploaded += 1;
                self.uploaded_bytes += size;
            }
        }
    }
}

impl ManagerInner {
    /// Where on the registry of `target` blobs may be that this store has: by the names of its images.
    fn known_sources(&self, target: &Reference) -> Result<HashMap<Digest, Reference>> {
        let mut sources = HashMap::new();
        let mut seen = HashSet::new();
        // A damaged image does not keep others from being pushed.
        for image in self.content.list()?.into_iter().filter_map(|entry| entry.record.ok()) {
            let Some(name) = image.reference.as_deref().and_then(|name| Reference::parse(name).ok()) else {
                continue;
            };
            if name.domain() != target.domain() || name.path() == target.path() || !seen.insert(name.name()) {
                continue;
            }
            for layer in image.layers {
                sources.entry(layer.digest).or_insert_with(|| name.clone());
            }
        }
        Ok(sources)
    }
}
