//! What is forked: a snapshot of a vessel, or what the vessel is now.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};

use super::ForkOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::history;
use crate::manager::open::{self, OPS_LOCK, generation_name, read_state};
use crate::manager::{ManagerInner, create};
use crate::offload::blocking;
use crate::state::{Pending, VesselState};
use crate::store::lock::{self, FileLock};
use crate::store::{Store, dirs, layers};
use crate::vessel::snapshot::options::SnapshotOptions;

/// What is forked. While it is held, neither its snapshots nor their layers go.
pub(super) struct Origin {
    /// Of the vessel, with the snapshots that wait for their archives.
    pub(super) manifest: Arc<VesselManifest>,
    /// The snapshots that lead to where forks begin, that one last; empty: they begin at the image.
    pub(super) chain: Vec<SnapshotManifest>,
    /// Of the vessel.
    pub(super) state: VesselState,
    _ops: FileLock,
    _layers: FileLock,
    _images: FileLock,
}

/// What a vessel is when its snapshots cannot change.
struct Present {
    /// With the snapshots that wait for their archives.
    manifest: Arc<VesselManifest>,
    state: VesselState,
    begin: Begin,
}

/// Where forks begin.
enum Begin {
    At(String),
    /// The vessel is not what a snapshot is.
    Changed,
    /// A crash has left something to be done first.
    Interrupted,
}

pub(super) async fn find(manager: &Arc<ManagerInner>, id: &str, options: &ForkOptions) -> Result<Origin> {
    manager.load_manifest(id).await?;
    let (mut from, mut recovered) = (options.from.clone(), false);
    loop {
        let dir = directory(manager, id).await?;
        let timeout = manager.config.lock_timeout;
        let ops = lock::within(&dir, OPS_LOCK, timeout).await?.ok_or_else(|| {
            Error::conflict(format!("another operation changes the snapshots of vessel {id}"))
        })?;
        let present = look(manager, id, &dir, from.as_deref()).await?;
        match &present.begin {
            Begin::At(snapshot) => {
                let snapshot = snapshot.clone();
                return hold(manager, dir, present, &snapshot, ops).await;
            }
            Begin::Changed => {
                drop(ops);
                from = Some(seal(manager, id, &options.message).await?);
            }
            Begin::Interrupted if recovered => {
                return Err(Error::integrity(format!("a sealed layer of vessel {id} is missing")));
            }
            Begin::Interrupted => {
                drop(ops);
                recovered = true;
                open::open(manager, id).await?.close().await?;
            }
        }
    }
}

/// The directory of the vessel; it is made again if it was lost.
async fn directory(manager: &Arc<ManagerInner>, id: &str) -> Result<Arc<OwnedFd>> {
    for _ in 0..2 {
        let (own, name) = (Arc::clone(manager), id.to_owned());
        if let Some(dir) = blocking(move || own.store.vessel(&name)).await? {
            return Ok(Arc::new(dir));
        }
        create::rebuild(manager, id).await?;
    }
    Err(open::unknown(id))
}

/// Makes a snapshot of what the vessel is now. Its archive is not waited for.
async fn seal(manager: &Arc<ManagerInner>, id: &str, message: &str) -> Result<String> {
    let vessel = open::open(manager, id).await?;
    let made = vessel.create_snapshot_with(SnapshotOptions::new(message).sealed()).await;
    vessel.close().await?;
    Ok(made?.id)
}

async fn look(
    manager: &Arc<ManagerInner>,
    id: &str,
    dir: &Arc<OwnedFd>,
    from: Option<&str>,
) -> Result<Present> {
    let stored = manager.load_manifest(id).await?;
    let (own, dir, id) = (Arc::clone(manager), Arc::clone(dir), id.to_owned());
    let from = from.map(str::to_owned);
    blocking(move || {
        let state = read_state(&id, dir.as_fd())?;
        let manifest = history::merged(&stored, &state);
        if let Some(snapshot) = &from
            && manifest.named(snapshot).is_none()
        {
            return Err(Error::not_found(format!("snapshot not found: {snapshot}")));
        }
        let begin = match from {
            _ if !is_named(&own.store, &state)? => Begin::Interrupted,
            Some(snapshot) => Begin::At(snapshot),
            None if is_unchanged(&own.store, dir.as_fd(), &state, &manifest.current_snapshot_id)? => {
                Begin::At(manifest.current_snapshot_id.clone())
            }
            None => Begin::Changed,
        };
        Ok(Present { manifest: Arc::new(manifest), state, begin })
    })
    .await
}

/// Whether the layer that was sealed last has its name: a crash may have come before.
fn is_named(store: &Store, state: &VesselState) -> Result<bool> {
    match &state.pending {
        Some(Pending::Sealed { snapshot, .. }) => dirs::exists(store.layers.as_fd(), snapshot),
        _ => Ok(true),
    }
}

/// Holds what the forks will share, and says so.
async fn hold(
    manager: &Arc<ManagerInner>,
    dir: Arc<OwnedFd>,
    present: Present,
    snapshot: &str,
    ops: FileLock,
) -> Result<Origin> {
    let Present { manifest, state, .. } = present;
    let chain = manifest.chain(snapshot).map_err(|e| Error::storage("failed to follow the snapshots", e))?;
    let chain: Vec<SnapshotManifest> = chain.into_iter().cloned().collect();
    let own = Arc::clone(manager);
    blocking(move || {
        let (layers, images) = (own.store.share_layers()?, own.store.use_images()?);
        if !dirs::is_same(own.store.vessels.as_fd(), &manifest.id, dir.as_fd())? {
            return Err(open::unknown(&manifest.id));
        }
        if layers::mark_shared(dir.as_fd())? {
            dirs::sync(dir.as_fd())?;
        }
        secure(&own.store, &chain)?;
        Ok(Origin { manifest, chain, state, _ops: ops, _layers: layers, _images: images })
    })
    .await
}

/// The layers of snapshots without archives are all there is of them: their names must be on disk before a fork
/// relies on them. Until then only the state of the vessel that sealed them says what they are.
fn secure(store: &Store, chain: &[SnapshotManifest]) -> Result<()> {
    let mut waiting = chain.iter().filter(|snapshot| !snapshot.is_stored()).peekable();
    if waiting.peek().is_none() {
        return Ok(());
    }
    for snapshot in waiting {
        if !dirs::exists(store.layers.as_fd(), &snapshot.id)? {
            let id = &snapshot.id;
            let message = format!("layer of snapshot {id} is missing, and so is its archive");
            return Err(Error::integrity(message));
        }
    }
    dirs::sync(store.layers.as_fd())
}

/// Nothing was written since the snapshot that the vessel lies on. When in doubt: something was.
fn is_unchanged(store: &Store, dir: BorrowedFd<'_>, state: &VesselState, current: &str) -> Result<bool> {
    let undecided = matches!(state.pending, Some(Pending::Seal { .. } | Pending::Delete { .. }));
    if undecided || state.top() != current || open::is_interrupted(dir, true)? {
        return Ok(false);
    }
    let Some(generation) = dirs::open(dir, &generation_name(state.generation))? else { return Ok(true) };
    let tree = match dirs::open(generation.as_fd(), "fs") {
        Ok(Some(tree)) => tree,
        Ok(None) => return Ok(true),
        // Made private by another of the user's ids.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => return Ok(false),
        Err(e) => return Err(e),
    };
    let (parent, name) = match (state.sealed.first(), state.image.layers.first()) {
        (Some(name), _) => (store.layers.as_fd(), name),
        (None, Some(name)) => (store.image_layers.as_fd(), name),
        (None, None) => return Ok(false),
    };
    let below = rustix::fs::statat(parent, format!("{name}/fs"), AtFlags::SYMLINK_NOFOLLOW);
    let own = rustix::fs::fstat(&tree).map_err(|e| Error::io("failed to stat a writable layer", e))?;
    Ok(below.is_ok_and(|below| looks_like(&own, &below)) && is_bare(&tree)?)
}

/// As a writable layer begins: like the root of the layer below.
fn looks_like(own: &Stat, below: &Stat) -> bool {
    (own.st_mode, own.st_uid, own.st_gid) == (below.st_mode, below.st_uid, below.st_gid)
        && (own.st_mtime, own.st_mtime_nsec) == (below.st_mtime, below.st_mtime_nsec)
}

/// Neither entries nor attributes, but for overlayfs's own.
fn is_bare(tree: &OwnedFd) -> Result<bool> {
    let failed = |e: rustix::io::Errno| Error::io("failed to read a writable layer", e);
    // Of its own, as reading moves its position.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fresh = rustix::fs::openat(tree, ".", flags, Mode::empty()).map_err(failed)?;
    for entry in rustix::fs::Dir::new(fresh).map_err(failed)? {
        let name = entry.map_err(failed)?;
        if !matches!(name.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    let mut names = vec![0; 64 << 10];
    match rustix::fs::flistxattr(tree, &mut names[..]) {
        Ok(length) => {
            let ours = |name: &[u8]| {
                name.is_empty() || name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.")
            };
            Ok(names[..length].split(|&byte| byte == 0).all(ours))
        }
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(true),
        Err(_) => Ok(false),
    }
}
