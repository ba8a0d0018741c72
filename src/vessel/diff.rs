//! What differs between two states of a vessel: the image, its snapshots, and what it is now.
//!
//! Nothing is mounted for that: a worker compares the layers themselves, where they differ. While it does, nobody
//! changes the vessel's snapshots; commands and files go on.
#![forbid(unsafe_code)]

mod change;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use vesselrt_runtime::diff::{Comparison, DiffRequest, LayerName, ReadRequest};
use vesselrt_runtime::shim::protocol::Driver;
use vesselrt_runtime::worker::{Job, JobDone, TreeFormat};
use vesselrt_storage::manifest::VesselManifest;

pub use change::{Change, ChangeKind, ChangedFile, Content, Contents, Differences};

use super::{VesselInner, paths};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::ManagerInner;
use crate::manager::open::{self, OPS_LOCK, generation_name, read_state};
use crate::offload::blocking;
use crate::recover;
use crate::state::{Copied, VesselState};
use crate::store::lock::{self, FileLock};

/// What one job of a worker reads, in bytes, if it is more than one file: its answer is one message.
const READ_AT_ONCE: u64 = 64 << 20;
/// The largest file that is read, in bytes: one message must hold it.
const READ_MOST: u64 = 256 << 20;

/// A state of a vessel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DiffPoint {
    /// The image, before anything was done.
    Base,
    /// A snapshot, by its id.
    Snapshot(String),
    /// The snapshot that the vessel is based on; the image if there is none.
    Current,
    /// The latest snapshot of what the vessel is now: [`Self::Current`], or one on that one that was taken since, while commands ran.
    Last,
    /// The vessel as it is now.
    Now,
}

/// What is compared, and how.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    from: DiffPoint,
    to: DiffPoint,
    paths: Vec<PathBuf>,
    renames: bool,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl DiffOptions {
    /// What changed since the last snapshot.
    #[must_use]
    pub fn new() -> Self {
        Self { from: DiffPoint::Last, to: DiffPoint::Now, paths: Vec::new(), renames: true }
    }

    /// The older side.
    #[must_use]
    pub fn from(mut self, point: DiffPoint) -> Self {
        self.from = point;
        self
    }

    /// The newer side.
    #[must_use]
    pub fn to(mut self, point: DiffPoint) -> Self {
        self.to = point;
        self
    }

    /// Only this path and what is below; may be given several times. A relative one begins at the working directory;
    /// symlinks in it are not followed.
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.paths.push(path.into());
        self
    }

    /// Whether to look for files that are there again under another name (the default).
    #[must_use]
    pub fn renames(mut self, renames: bool) -> Self {
        self.renames = renames;
        self
    }
}

/// What differs between two states of a vessel.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Diff {
    /// The older side: a snapshot's id, or empty for the image; `None` for the vessel as it was then.
    pub from: Option<String>,
    /// The newer side, likewise.
    pub to: Option<String>,
    /// What differs; a directory before what is in it.
    pub changes: Vec<Change>,
    /// There was too much to look for all renames: some may be told as deleted and added.
    pub renames_limited: bool,
    layers: Vec<LayerName>,
}

/// The right to read a vessel's layers, none of which goes away meanwhile.
struct Ground {
    manifest: Arc<VesselManifest>,
    state: VesselState,
    _lock: FileLock,
}

async fn ground(vessel: &VesselInner) -> Result<Ground> {
    let dir = vessel.lease.dir();
    let lock = lock::within(dir, OPS_LOCK, vessel.manager.config.lock_timeout).await?.ok_or_else(|| {
        Error::conflict(format!("another operation changes the snapshots of vessel {}", vessel.id))
    })?;
    if open::is_interrupted(dir.as_fd(), true)? {
        vessel.reopen(true).await?;
    }
    // Not of one that was closed; and what a crash left is made good by whoever opens it.
    vessel.lease.give_back(vessel.connect_holding(true).await?);
    let manifest = vessel.reload().await?;
    let (fd, id) = (Arc::clone(dir), vessel.id.clone());
    let state = blocking(move || read_state(&id, fd.as_fd())).await?;
    Ok(Ground { manifest, state, _lock: lock })
}

impl Ground {
    /// The snapshot that a point is; `None` for the vessel as it is now, empty for the image.
    fn snapshot(&self, point: &DiffPoint) -> Result<Option<String>> {
        match point {
            DiffPoint::Now => Ok(None),
            DiffPoint::Base => Ok(Some(String::new())),
            DiffPoint::Current => Ok(Some(self.state.top().to_owned())),
            DiffPoint::Last => Ok(Some(self.last().to_owned())),
            DiffPoint::Snapshot(id) if id.is_empty() || self.manifest.snapshot(id).is_none() => {
                Err(Error::not_found(format!("snapshot not found: {id}")))
            }
            DiffPoint::Snapshot(id) => Ok(Some(id.clone())),
        }
    }

    fn last(&self) -> &str {
        let of_this = |copied: &&Copied| {
            copied.generation == self.state.generation && self.manifest.snapshot(&copied.snapshot).is_some()
        };
        self.state.copied.as_ref().filter(of_this).map_or(self.state.top(), |copied| &copied.snapshot)
    }

    /// Its layers, topmost first; those of snapshots are unpacked if they are not here.
    async fn layers(&self, manager: &ManagerInner, snapshot: Option<&str>) -> Result<Vec<LayerName>> {
        let sealed = match snapshot {
            None => self.state.sealed.clone(),
            Some(id) => recover::layers(&self.manifest, id)?,
        };
        manager.provide_sealed(&self.manifest, &sealed).await?;
        let writable =
            snapshot.is_none().then(|| LayerName::Writable(generation_name(self.state.generation)));
        let image = self.state.image.layers.iter().cloned().map(LayerName::Image);
        Ok(writable.into_iter().chain(sealed.into_iter().map(LayerName::Sealed)).chain(image).collect())
    }

    fn format(&self) -> TreeFormat {
        match self.state.driver {
            Some(Driver::Fuse) => TreeFormat::FuseOverlay,
            Some(Driver::Kernel) | None => TreeFormat::Overlay,
        }
    }
}

pub(super) async fn diff(vessel: &VesselInner, options: DiffOptions) -> Result<Diff> {
    let paths = options.paths.iter().map(|path| inside(vessel, path)).collect::<Result<Vec<_>>>()?;
    let ground = ground(vessel).await?;
    let (from, to) = (ground.snapshot(&options.from)?, ground.snapshot(&options.to)?);
    let request = DiffRequest {
        from: ground.layers(&vessel.manager, from.as_deref()).await?,
        to: ground.layers(&vessel.manager, to.as_deref()).await?,
        format: ground.format(),
        paths,
        renames: options.renames,
    };
    let done = work(vessel, vec![Job::Diff(request)]).await?.pop();
    let Some(JobDone::Compared(Comparison { layers, changes, renames_limited })) = done else {
        return Err(Error::internal("unexpected reply of the worker: not compared"));
    };
    let changes = changes.into_iter().map(Change::from).collect();
    Ok(Diff { from, to, changes, renames_limited, layers })
}

/// A path of a caller as the walk has it.
fn inside(vessel: &VesselInner, path: &std::path::Path) -> Result<Vec<u8>> {
    let path = paths::bytes(paths::resolve(&vessel.work_dir(), path)?);
    Ok(path.strip_prefix(b"/").unwrap_or(&path).to_vec())
}

/// Reads both sides of some changes.
pub(super) async fn read(
    vessel: &VesselInner,
    diff: &Diff,
    changes: &[Change],
    limit: u64,
) -> Result<Vec<Contents>> {
    let limit = limit.min(READ_MOST);
    let wanted = change::wanted(changes, &diff.layers, limit)?;
    let mut jobs: Vec<Job> = Vec::new();
    let mut room = 0;
    for (size, file) in wanted.files() {
        match jobs.last_mut() {
            Some(Job::ReadFiles(job)) if size <= room => {
                job.files.push(file);
                room -= size;
            }
            _ => {
                jobs.push(Job::ReadFiles(ReadRequest { files: vec![file], limit }));
                room = READ_AT_ONCE.saturating_sub(size);
            }
        }
    }
    let mut found = Vec::new();
    if !jobs.is_empty() {
        let _ground = ground(vessel).await?;
        for done in work(vessel, jobs).await.map_err(other_layers)? {
            let JobDone::Contents(contents) = done else {
                return Err(Error::internal("unexpected reply of the worker: no contents"));
            };
            found.extend(contents);
        }
    }
    wanted.answer(found)
}

/// A layer that is not there was sealed, or thrown away, since.
fn other_layers(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::conflict("the vessel has other layers than when it was compared")
            .with_remedy("compare again")
            .with_source(error),
        _ => error,
    }
}

/// Has a worker do jobs on the layers.
async fn work(vessel: &VesselInner, jobs: Vec<Job>) -> Result<Vec<JobDone>> {
    let (manager, dir): (_, Arc<OwnedFd>) = (Arc::clone(&vessel.manager), Arc::clone(vessel.lease.dir()));
    blocking(move || {
        let store = &manager.store;
        let dirs = [store.image_layers.as_fd(), store.layers.as_fd(), dir.as_fd()];
        let mut worker = manager.launcher()?.worker()?;
        jobs.iter().map(|job| Ok(worker.run(job, &dirs, &mut |_| {})?)).collect()
    })
    .await
}
