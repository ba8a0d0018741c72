//! The layers of a vessel as blobs of the content store.
#![forbid(unsafe_code)]

use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use vesselrt_runtime::worker::{Compression, Job, JobDone, TreeFormat, Worker};
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::image::media_type;
use vesselrt_storage::manifest::SnapshotManifest;
use vesselrt_storage::{Digest, compression};

use super::LayerCompression;
use crate::error::{Error, Result};
use crate::manager::ManagerInner;
use crate::manager::layers::compression_of;
use crate::offload::blocking;
use crate::store::dirs;
use crate::store::staged::Staged;

/// A layer that was packed.
pub(super) struct Packed {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    /// Entries, the root directory included.
    pub(super) entries: u64,
    /// What an image cannot have and was left out.
    pub(super) skipped: Vec<String>,
}

/// Where the tree of a snapshot is.
pub(super) enum Source {
    /// Its sealed layer.
    Sealed(OwnedFd),
    /// Its archive, unpacked for a while.
    Staged(Staged),
}

impl Source {
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        match self {
            Self::Sealed(dir) => dir.as_fd(),
            Self::Staged(staged) => staged.dir(),
        }
    }
}

/// The tree of a snapshot. What fuse-overlayfs wrote is its own dialect, and an unpacked archive beside it is not: the
/// archive says the same for both.
pub(super) async fn source(
    manager: &Arc<ManagerInner>,
    snapshot: &SnapshotManifest,
    kernel: bool,
) -> Result<Source> {
    let (own, id) = (Arc::clone(manager), snapshot.id.clone());
    let sealed = match kernel {
        true => blocking(move || dirs::open(own.store.layers.as_fd(), &id)).await?,
        false => None,
    };
    match sealed {
        Some(dir) => Ok(Source::Sealed(dir)),
        None => Ok(Source::Staged(manager.stage_snapshot(snapshot).await?)),
    }
}

/// Packs the tree `fs` in `dir` into a blob. Nothing is stored unless all of it was packed.
pub(super) fn pack(
    manager: &ManagerInner,
    worker: &mut Worker,
    dir: BorrowedFd<'_>,
    format: TreeFormat,
    compression: LayerCompression,
    progress: &mut dyn FnMut(u64),
) -> Result<Packed> {
    let (read, write) = std::io::pipe().map_err(|e| Error::io("failed to make a pipe", e))?;
    let (tell, verdict) = mpsc::channel();
    let cut = Arc::new(AtomicBool::new(false));
    let reader = Whole { read, verdict, cut: Arc::clone(&cut) };
    let (done, stored) = std::thread::scope(|scope| {
        let store = scope.spawn(|| manager.content.put_blob(reader, None));
        let job = Job::PackLayer { format, compression: compression.of_worker() };
        let done = worker.run(&job, &[dir, write.as_fd()], progress);
        // Nobody listens when the store has given up.
        let _ = tell.send(done.is_ok());
        drop(write);
        (done, store.join())
    });
    let stored = stored.map_err(|_| Error::internal("the thread that stores a layer panicked"))?;
    let (digest, size) = match (stored, done.is_err() && cut.load(Ordering::Relaxed)) {
        (Ok(stored), _) => stored,
        (Err(error), false) => return Err(Error::storage("failed to store a layer", error)),
        // It failed only because the worker had: that one's reason counts.
        (Err(_), true) => {
            return Err(done.err().map_or_else(|| Error::internal("a layer was cut"), Error::from));
        }
    };
    let JobDone::Packed(packed) = done? else {
        return Err(Error::internal("unexpected reply of the worker: not packed"));
    };
    let diff_id = Digest::parse(&format!("sha256:{}", packed.sha256))
        .map_err(|e| Error::internal("the worker gave a malformed digest").with_source(e))?;
    let descriptor = Descriptor::new(compression.media_type(), digest, size);
    Ok(Packed { descriptor, diff_id, entries: packed.entries, skipped: packed.skipped })
}

/// A stream that ends well only if its writer says so.
struct Whole {
    read: PipeReader,
    verdict: mpsc::Receiver<bool>,
    /// Set when it did not end well.
    cut: Arc<AtomicBool>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.read.read(buffer)?;
        if read > 0 || buffer.is_empty() || self.verdict.recv() == Ok(true) {
            return Ok(read);
        }
        self.cut.store(true, Ordering::Relaxed);
        Err(std::io::Error::other("the layer was not packed to its end"))
    }
}

impl LayerCompression {
    fn of_worker(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip => Compression::Gzip,
            Self::Zstd => Compression::Zstd,
        }
    }

    /// Of a layer that is compressed like this.
    pub(super) fn media_type(self) -> &'static str {
        media_type::oci_layer(self.of_storage())
    }

    fn of_storage(self) -> compression::Compression {
        match self {
            Self::None => compression::Compression::None,
            Self::Gzip => compression::Compression::Gzip,
            Self::Zstd => compression::Compression::Zstd,
        }
    }
}

/// A layer of the base in an OCI manifest: docker's media types are not allowed there by every registry. It says what the
/// blob is, which the base's own manifest may say wrongly: pulling and unpacking go by the bytes, but not every tool does.
pub(super) fn of_base(manager: &ManagerInner, layer: &vesselrt_storage::LayerRecord) -> Result<Descriptor> {
    let (mut blob, _) = manager.content.open_blob(&layer.digest)?;
    let compression = match compression_of(&mut blob)? {
        Compression::None => compression::Compression::None,
        Compression::Gzip => compression::Compression::Gzip,
        Compression::Zstd => compression::Compression::Zstd,
    };
    Ok(Descriptor::new(media_type::oci_layer(compression), layer.digest.clone(), layer.size))
}
