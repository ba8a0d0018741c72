//! The archive alone, without a vessel: a directory packed, hashed, compressed and stored; and back again.
//!
//! It is what a snapshot does between sealing and saving the manifest, on an ordinary directory of the caller's own.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::{CWD, Mode, OFlags};
use tokio::net::unix::pipe;
use vesselrt::{CompressedStorage, LocalStorage, Storage};
use vesselrt_runtime::layer::{self, Dialect, IdPolicy, PackOptions, Packed, TreeFormat, UnpackOptions};

use super::super::lab::{self, Shared, blocking};
use super::super::race::{Clock, Entrant};
use crate::cli::{Failure, Outcome};

const VESSEL: &str = "bench";
const SNAPSHOT: &str = "archive";

/// Where the archives go.
#[derive(Debug)]
struct Shelf {
    dir: PathBuf,
    storage: CompressedStorage<LocalStorage>,
}

impl Shelf {
    fn new(lab: &Shared) -> Outcome<Self> {
        let dir = lab.fresh("archives");
        let storage = CompressedStorage::local(&dir).map_err(|e| Failure::internal(e.to_string()))?;
        Ok(Self { dir, storage })
    }

    /// Packs a directory.
    async fn pack(&self, tree: &Path) -> Outcome<Packed> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| Failure::io("make a pipe", e))?;
        // As large as one may be without privileges: fewer switches.
        let _ = rustix::pipe::fcntl_setpipe_size(&theirs, 1 << 20);
        let body = receiver(ours)?;
        let tree = tree.to_owned();
        let pack = blocking(move || {
            let tree = directory(&tree)?;
            let options = PackOptions::new(Dialect::Snapshot, TreeFormat::Plain);
            layer::pack_snapshot(tree.as_fd(), File::from(theirs), &options)
                .map_err(|e| Failure::conflict(format!("failed to pack the tree: {e}")))
        });
        let save = self.storage.save_snapshot(VESSEL, SNAPSHOT, Box::pin(body));
        let (packed, saved) = tokio::join!(pack, save);
        saved.map_err(|e| Failure::conflict(format!("failed to store the archive: {e}")))?;
        packed
    }

    /// Bytes of the stored archive.
    fn size(&self) -> Option<u64> {
        let file = self.dir.join(format!("vessels/{VESSEL}/snapshots/{SNAPSHOT}.tar.zst"));
        std::fs::metadata(file).ok().map(|meta| meta.len())
    }

    /// Unpacks the stored archive into an empty directory, verified and on disk.
    async fn unpack(&self, dest: &Path, packed: &Packed) -> Outcome {
        let loaded = self.storage.load_snapshot(VESSEL, SNAPSHOT).await;
        let stream = loaded.map_err(|e| Failure::conflict(format!("failed to load the archive: {e}")))?;
        let tar = tokio_util::io::SyncIoBridge::new(stream);
        let (dest, packed) = (dest.to_owned(), packed.clone());
        blocking(move || {
            let dest = directory(&dest)?;
            let ids = match rustix::process::geteuid().is_root() {
                true => IdPolicy::Keep { count: u32::MAX },
                false => IdPolicy::Ignore,
            };
            let options = UnpackOptions::new(Dialect::Snapshot, TreeFormat::Plain, ids);
            layer::unpack_snapshot(tar, dest.as_fd(), &[], &options, &packed.sha256, packed.size)
                .map(|_report| ())
                .map_err(|e| Failure::conflict(format!("failed to unpack the archive: {e}")))
        })
        .await
    }
}

fn receiver(pipe: OwnedFd) -> Outcome<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(pipe).map_err(|e: io::Error| Failure::io("watch a pipe", e))
}

fn directory(path: &Path) -> Outcome<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| Failure::io(format!("open {}", path.display()), e))
}

/// One archive of the tree a round.
pub(crate) struct Pack {
    lab: Shared,
}

impl Pack {
    pub(crate) fn new(lab: &Shared) -> Self {
        Self { lab: Shared::clone(lab) }
    }
}

#[async_trait(?Send)]
impl Entrant for Pack {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let (tree, _) = self.lab.tree().await?;
        let shelf = Shelf::new(&self.lab)?;
        self.lab.settle().await?;
        let packed = clock.time(shelf.pack(tree)).await;
        let size = shelf.size();
        lab::remove(shelf.dir).await?;
        packed.map(|_packed| size)
    }
}

/// The archive unpacked into a new directory every round.
pub(crate) struct Unpack {
    lab: Shared,
    made: Option<(Shelf, Packed)>,
}

impl Unpack {
    pub(crate) fn new(lab: &Shared) -> Self {
        Self { lab: Shared::clone(lab), made: None }
    }
}

#[async_trait(?Send)]
impl Entrant for Unpack {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        if self.made.is_none() {
            let shelf = Shelf::new(&self.lab)?;
            let packed = shelf.pack(self.lab.tree().await?.0).await?;
            self.made = Some((shelf, packed));
        }
        let Some((shelf, packed)) = &self.made else { return Ok(None) };
        let dest = self.lab.fresh("unpacked");
        std::fs::create_dir(&dest).map_err(|e| Failure::io("make a directory", e))?;
        self.lab.settle().await?;
        let unpacked = clock.time(shelf.unpack(&dest, packed)).await;
        lab::remove(dest).await?;
        unpacked.map(|()| None)
    }

    async fn end(&mut self) {
        if let Some((shelf, _)) = self.made.take() {
            let _ = lab::remove(shelf.dir).await;
        }
    }
}
