//! Opening a vessel, and what can be asked of one that is not open.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use vesselrt_runtime::settings::Limits;
use vesselrt_runtime::shim::client::Connection;
use vesselrt_runtime::shim::protocol::{Reply, Request};
use vesselrt_storage::StorageErrorKind;
use vesselrt_storage::manifest::VesselManifest;

use super::{ManagerInner, VesselStatus, limits, overlay_of, start};
use crate::error::{Error, ErrorKind, Result};
use crate::history;
use crate::offload::blocking;
use crate::recover::{self, Plan};
use crate::state::{self, ImageDefaults, Pending, VesselState};
use crate::store::Store;
use crate::store::dirs::{self, Durable};
use crate::store::lock::{self, FileLock, Patience};
use crate::vessel::Vessel;
use crate::vessel::lease::{Holder, Lease};

pub(crate) const LOCK: &str = "lock";
pub(crate) const OPS_LOCK: &str = "ops.lock";
pub(crate) const STATE: &str = "state.json";
/// There while layers are exchanged under a running shim. It need not survive a power cut: the shim does not either.
pub(crate) const SWITCHING: &str = "switching";
/// There while a vessel is made, and again while it is deleted, and all the time if it is volatile: without a manifest it is a leftover then. A directory that
/// has neither may belong to another storage.
pub(crate) const UNFINISHED: &str = "unfinished";
/// How long a shim that was told to leave may take.
const LEAVE: Duration = Duration::from_secs(10);

/// How long detached processes have between SIGTERM and SIGKILL when their vessel is stopped.
const PROCESS_GRACE: Duration = Duration::from_secs(2);

/// A vessel whose shim is held.
pub(crate) struct Opened {
    pub(crate) dir: Arc<OwnedFd>,
    pub(crate) holder: Holder,
    pub(crate) image: ImageDefaults,
    pub(crate) limits: Limits,
}

pub(super) async fn open(manager: &Arc<ManagerInner>, id: &str) -> Result<Vessel> {
    // First, as it tells an unknown vessel from one whose local part is gone.
    manager.load_manifest(id).await?;
    let Opened { dir, holder, image, limits } = hold(manager, id, None, false).await?;
    // Again, as recovery may have changed it.
    let manifest = manager.view(id).await?;
    if manifest.snapshots.iter().any(|snapshot| !snapshot.is_stored()) {
        manager.upkeep_later(id);
    }
    Ok(Vessel::new(Arc::clone(manager), manifest, image, &limits, Lease::new(dir, holder)))
}

/// Joins the shim of a vessel, or starts one. `same`: the directory that it must still have; `ops_held`: the caller
/// holds its `ops.lock`.
pub(crate) async fn hold(
    manager: &Arc<ManagerInner>,
    id: &str,
    same: Option<&Arc<OwnedFd>>,
    ops_held: bool,
) -> Result<Opened> {
    let mut patience = Patience::new(manager.config.lock_timeout);
    loop {
        match attempt(manager, id, same, ops_held).await? {
            Attempt::Joined(opened) => return Ok(opened),
            Attempt::Locked(dir, lock) => {
                if let Some(opened) = start_locked(manager, id, dir, lock, ops_held).await? {
                    return Ok(opened);
                }
            }
            Attempt::Missing if same.is_some() => return Err(unknown(id)),
            Attempt::Missing => super::create::rebuild(manager, id).await?,
            Attempt::Busy => {}
        }
        if !patience.wait().await {
            let message = format!("vessel {id} is in use by another process");
            return Err(Error::conflict(message).with_remedy("wait for it, or stop the vessel"));
        }
    }
}

enum Attempt {
    Joined(Opened),
    Locked(Arc<OwnedFd>, FileLock),
    Missing,
    /// Its shim is starting or leaving.
    Busy,
}

async fn attempt(
    manager: &Arc<ManagerInner>,
    id: &str,
    same: Option<&Arc<OwnedFd>>,
    ops_held: bool,
) -> Result<Attempt> {
    let (manager, id, same) = (Arc::clone(manager), id.to_owned(), same.cloned());
    blocking(move || {
        let store = &manager.store;
        let Some(dir) = store.vessel(&id)? else { return Ok(Attempt::Missing) };
        if let Some(same) = same
            && !dirs::is_same(store.vessels.as_fd(), &id, same.as_fd())?
        {
            return Ok(Attempt::Missing);
        }
        let dir = Arc::new(dir);
        if let Some(mut connection) = Connection::open(dir.as_fd())? {
            if !is_interrupted(dir.as_fd(), ops_held)? {
                let state = read_state(&id, dir.as_fd())?;
                let (image, limits) = (state.image.defaults, state.settings.limits);
                return Ok(Attempt::Joined(Opened {
                    dir,
                    holder: Holder::joined(connection),
                    image,
                    limits,
                }));
            }
            // It mounts what the state no longer says.
            connection.call_done(&Request::Shutdown { destroy: false }, &[])?;
            connection.wait_closed(LEAVE)?;
        }
        let Some(lock) = lock::attempt(dir.as_fd(), LOCK)? else { return Ok(Attempt::Busy) };
        // It may have been deleted, or replaced, between opening and locking it.
        if dirs::is_same(store.vessels.as_fd(), &id, dir.as_fd())? {
            Ok(Attempt::Locked(dir, lock))
        } else {
            Ok(Attempt::Busy)
        }
    })
    .await
}

/// An exchange of layers under the running shim was begun by a process that is gone.
///
/// `ops_held`: the caller holds the vessel's `ops.lock`, so that it can be nobody else's.
pub(crate) fn is_interrupted(dir: BorrowedFd<'_>, ops_held: bool) -> Result<bool> {
    let marked = dirs::exists(dir, SWITCHING)?;
    if !marked || ops_held {
        return Ok(marked);
    }
    // Whoever exchanges layers holds this lock. It is had for a moment only, and only to look again under it.
    match lock::attempt(dir, OPS_LOCK)? {
        Some(_free) => dirs::exists(dir, SWITCHING),
        None => Ok(false),
    }
}

/// Marks the beginning of an exchange of layers under a running shim.
pub(crate) fn begin_switching(dir: BorrowedFd<'_>) -> Result<()> {
    dirs::touch(dir, SWITCHING)
}

/// Marks its end.
pub(crate) fn end_switching(dir: BorrowedFd<'_>) -> Result<()> {
    dirs::unlink(dir, SWITCHING)
}

pub(crate) fn read_state(id: &str, dir: BorrowedFd<'_>) -> Result<VesselState> {
    let bytes = dirs::read_small(dir, STATE, state::MAX_BYTES)?
        .ok_or_else(|| Error::integrity(format!("local state of vessel {id} is missing")))?;
    VesselState::parse(id, &bytes)
}

pub(crate) fn write_state(dir: BorrowedFd<'_>, state: &VesselState) -> Result<()> {
    let durable = match (state.volatile, &state.pending) {
        (true, _) => Durable::Nothing,
        // Without the announcement a crash may leave an archive too many, the vessel on the parent of its snapshot, or a
        // snapshot that was to be deleted: nothing is lost.
        (false, Some(Pending::Seal { .. } | Pending::Delete { .. })) => Durable::Either,
        (false, Some(Pending::Sealed { .. }) | None) => Durable::New,
    };
    dirs::write_atomic(dir, STATE, &state.to_json(), durable)
}

/// Makes good what a crash left and starts a shim. `None`: somebody is changing the vessel, so not now.
async fn start_locked(
    manager: &Arc<ManagerInner>,
    id: &str,
    dir: Arc<OwnedFd>,
    lock: FileLock,
    ops_held: bool,
) -> Result<Option<Opened>> {
    let (name, fd) = (id.to_owned(), Arc::clone(&dir));
    let mut state = blocking(move || read_state(&name, fd.as_fd())).await?;
    let mut manifest = manager.load_manifest(id).await?;
    // Held until the vessel is mounted.
    let mut ops: Option<FileLock> = None;
    if recover::plan(&state, &manifest)?.is_some() && !ops_held {
        let fd = Arc::clone(&dir);
        // Not waited for: its holder may wait for the lock that we hold.
        let Some(free) = blocking(move || lock::attempt(fd.as_fd(), OPS_LOCK)).await? else {
            return Ok(None);
        };
        ops = Some(free);
        let (name, fd) = (id.to_owned(), Arc::clone(&dir));
        state = blocking(move || read_state(&name, fd.as_fd())).await?;
        manifest = manager.load_manifest(id).await?;
    }
    while let Some(plan) = recover::plan(&state, &manifest)? {
        state = carry_out(manager, &dir, plan, &mut manifest).await?;
    }
    manager.provide_base(&manifest, &mut state.image).await?;
    manager.provide_sealed(&manifest, &state.sealed).await?;
    manager.make_room(&state).await?;
    let (manager, id) = (Arc::clone(manager), id.to_owned());
    let opened = blocking(move || {
        tidy(&manager.store, dir.as_fd(), &state)?;
        let holder = start::start(&manager, &id, dir.as_fd(), lock, &mut state)?;
        Ok(Opened { dir, holder, image: state.image.defaults, limits: state.settings.limits })
    })
    .await?;
    drop(ops);
    Ok(Some(opened))
}

/// Does what [`recover::plan`] decided. The state is written last, so that all is done again if it is interrupted.
async fn carry_out(
    manager: &Arc<ManagerInner>,
    dir: &Arc<OwnedFd>,
    plan: Plan,
    manifest: &mut Arc<VesselManifest>,
) -> Result<VesselState> {
    if let Some(snapshot) = &plan.drop_archive {
        manager.forget_snapshot(&manifest.id, snapshot).await?;
    }
    if let Some(current) = plan.current {
        let changed = Arc::make_mut(manifest);
        changed.current_snapshot_id = current;
        changed.update_time = time::OffsetDateTime::now_utc();
        manager.save_manifest(manifest).await?;
    }
    let (manager, dir) = (Arc::clone(manager), Arc::clone(dir));
    blocking(move || {
        let (store, state) = (&manager.store, plan.state);
        if let Some((generation, snapshot)) = &plan.seal {
            store.seal(dir.as_fd(), *generation, snapshot)?;
        }
        if plan.fresh {
            store.discard(dir.as_fd(), &generation_name(state.generation))?;
        }
        write_state(dir.as_fd(), &state)?;
        Ok(state)
    })
    .await
}

impl ManagerInner {
    /// The manifest of a vessel with the snapshots that are only here so far.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub(crate) async fn view(&self, id: &str) -> Result<Arc<VesselManifest>> {
        Ok(self.look(id).await?.0)
    }

    /// [`Self::view`], and the state of its local part, if that can be read.
    pub(crate) async fn look(&self, id: &str) -> Result<(Arc<VesselManifest>, Option<VesselState>)> {
        let manifest = self.load_manifest(id).await?;
        let (store, name) = (Arc::clone(&self.store), id.to_owned());
        blocking(move || {
            let Some(dir) = store.vessel(&name)? else { return Ok((manifest, None)) };
            // Opening the vessel says what is wrong with its state; until then it says nothing.
            let state = read_state(&name, dir.as_fd()).ok();
            let waiting = state.as_ref().filter(|state| !state.packing.is_empty());
            let view = waiting.map(|state| Arc::new(history::merged(&manifest, state)));
            Ok((view.unwrap_or(manifest), state))
        })
        .await
    }

    /// Removes what there is of a snapshot that no manifest mentions.
    pub(crate) async fn forget_snapshot(self: &Arc<Self>, vessel: &str, snapshot: &str) -> Result<()> {
        let failed = |e| Error::storage(format!("failed to delete the archive of snapshot {snapshot}"), e);
        self.storage.delete_snapshot(vessel, snapshot).await.map_err(failed)?;
        let (store, id, name) = (Arc::clone(&self.store), vessel.to_owned(), snapshot.to_owned());
        blocking(move || {
            if store.is_shared(&id)? {
                return store.ask_for_check();
            }
            store.discard(store.layers.as_fd(), &name)
        })
        .await
    }
}

/// The name of a writable layer.
pub(crate) fn generation_name(generation: u64) -> String {
    format!("gen-{generation}")
}

/// Removes what is in a vessel's directory and not of its state, and makes what is of it and not there.
fn tidy(store: &Store, dir: BorrowedFd<'_>, state: &VesselState) -> Result<()> {
    end_switching(dir)?;
    let current = generation_name(state.generation);
    let leftover = |name: &&String| {
        (name.starts_with("gen-") && **name != current) || name.starts_with(&format!(".{STATE}-"))
    };
    for name in dirs::names(dir)?.iter().filter(leftover) {
        store.discard(dir, name)?;
    }
    store.make_generation(dir, state)
}

pub(crate) fn unknown(id: &str) -> Error {
    Error::not_found(format!("vessel not found: {id}")).with_remedy("`vesselrt ls` shows those of this store")
}

pub(super) async fn list(manager: &ManagerInner) -> Result<Vec<VesselManifest>> {
    let ids =
        manager.storage.list_vessels().await.map_err(|e| Error::storage("failed to list the vessels", e))?;
    let mut manifests = Vec::with_capacity(ids.len());
    for id in ids {
        match manager.view(&id).await {
            // Deleted since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => manifests.push(Arc::unwrap_or_clone(other?)),
        }
    }
    manifests.sort_by(|a, b| (a.create_time, &a.id).cmp(&(b.create_time, &b.id)));
    Ok(manifests)
}

/// The directory of a vessel that exists; `None` when its local part is gone.
pub(super) async fn dir_of(manager: &Arc<ManagerInner>, id: &str) -> Result<Option<OwnedFd>> {
    vesselrt_storage::validate_id(id)
        .map_err(|e| Error::invalid(format!("invalid id of a vessel: {id:?}")).with_source(e))?;
    let (own, name) = (Arc::clone(manager), id.to_owned());
    let dir = blocking(move || own.store.vessel(&name)).await?;
    if dir.is_none() {
        let known = manager.storage.load_vessel_manifest(id).await;
        if known.is_err_and(|e| e.kind() == StorageErrorKind::NotFound) {
            return Err(unknown(id));
        }
    }
    Ok(dir)
}

pub(super) async fn status(manager: &Arc<ManagerInner>, id: &str) -> Result<VesselStatus> {
    let stopped = VesselStatus { running: false, commands: 0, kept: false, connections: 0, driver: None };
    let Some(dir) = dir_of(manager, id).await? else { return Ok(stopped) };
    blocking(move || {
        let Some(mut connection) = Connection::open(dir.as_fd())? else { return Ok(stopped) };
        match connection.call(&Request::Hello, &[])?.0 {
            Reply::Hello { running, kept, driver, others, .. } => Ok(VesselStatus {
                running: true,
                commands: running,
                kept,
                connections: others,
                driver: Some(overlay_of(driver)),
            }),
            _ => Err(Error::internal("unexpected reply of the shim: hello")),
        }
    })
    .await
}

pub(super) async fn stop(manager: &Arc<ManagerInner>, id: &str) -> Result<bool> {
    let Some(dir) = dir_of(manager, id).await? else { return Ok(false) };
    blocking(move || stop_gently(dir.as_fd())).await
}

/// [`shut_down`] after its detached processes had some time to end by themselves.
fn stop_gently(dir: BorrowedFd<'_>) -> Result<bool> {
    let Some(mut connection) = Connection::open(dir)? else {
        limits::release_unused(dir)?;
        return Ok(false);
    };
    let failed = |e| Error::io("failed to limit the time of a request", e);
    connection.set_patience(Some(PROCESS_GRACE * 2)).map_err(failed)?;
    let grace_ms = u64::try_from(PROCESS_GRACE.as_millis()).unwrap_or(u64::MAX);
    if connection.call_done(&Request::EndProcesses { grace_ms }, &[]).is_err() {
        // They stand still while they are copied, or the shim is gone.
        drop(connection);
        shut_down(dir, false)?;
        return Ok(true);
    }
    connection.set_patience(None).map_err(failed)?;
    connection.call_done(&Request::Shutdown { destroy: false }, &[])?;
    connection.wait_closed(LEAVE)?;
    limits::release_unused(dir)?;
    Ok(true)
}

/// Ends the shim of a vessel and waits for it; false when there is none.
pub(crate) fn shut_down(dir: BorrowedFd<'_>, destroy: bool) -> Result<bool> {
    let Some(mut connection) = Connection::open(dir)? else {
        limits::release_unused(dir)?;
        return Ok(false);
    };
    connection.call_done(&Request::Shutdown { destroy }, &[])?;
    connection.wait_closed(LEAVE)?;
    limits::release_unused(dir)?;
    Ok(true)
}

pub(super) async fn stop_all(manager: &Arc<ManagerInner>) -> Result<Vec<String>> {
    let own = Arc::clone(manager);
    let mut ids = blocking(move || dirs::names(own.store.vessels.as_fd())).await?;
    ids.sort();
    // At once: each of them may have processes that take their time to end.
    let stopping: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let manager = Arc::clone(manager);
            (id.clone(), tokio::spawn(async move { stop(&manager, &id).await }))
        })
        .collect();
    let (mut stopped, mut failure) = (Vec::new(), None);
    for (id, stop) in stopping {
        let ended = stop.await.map_err(|e| Error::internal("failed to stop a vessel").with_source(e));
        match ended.and_then(|stopped| stopped) {
            Ok(true) => stopped.push(id),
            Ok(false) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => failure = failure.or(Some(e)),
        }
    }
    failure.map_or(Ok(stopped), Err)
}
