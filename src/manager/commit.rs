//! Committing a vessel: its base image and snapshots become an OCI image of their own.
//!
//! One layer per snapshot, packed from its sealed layer or from its archive; what was changed since is one more, packed
//! while the vessel is still. The base's layers are used as they are. Nothing in the result depends on when or where it
//! is made, so that a second commit of the same has the same digests.
#![forbid(unsafe_code)]

mod change;
mod config;
mod layers;
mod packed;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::AtFlags;
use time::OffsetDateTime;
use vesselrt_runtime::shim::protocol::Driver;
use vesselrt_runtime::worker::TreeFormat;
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::image::media_type;
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};
use vesselrt_storage::{Digest, ImageRecord};

use self::config::{About, Layer};
use self::layers::{Packed, Source};
use super::ManagerInner;
use super::images::parse_reference;
use super::layers::TREE;
use super::open::{self, OPS_LOCK};
use crate::error::{Error, Result};
use crate::offload::blocking;
use crate::store::lock::{self, FileLock};
use crate::vessel::snapshot::frozen::{self, Frozen, Thawed};

/// Beyond this docker refuses to run an image (its overlay2 driver; moby, `layer_store.go`).
const DOCKER_LAYERS: usize = 125;

/// How the layers of a committed image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LayerCompression {
    /// A plain tar.
    None,
    /// What every tool reads.
    #[default]
    Gzip,
    /// Smaller and much faster; docker reads it since version 23, podman and containerd for longer.
    Zstd,
}

/// What a vessel is committed as. The setters return the changed value, to be chained.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommitOptions {
    /// Reference of the image.
    pub reference: String,
    /// The snapshot to commit; `None`: the vessel as it is now, with what is not in any snapshot yet.
    pub snapshot: Option<String>,
    /// Changes of the configuration, as in a Dockerfile: `ENV`, `WORKDIR`, `USER`, `CMD`, `ENTRYPOINT`, `LABEL`,
    /// `EXPOSE`, `VOLUME`, `STOPSIGNAL`.
    pub changes: Vec<String>,
    /// Who made it.
    pub author: Option<String>,
    /// What to say about it.
    pub message: Option<String>,
    /// How its new layers are compressed.
    pub compression: LayerCompression,
}

impl CommitOptions {
    /// The vessel as it is now, as `reference`.
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            snapshot: None,
            changes: Vec::new(),
            author: None,
            message: None,
            compression: LayerCompression::default(),
        }
    }

    /// Sets the snapshot to commit.
    #[must_use]
    pub fn snapshot(mut self, id: impl Into<String>) -> Self {
        self.snapshot = Some(id.into());
        self
    }

    /// Adds a change of the configuration.
    #[must_use]
    pub fn change(mut self, instruction: impl Into<String>) -> Self {
        self.changes.push(instruction.into());
        self
    }

    /// Sets who made it.
    #[must_use]
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// Sets what to say about it.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Sets how its new layers are compressed.
    #[must_use]
    pub fn compression(mut self, compression: LayerCompression) -> Self {
        self.compression = compression;
        self
    }
}

/// How far a commit is: a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitProgress {
    /// Which of the new layers, from 1; not in their order.
    pub layer: usize,
    /// Bytes of its tar so far.
    pub bytes: u64,
}

/// What a commit came to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommitReport {
    /// The image.
    pub image: ImageRecord,
    /// What an image cannot have and was left out (devices, sockets), and what other tools may not like. Bounded.
    pub warnings: Vec<String>,
}

type Progress = Arc<Mutex<dyn FnMut(CommitProgress) + Send>>;

/// What keeps the snapshots from being deleted meanwhile.
enum Held {
    Thawed(Box<Thawed>),
    Locked(Arc<VesselManifest>, #[allow(dead_code, reason = "held, not read")] Option<FileLock>),
}

impl Held {
    fn manifest(&self) -> &VesselManifest {
        match self {
            Self::Thawed(thawed) => thawed.manifest(),
            Self::Locked(manifest, _) => manifest,
        }
    }
}

pub(super) async fn commit(
    manager: Arc<ManagerInner>,
    id: String,
    options: CommitOptions,
    progress: Progress,
) -> Result<CommitReport> {
    let reference = parse_reference(&options.reference)?;
    // What is wrong with them is known before the work begins.
    let mut scratch = change::Config::new();
    for text in &options.changes {
        change::apply(&mut scratch, text)
            .map_err(|e| Error::invalid(format!("invalid change of the image: {text:?}")).with_source(e))?;
    }
    let own = Arc::clone(&manager);
    let _keep = blocking(move || Ok((own.store.use_images()?, own.content.lease()?))).await?;
    let packer =
        Packer { manager: Arc::clone(&manager), compression: options.compression, progress, count: 0 };
    let (held, made, warnings) = vessel_layers(packer, &id, options.snapshot.as_deref()).await?;
    let manifest = held.manifest();
    let base = manager.base_of(manifest).await?;
    let created = made.last().map_or(manifest.create_time, |layer| layer.created);
    let about = (manifest.work_dir.clone(), manifest.base_image_ref.clone());
    let mut report = blocking(move || {
        let about = (about.0.as_str(), about.1.as_str());
        let descriptor = put_image(&manager, &base, &made, about, created, &options)?;
        let image = manager.content.tag(&reference, &descriptor)?;
        Ok(CommitReport { image, warnings })
    })
    .await?;
    drop(held);
    if report.image.layers.len() > DOCKER_LAYERS {
        let count = report.image.layers.len();
        report
            .warnings
            .push(format!("the image has {count} layers, and docker runs at most {DOCKER_LAYERS}"));
    }
    Ok(report)
}

/// The layers of a vessel above its base, the lowest first.
async fn vessel_layers(
    mut packer: Packer,
    id: &str,
    snapshot: Option<&str>,
) -> Result<(Held, Vec<Layer>, Vec<String>)> {
    let manager = Arc::clone(&packer.manager);
    let mut warnings = Vec::new();
    let (held, writable, top) = match snapshot {
        Some(snapshot) => (hold(&manager, id).await?, None, snapshot.to_owned()),
        None => {
            let vessel = open::open(&manager, id).await?;
            let packed = packer.writable(&vessel).await;
            let closed = vessel.close().await;
            let (held, writable) = packed?;
            closed?;
            let top = held.manifest().current_snapshot_id.clone();
            (held, writable, top)
        }
    };
    let manifest = held.manifest();
    if !top.is_empty() && manifest.snapshot(&top).is_none() {
        return Err(Error::not_found(format!("snapshot not found: {top}")));
    }
    let kernel = is_kernel(&manager, id).await?;
    let mut layers = Vec::new();
    for snapshot in manifest.chain(&top)? {
        let packed = packer.snapshot(snapshot, kernel).await?;
        warnings.extend(packed.skipped.iter().cloned());
        layers.push(layer(
            packed,
            snapshot.create_time,
            &format!("vesselrt snapshot {}", snapshot.id),
            &snapshot.message,
        ));
    }
    if let Some(packed) = writable {
        let created = layers.last().map_or(manifest.create_time, |layer: &Layer| layer.created);
        warnings.extend(packed.skipped.iter().cloned());
        layers.push(layer(packed, created, "vesselrt commit", ""));
    }
    Ok((held, layers, warnings))
}

fn layer(packed: Packed, created: OffsetDateTime, created_by: &str, comment: &str) -> Layer {
    let Packed { descriptor, diff_id, .. } = packed;
    Layer { descriptor, diff_id, created, created_by: created_by.to_owned(), comment: comment.to_owned() }
}

/// Keeps the snapshots of a vessel that is not opened for that.
async fn hold(manager: &Arc<ManagerInner>, id: &str) -> Result<Held> {
    manager.load_manifest(id).await?;
    let (own, name) = (Arc::clone(manager), id.to_owned());
    let lock = match blocking(move || own.store.vessel(&name)).await? {
        None => None,
        Some(dir) => {
            let timeout = manager.config.lock_timeout;
            let lock = lock::within(&Arc::new(dir), OPS_LOCK, timeout).await?;
            Some(lock.ok_or_else(|| {
                Error::conflict(format!("another operation changes the snapshots of vessel {id}"))
            })?)
        }
    };
    Ok(Held::Locked(manager.view(id).await?, lock))
}

/// Whether the sealed layers of a vessel are the kernel's; true if none of it is here.
async fn is_kernel(manager: &Arc<ManagerInner>, id: &str) -> Result<bool> {
    let (own, id) = (Arc::clone(manager), id.to_owned());
    blocking(move || {
        let Some(dir) = own.store.vessel(&id)? else { return Ok(true) };
        Ok(open::read_state(&id, dir.as_fd())?.driver != Some(Driver::Fuse))
    })
    .await
}

/// Packs one layer after the other.
struct Packer {
    manager: Arc<ManagerInner>,
    compression: LayerCompression,
    progress: Progress,
    count: usize,
}

impl Packer {
    async fn snapshot(&mut self, snapshot: &SnapshotManifest, kernel: bool) -> Result<Packed> {
        let (own, known, compression) = (Arc::clone(&self.manager), snapshot.clone(), self.compression);
        if let Some(packed) = blocking(move || own.packed_before(&known, compression)).await? {
            return Ok(packed);
        }
        let source = layers::source(&self.manager, snapshot, kernel).await?;
        let packed = self.pack(source, TreeFormat::Overlay).await?;
        let (own, made) = (Arc::clone(&self.manager), snapshot.clone());
        blocking(move || {
            own.remember_packed(&made, compression, &packed)?;
            Ok(packed)
        })
        .await
    }

    async fn pack(&mut self, source: Source, format: TreeFormat) -> Result<Packed> {
        self.count += 1;
        let (manager, compression, layer) = (Arc::clone(&self.manager), self.compression, self.count);
        let progress = Arc::clone(&self.progress);
        blocking(move || {
            let mut tell = |bytes| {
                (progress.lock().unwrap_or_else(PoisonError::into_inner))(CommitProgress { layer, bytes });
            };
            let mut worker = manager.launcher()?.worker()?;
            layers::pack(&manager, &mut worker, source.dir(), format, compression, &mut tell)
        })
        .await
    }

    /// What is not in any snapshot yet; `None` if that is nothing.
    async fn writable(&mut self, vessel: &crate::vessel::Vessel) -> Result<(Held, Option<Packed>)> {
        let inner = &vessel.inner;
        let frozen = frozen::freeze(inner).await?;
        let packed = self.frozen(&frozen, inner).await;
        let thawed = frozen.thaw(inner).await;
        let packed = packed?;
        Ok((Held::Thawed(Box::new(thawed?)), packed))
    }

    async fn frozen(
        &mut self,
        frozen: &Frozen,
        vessel: &crate::vessel::VesselInner,
    ) -> Result<Option<Packed>> {
        let dir = frozen.writable(vessel).await?;
        let format = match frozen.driver() {
            Driver::Kernel => TreeFormat::Overlay,
            Driver::Fuse => TreeFormat::FuseOverlay,
        };
        let below = frozen.below(vessel)?;
        let same_root = root(&dir)? == below.as_ref().map(root).transpose()?.unwrap_or((0o755, 0, 0));
        let packed = self.pack(Source::Sealed(dir), format).await?;
        Ok(Some(packed).filter(|packed| packed.entries > 1 || !same_root))
    }
}

/// Mode and owner of the root directory of a layer. Its time says nothing: it changes with whatever comes and goes.
fn root(layer: &OwnedFd) -> Result<(u32, u32, u32)> {
    let stat = rustix::fs::statat(layer, TREE, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Error::io("failed to look at the root of a layer", e))?;
    Ok((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid))
}

/// Stores configuration and manifest.
fn put_image(
    manager: &ManagerInner,
    base: &ImageRecord,
    made: &[Layer],
    (work_dir, base_ref): (&str, &str),
    created: OffsetDateTime,
    options: &CommitOptions,
) -> Result<Descriptor> {
    let (_, size) = manager.content.open_blob(&base.config_digest)?;
    let base_config = manager.content.read_json_blob(&base.config_digest, size)?;
    let about = About { work_dir, created, options };
    let config = config::configuration(&base_config, base.layers.len(), made, &about)?;
    let config = put(manager, media_type::OCI_CONFIG, &config)?;
    let own = made.iter().map(|layer| Ok(layer.descriptor.clone()));
    let base_layers = base.layers.iter().map(|layer| layers::of_base(manager, layer));
    let layers: Vec<Descriptor> = base_layers.chain(own).collect::<Result<_>>()?;
    let digest = base.manifest_digest.to_string();
    let manifest = config::manifest(&config, &layers, (base_ref, &digest), created)?;
    put(manager, media_type::OCI_MANIFEST, &manifest)
}

fn put(manager: &ManagerInner, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
    let expected = (Digest::sha256(bytes), bytes.len() as u64);
    let (digest, size) = manager.content.put_blob(bytes, Some(expected))?;
    Ok(Descriptor::new(media_type, digest, size))
}
