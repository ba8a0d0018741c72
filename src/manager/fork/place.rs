//! The local directories of forks.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::Origin;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::ManagerInner;
use crate::manager::open::{LOCK, STATE, UNFINISHED};
use crate::offload::blocking;
use crate::state::VesselState;
use crate::store::dirs::{self, Durable};
use crate::store::layers::mark_shared;
use crate::store::lock::{self, FileLock};
use crate::store::staged::Staged;

/// From so many forks on, the whole file system is synced once instead of each directory.
const MANY: usize = 3;
/// How often a generator may give an id that is taken.
const ATTEMPTS: usize = 16;

/// The directory of a vessel that does not exist yet.
pub(super) struct Placed {
    pub(super) id: String,
    dir: OwnedFd,
    _lock: FileLock,
}

impl Placed {
    /// The vessel exists.
    pub(super) fn finish(self) -> Result<()> {
        dirs::unlink(self.dir.as_fd(), UNFINISHED)
    }
}

/// Makes the directories of `count` forks, the first under the ids that were asked for. After an error none is left.
pub(super) async fn place(
    manager: &Arc<ManagerInner>,
    origin: &Arc<Origin>,
    asked: &[String],
    count: usize,
) -> Result<Vec<Placed>> {
    let mut ids = Vec::with_capacity(count);
    for id in asked {
        if is_known(manager, id).await? {
            return Err(taken(id));
        }
        ids.push(id.clone());
    }
    while ids.len() < count {
        ids.push(new_id(manager, &ids).await?);
    }
    let (own, origin) = (Arc::clone(manager), Arc::clone(origin));
    blocking(move || {
        let mut placed = Vec::with_capacity(ids.len());
        let few = ids.len() < MANY;
        let done = ids.iter().try_for_each(|id| one(&own, &origin, id, few).map(|fork| placed.push(fork)));
        done.and_then(|()| settle(&own, placed.len() >= MANY || origin.state.volatile)).inspect_err(
            |_| {
                let made: Vec<String> = placed.iter().map(|placed| placed.id.clone()).collect();
                // What fails here is found by the next sweep: it has no manifest.
                let _ = remove(&own, &made);
            },
        )?;
        Ok(placed)
    })
    .await
}

/// Their names survive a power cut; with `all`, so does what is in them, and what a vessel that was to be thrown away has
/// in its layers.
fn settle(manager: &ManagerInner, all: bool) -> Result<()> {
    let vessels = manager.store.vessels.as_fd();
    if !all {
        return dirs::sync(vessels);
    }
    rustix::fs::syncfs(vessels).map_err(|e| Error::io("failed to sync the store", e))
}

fn one(manager: &Arc<ManagerInner>, origin: &Origin, id: &str, synced: bool) -> Result<Placed> {
    let store = &manager.store;
    // It has no manifest: perhaps it is what a crash left of a creation or a deletion.
    if store.vessel(id)?.is_some() && !manager.discard_unfinished(id)? {
        return Err(taken(id));
    }
    let sealed = origin.chain.iter().rev().map(|snapshot| snapshot.id.clone()).collect();
    let mut state = VesselState::new(origin.state.image.clone(), sealed, false);
    state.settings = origin.state.settings.clone();
    // What it wrote is in the layers.
    state.driver = origin.state.driver;
    state.packing = origin.waiting_of(id);
    state.levels.clone_from(&origin.state.levels);
    let staged = Staged::new(store)?;
    let durable = if synced { Durable::New } else { Durable::Nothing };
    mark_shared(staged.dir())?;
    dirs::touch(staged.dir(), UNFINISHED)?;
    let lock = lock::attempt(staged.dir(), LOCK)?
        .ok_or_else(|| Error::internal("a staged vessel is locked by somebody else"))?;
    dirs::write_atomic(staged.dir(), STATE, &state.to_json(), durable)?;
    let dir = staged.publish(store.vessels.as_fd(), id)?.ok_or_else(|| taken(id))?;
    Ok(Placed { id: id.to_owned(), dir, _lock: lock })
}

/// Moves the directories of vessels that never came to be to the trash.
pub(super) fn remove(manager: &ManagerInner, ids: &[String]) -> Result<()> {
    let store = &manager.store;
    ids.iter().try_for_each(|id| store.discard(store.vessels.as_fd(), id))
}

async fn is_known(manager: &Arc<ManagerInner>, id: &str) -> Result<bool> {
    match manager.load_manifest(id).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) if e.kind() == ErrorKind::IntegrityViolation => Ok(true),
        Err(e) => Err(e),
    }
}

async fn new_id(manager: &Arc<ManagerInner>, others: &[String]) -> Result<String> {
    for _ in 0..ATTEMPTS {
        let id = manager.config.id_generator.new_id();
        if !others.contains(&id) && !is_known(manager, &id).await? {
            return Ok(id);
        }
    }
    Err(Error::internal("the id generator gives only ids that are taken"))
}

fn taken(id: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("vessel exists already: {id}"))
}
