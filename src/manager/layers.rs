//! Unpacked layers: those of images, and those of snapshots that are only there as archives.
#![forbid(unsafe_code)]

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vesselrt_runtime::worker::{Compression, Job, JobDone, Worker};
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};
use vesselrt_storage::{ByteStream, Digest, ImageRecord, LayerRecord};

use super::ManagerInner;
use super::images::ImportProgress;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use crate::store::lock::{self, Mode};
use crate::store::staged::{Staged, unique};
use crate::store::{Store, dirs};
use crate::vessel::pump;

/// The tree in a layer's directory.
pub(super) const TREE: &str = "fs";

impl ManagerInner {
    /// The blob of an image layer, and what a worker is to do with it.
    pub(super) fn unpack_job(&self, layer: &LayerRecord, below: &[String]) -> Result<(std::fs::File, Job)> {
        let (mut blob, size) = self.content.open_blob(&layer.digest)?;
        let job = Job::UnpackLayer {
            size,
            digest: sha256_hex(&layer.digest)?.to_owned(),
            compression: compression_of(&mut blob)?,
            diff_id: sha256_hex(&layer.diff_id)?.to_owned(),
            lowers: below.to_vec(),
        };
        Ok((blob, job))
    }

    /// Unpacks what is not unpacked yet of an image, and says what was left out or changed.
    pub(crate) fn unpack_image(
        &self,
        record: &ImageRecord,
        progress: &mut dyn FnMut(ImportProgress),
    ) -> Result<Vec<String>> {
        self.unpack_layers(record, record.layers.len(), &mut None, progress)
    }

    /// [`Self::unpack_image`] of the lowest `count` layers, with a worker that is started when it is needed.
    pub(super) fn unpack_layers(
        &self,
        record: &ImageRecord,
        count: usize,
        worker: &mut Option<Worker>,
        progress: &mut dyn FnMut(ImportProgress),
    ) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let mut below: Vec<String> = Vec::new();
        for (index, layer) in record.layers.iter().take(count).enumerate() {
            let chain = sha256_hex(&layer.chain_id)?.to_owned();
            if !dirs::exists(self.store.image_layers.as_fd(), &chain)? {
                let (layers, total) = (record.layers.len(), layer.size);
                let mut tell =
                    |bytes| progress(ImportProgress::Unpacking { layer: index + 1, layers, bytes, total });
                let worker = match &mut *worker {
                    Some(worker) => worker,
                    none => none.insert(self.launcher()?.worker()?),
                };
                warnings.extend(self.unpack_layer(worker, layer, &chain, &below, &mut tell)?);
            }
            below.insert(0, chain);
        }
        Ok(warnings)
    }

    /// One layer, by whoever comes first; others wait for it.
    fn unpack_layer(
        &self,
        worker: &mut Worker,
        layer: &LayerRecord,
        chain: &str,
        below: &[String],
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<String>> {
        let layers = self.store.image_layers.as_fd();
        let lock_name = format!(".lock-{chain}");
        let _one = lock::wait(layers, &lock_name, Mode::Exclusive)?;
        if dirs::exists(layers, chain)? {
            return Ok(Vec::new());
        }
        let (blob, job) = self.unpack_job(layer, below)?;
        let (staged, tree) = stage_tree(&self.store)?;
        let done = worker.run(&job, &[blob.as_fd(), layers, tree.as_fd()], progress);
        let warnings = unpacked(done?)?;
        publish(staged, layers, chain)?;
        // Whoever waits for it finds the layer; nobody needs it any more.
        dirs::unlink(layers, &lock_name)?;
        Ok(warnings)
    }

    /// Unpacks the snapshots (topmost first) whose layers are not here from their archives.
    pub(crate) async fn provide_sealed(&self, manifest: &VesselManifest, sealed: &[String]) -> Result<()> {
        self.provide_beside(&[], manifest, sealed).await
    }

    /// [`Self::provide_sealed`] for a vessel that runs on `mounted` (topmost first): what is mounted is here.
    pub(crate) async fn provide_beside(
        &self,
        mounted: &[String],
        manifest: &VesselManifest,
        sealed: &[String],
    ) -> Result<()> {
        let common = mounted.iter().rev().zip(sealed.iter().rev()).take_while(|(a, b)| a == b).count();
        for id in sealed.iter().rev().skip(common) {
            if dirs::exists(self.store.layers.as_fd(), id)? {
                continue;
            }
            let snapshot =
                manifest.snapshot(id).filter(|snapshot| snapshot.is_stored()).ok_or_else(|| {
                    Error::integrity(format!("layer of snapshot {id} is missing, and so is its archive"))
                })?;
            let staged = self.stage_snapshot(snapshot).await?;
            let (store, name) = (Arc::clone(&self.store), id.clone());
            blocking(move || publish(staged, store.layers.as_fd(), &name)).await?;
        }
        Ok(())
    }

    /// Unpacks the archive of a snapshot into a staging directory, verified.
    pub(super) async fn stage_snapshot(&self, snapshot: &SnapshotManifest) -> Result<Staged> {
        let id = &snapshot.id;
        let digest = Digest::parse(&snapshot.checksum).map_err(|e| {
            Error::integrity(format!("checksum of snapshot {id} is malformed")).with_source(e)
        })?;
        if snapshot.size > self.config.limits.snapshot_bytes {
            let message = format!("snapshot {id} has {} bytes, more than allowed", snapshot.size);
            return Err(Error::new(ErrorKind::LimitExceeded, message));
        }
        let job = Job::UnpackSnapshot { sha256: sha256_hex(&digest)?.to_owned(), size: snapshot.size };
        let failed = |e| Error::storage(format!("failed to load the archive of snapshot {id}"), e);
        let archive = self.storage.load_snapshot(&snapshot.vessel_id, id).await.map_err(failed)?;
        let (launcher, store) = (self.launcher()?, Arc::clone(&self.store));
        let (theirs, ours) = pump::input_pipe()?;
        let unpack = blocking(move || {
            let (staged, tree) = stage_tree(&store)?;
            let done = launcher.worker()?.run(&job, &[theirs.as_fd(), tree.as_fd()], &mut |_| {});
            // Ours too must be closed, so that whoever feeds it notices.
            drop(theirs);
            unpacked(done?)?;
            Ok(staged)
        });
        let (staged, fed) = tokio::join!(unpack, feed(archive, ours));
        // The worker's complaint about half an archive comes from the source's failure.
        fed.map_err(|e| Error::io(format!("failed to read the archive of snapshot {id}"), e))?;
        staged
    }
}

async fn feed(mut archive: ByteStream, pipe: tokio::net::unix::pipe::Sender) -> std::io::Result<()> {
    pump::feed(&mut archive, &mut Some(pipe)).await
}

/// A directory for a layer that is to be unpacked, and in it the one for its tree.
fn stage_tree(store: &Arc<Store>) -> Result<(Staged, OwnedFd)> {
    let staged = Staged::new(store)?;
    let tree = make_tree(store, staged.dir())?;
    Ok((staged, tree))
}

/// Makes the directory for the tree of a layer in that of the layer.
pub(super) fn make_tree(store: &Store, layer: BorrowedFd<'_>) -> Result<OwnedFd> {
    spread(layer);
    // Under a name of its own first: the file system chooses the place by the name.
    let name = unique(TREE);
    let tree = store.make_owned(layer, &name)?;
    rustix::fs::renameat(layer, name, layer, TREE)
        .map_err(|e| Error::io("failed to name the directory of a layer", e))?;
    Ok(tree)
}

/// Layers have nothing to do with each other: ext4 is told to begin each where the disk has room, instead of beside the
/// last one (chattr(1), `T`). Beside it are often the inodes of files that were just removed, which ext4 does not use
/// again for a minute or more, but looks at one by one for each new file: unpacking takes eight times as long there. It
/// is a hint, which other file systems refuse.
fn spread(dir: BorrowedFd<'_>) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(dir) {
        let _ = rustix::fs::ioctl_setflags(dir, flags | rustix::fs::IFlags::TOPDIR);
    }
}

/// Gives a layer its name. One that another process has published meanwhile is as good.
fn publish(staged: Staged, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
    dirs::sync(staged.dir())?;
    staged.publish(parent, name)?;
    dirs::sync(parent)
}

fn unpacked(done: JobDone) -> Result<Vec<String>> {
    match done {
        JobDone::Unpacked { warnings, .. } => Ok(warnings),
        _ => Err(Error::internal("unexpected reply of the worker: not unpacked")),
    }
}

/// Layers are named, and workers verify, by SHA-256 only.
pub(super) fn sha256_hex(digest: &Digest) -> Result<&str> {
    if digest.algorithm() == vesselrt_storage::digest::Algorithm::Sha256 {
        return Ok(digest.hex());
    }
    let what = format!("a layer with the digest {digest}, which is not SHA-256");
    Err(Error::new(ErrorKind::Unsupported { what: what.clone(), remedy: String::new() }, what))
}

/// What a blob is, whatever its media type says. Leaves the position at its begin.
pub(super) fn compression_of(blob: &mut std::fs::File) -> Result<Compression> {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    let failed = |e| Error::io("failed to read a layer", e);
    let mut magic = Vec::with_capacity(4);
    Read::by_ref(blob).take(4).read_to_end(&mut magic).map_err(failed)?;
    std::io::Seek::rewind(blob).map_err(failed)?;
    if magic.starts_with(GZIP) {
        Ok(Compression::Gzip)
    } else if magic.starts_with(ZSTD) {
        Ok(Compression::Zstd)
    } else {
        Ok(Compression::None)
    }
}
