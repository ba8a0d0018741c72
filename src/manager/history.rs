//! A vessel's whole history to a registry and back, as OCI artifacts ([`document`] says which).
#![forbid(unsafe_code)]

mod document;
pub(super) mod take;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::sync::Arc;

use tokio_util::io::SyncIoBridge;
use vesselrt_storage::digest::{Algorithm, Hasher};
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};
use vesselrt_storage::registry::BlobSource;
use vesselrt_storage::verify::Sha256Reader;
use vesselrt_storage::{ContentStore, Digest, ImageRecord, Reference};

use self::document::{Document, History};
use super::ManagerInner;
use super::images::parse_reference;
use super::push::{Presence, Progress, PushReport, Pusher};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;

/// As the default storage has it.
const ZSTD_LEVEL: i32 = 3;
const BUFFER: usize = 1 << 20;

/// Pushes a vessel's manifest and all its snapshots; with `with_base` its image too, so that the registry has all that
/// is needed.
pub(super) async fn push(
    manager: Arc<ManagerInner>,
    id: String,
    reference: String,
    with_base: bool,
    progress: Progress,
) -> Result<PushReport> {
    let target = parse_reference(&reference)?;
    if target.digest().is_some() {
        return Err(Error::invalid(format!("{target} is a digest: a history is pushed under a tag")));
    }
    manager.settle(&id).await?;
    let manifest = manager.load_manifest(&id).await?;
    let own = Arc::clone(&manager);
    let _lease = blocking(move || Ok(own.content.lease()?)).await?;
    let pusher = Pusher::new(Arc::clone(&manager), target, progress).await?;
    let mut report = PushReport::new(&pusher.target);
    let base = match with_base {
        true => Some(push_base(&pusher, &manifest, &mut report).await?),
        false => None,
    };
    let before = previous(&pusher).await?;
    let mut entries = Vec::with_capacity(manifest.snapshots.len());
    for snapshot in &manifest.snapshots {
        entries.push(push_snapshot(&pusher, snapshot, before.as_ref(), &mut report).await?);
    }
    let (config, vessel) = document::vessel(&manifest)?;
    push_document(&pusher, &config, &mut report).await?;
    push_bytes(&pusher, &document::empty(), document::EMPTY_BYTES, &mut report).await?;
    push_manifest(&pusher, &vessel).await?;
    let base = base.as_ref().map(|(descriptor, record)| (descriptor, record));
    let index = document::index(&manifest, &vessel.descriptor, base, &entries)?;
    if !pusher.has_manifest(&index.descriptor).await? {
        pusher.manifest(&pusher.target, &index.descriptor, &index.bytes).await?;
    }
    report.digest = index.descriptor.digest;
    Ok(report)
}

async fn push_base(
    pusher: &Pusher,
    manifest: &VesselManifest,
    report: &mut PushReport,
) -> Result<(Descriptor, ImageRecord)> {
    let record = pusher.manager.base_of(manifest).await?;
    let (own, digest) = (Arc::clone(&pusher.manager), record.manifest_digest.clone());
    let parts = blocking(move || own.parts(&digest)).await?;
    pusher.blobs(&parts, report).await?;
    let document = Document { descriptor: parts.descriptor.clone(), bytes: parts.bytes };
    push_manifest(pusher, &document).await?;
    Ok((parts.descriptor, record))
}

/// The history that is under the reference now. Whatever else is there is replaced.
async fn previous(pusher: &Pusher) -> Result<Option<History>> {
    let Some(there) = pusher.client.head(&pusher.target).await.map_err(pusher.failed())? else {
        return Ok(None);
    };
    let pinned = pinned(&pusher.target, &there.digest)?;
    let bytes = pusher.client.manifest(&pinned).await;
    Ok(bytes.ok().and_then(|(bytes, _)| document::parse_index(&bytes).ok()))
}

/// Sends what the registry lacks of a snapshot. One that the registry has already is not packed again.
async fn push_snapshot(
    pusher: &Pusher,
    snapshot: &SnapshotManifest,
    before: Option<&History>,
    report: &mut PushReport,
) -> Result<Descriptor> {
    if let Some(entry) = before.and_then(|history| history.snapshots.get(&snapshot.id))
        && let Ok(bytes) = pusher.client.manifest_by_digest(&pusher.target, entry).await
        && let Ok(archive) = document::parse_snapshot(&bytes, snapshot)
        && let Presence::There(state) = pusher.present(&archive).await?
    {
        report.count(state, archive.size);
        report.existing += 1;
        return Ok(Descriptor::new(entry.media_type.clone(), entry.digest.clone(), entry.size));
    }
    let config = document::snapshot_config(snapshot)?;
    push_document(pusher, &config, report).await?;
    let (file, digest, size) = compress(&pusher.manager, snapshot).await?;
    let archive = document::archive(digest, size);
    pusher.blob(&archive, BlobSource::File(Arc::new(file)), report).await?;
    let artifact = document::snapshot(&config.descriptor, archive)?;
    push_manifest(pusher, &artifact).await?;
    Ok(artifact.descriptor)
}

async fn push_document(pusher: &Pusher, document: &Document, report: &mut PushReport) -> Result<()> {
    push_bytes(pusher, &document.descriptor, &document.bytes, report).await
}

async fn push_bytes(
    pusher: &Pusher,
    descriptor: &Descriptor,
    bytes: &[u8],
    report: &mut PushReport,
) -> Result<()> {
    pusher.blob(descriptor, BlobSource::Bytes(bytes.to_vec().into()), report).await
}

/// A manifest that has no tag.
async fn push_manifest(pusher: &Pusher, document: &Document) -> Result<()> {
    let pinned = pinned(&pusher.target, &document.descriptor.digest)?;
    if pusher.client.head(&pinned).await.map_err(pusher.failed())?.is_some() {
        return Ok(());
    }
    pusher.manifest(&pinned, &document.descriptor, &document.bytes).await
}

/// The same repository, by digest.
fn pinned(reference: &Reference, digest: &Digest) -> Result<Reference> {
    parse_reference(&format!("{}@{digest}", reference.name()))
}

/// The archive of a snapshot as tar+zstd, verified, in a file without a name. The same archive, the same bytes.
async fn compress(manager: &Arc<ManagerInner>, snapshot: &SnapshotManifest) -> Result<(File, Digest, u64)> {
    let (vessel, id) = (&snapshot.vessel_id, &snapshot.id);
    let archive = manager
        .storage
        .load_snapshot(vessel, id)
        .await
        .map_err(|e| Error::storage(format!("failed to load the archive of snapshot {id}"), e))?;
    let (content, snapshot) = (Arc::clone(&manager.content), snapshot.clone());
    blocking(move || compress_from(&content, SyncIoBridge::new(archive), &snapshot)).await
}

fn compress_from(
    content: &ContentStore,
    archive: impl Read,
    snapshot: &SnapshotManifest,
) -> Result<(File, Digest, u64)> {
    let failed = |e| Error::io(format!("failed to compress the archive of snapshot {}", snapshot.id), e);
    // One byte more than there may be is enough to know.
    let limited = BufReader::with_capacity(BUFFER, archive).take(snapshot.size.saturating_add(1));
    let mut plain = Sha256Reader::new(limited);
    let sink = Hashed { file: content.scratch()?, hasher: Hasher::new(Algorithm::Sha256), size: 0 };
    let mut encoder = zstd::Encoder::new(sink, ZSTD_LEVEL).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    // Any number of workers gives the same bytes, none gives others.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    encoder.multithread(u32::try_from(threads).unwrap_or(1)).map_err(failed)?;
    io::copy(&mut plain, &mut encoder).map_err(failed)?;
    let sink = encoder.finish().map_err(failed)?;
    let (digest, size, _) = plain.finish();
    expect(snapshot, &digest, size)?;
    let mut file = sink.file;
    file.rewind().map_err(failed)?;
    Ok((file, sink.hasher.finish(), sink.size))
}

/// The archive must be the one that was packed.
fn expect(snapshot: &SnapshotManifest, digest: &Digest, size: u64) -> Result<()> {
    if size == snapshot.size && digest.to_string() == snapshot.checksum {
        return Ok(());
    }
    let (id, checksum) = (&snapshot.id, &snapshot.checksum);
    let message = format!(
        "the archive of snapshot {id} is not the one that was packed: it has the digest {digest} and {size} bytes, and \
         not {checksum} and {}",
        snapshot.size
    );
    Err(Error::new(ErrorKind::IntegrityViolation, message))
}

/// Hashes and counts what is written.
struct Hashed {
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
