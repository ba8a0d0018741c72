//! Snapshots: sealing, restoring and deleting them. [`crate::recover`] lists the steps, and what is done when they are
//! interrupted.
#![forbid(unsafe_code)]

pub(crate) mod archive;
pub(crate) mod frozen;
pub(crate) mod options;
mod running;
mod seal;
pub(crate) mod upkeep;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use time::OffsetDateTime;
use vesselrt_runtime::shim::client::{CallError, Connection};
use vesselrt_runtime::shim::protocol::{Driver, Packed, Reply, Request};
use vesselrt_storage::manifest::{SnapshotManifest, SnapshotMode, VesselManifest};

pub(crate) use self::archive::{Whole, stream_archive};
use self::options::SnapshotOptions;
use super::VesselInner;
use crate::error::{Error, ErrorKind, Result};
use crate::history;
use crate::manager::open::{self, OPS_LOCK, generation_name, read_state, write_state};
use crate::merge;
use crate::offload::blocking;
use crate::recover;
use crate::state::{Pending, VesselState};
use crate::store::dirs;
use crate::store::lock::{self, FileLock};

/// The right to change a vessel's snapshots, with all of them as they are now.
struct Turn {
    manifest: Arc<VesselManifest>,
    /// As it was when the turn began.
    state: VesselState,
    _lock: FileLock,
}

/// Saves what of a turn's manifest belongs into the storage.
async fn save(vessel: &VesselInner, manifest: &Arc<VesselManifest>) -> Result<()> {
    vessel.manager.save_manifest(&history::stored(manifest)).await
}

async fn turn(vessel: &VesselInner) -> Result<Turn> {
    let timeout = vessel.manager.config.lock_timeout;
    let lock = lock::within(vessel.lease.dir(), OPS_LOCK, timeout).await?.ok_or_else(|| {
        Error::conflict(format!("another operation changes the snapshots of vessel {}", vessel.id))
    })?;
    let (manifest, state) = vessel.look().await?;
    let mut state = match state {
        Some(state) => state,
        // Why it cannot be read.
        None => read_state_of(vessel).await?,
    };
    finish_deletion(vessel, &manifest, &mut state).await?;
    Ok(Turn { manifest, state, _lock: lock })
}

/// Does the rest of a deletion whose process is gone, while the shim stayed.
async fn finish_deletion(
    vessel: &VesselInner,
    manifest: &VesselManifest,
    state: &mut VesselState,
) -> Result<()> {
    let Some(Pending::Delete { snapshot }) = state.pending.take() else { return Ok(()) };
    if manifest.snapshot(&snapshot).is_none() {
        vessel.manager.forget_snapshot(&vessel.id, &snapshot).await?;
    }
    save_state(vessel, state).await
}

async fn read_state_of(vessel: &VesselInner) -> Result<VesselState> {
    let (dir, id) = (Arc::clone(vessel.lease.dir()), vessel.id.clone());
    blocking(move || read_state(&id, dir.as_fd())).await
}

fn missing(snapshot: &str) -> Error {
    Error::not_found(format!("snapshot not found: {snapshot}"))
}

/// A vessel that is still: its writable layer cannot change. Dropped, it goes on.
struct Still {
    connection: Connection,
    state: VesselState,
}

/// Makes the vessel still. Marked, so that whoever comes after our death does not go on with layers that the state no
/// longer says.
async fn quiesce(vessel: &VesselInner) -> Result<Still> {
    let (dir, id) = (Arc::clone(vessel.lease.dir()), vessel.id.clone());
    if open::is_interrupted(dir.as_fd(), true)? {
        vessel.reopen(true).await?;
    }
    let mut connection = vessel.connect_holding(true).await?;
    blocking(move || {
        let state = read_state(&id, dir.as_fd())?;
        connection.call_done(&Request::Quiesce, &[])?;
        open::begin_switching(dir.as_fd())?;
        Ok(Still { connection, state })
    })
    .await
}

impl Still {
    /// Lets the vessel go on as it was.
    async fn resume(mut self, vessel: &VesselInner) -> Result<()> {
        let dir = Arc::clone(vessel.lease.dir());
        let connection = blocking(move || {
            open::end_switching(dir.as_fd())?;
            self.connection.call_done(&Request::Resume, &[])?;
            Ok(self.connection)
        })
        .await?;
        vessel.lease.give_back(connection);
        Ok(())
    }

    /// Mounts the layers of the state in place of the present ones; by a new shim if this one cannot.
    async fn remount(mut self, vessel: &VesselInner) -> Result<()> {
        let dir = Arc::clone(vessel.lease.dir());
        let stack = vessel.manager.store.stack(&self.state);
        let spec = self.state.mount_spec(self.state.driver.unwrap_or(Driver::Kernel), stack);
        let mounted = blocking(move || {
            if let Ok((Reply::Done, before)) = self.connection.call(&Request::Remount(spec), &[]) {
                open::end_switching(dir.as_fd())?;
                if !before.is_empty() {
                    // What was written to the layers before may take a while to get to the disk.
                    std::thread::Builder::new()
                        .name("vesselrt-closer".into())
                        .spawn(move || drop(before))
                        .ok();
                }
                return Ok((Some(self.connection), false));
            }
            let kept = is_kept(&mut self.connection).unwrap_or(false);
            drop(self.connection);
            open::shut_down(dir.as_fd(), false)?;
            Ok((None, kept))
        })
        .await;
        match mounted {
            Ok((Some(connection), _)) => {
                vessel.lease.give_back(connection);
                Ok(())
            }
            Ok((None, kept)) => {
                vessel.reopen(true).await?;
                if kept { vessel.keep(true).await } else { Ok(()) }
            }
            // The shim died meanwhile: the next one mounts what the state says.
            Err(_) => vessel.reopen(true).await,
        }
    }
}

fn is_kept(connection: &mut Connection) -> Result<bool, CallError> {
    match connection.call(&Request::Hello, &[])?.0 {
        Reply::Hello { kept, .. } => Ok(kept),
        _ => Err(CallError::Unexpected("hello")),
    }
}

pub(super) async fn create(vessel: &Arc<VesselInner>, options: SnapshotOptions) -> Result<SnapshotManifest> {
    upkeep::check_labels(&options.labels)?;
    if let Some(level) = options.level {
        vesselrt_storage::compressed::check_level(level).map_err(|e| {
            Error::invalid(format!("cannot compress a snapshot at level {level}")).with_source(e)
        })?;
    }
    if options.sealed {
        return seal::create(vessel, &options).await;
    }
    let mut turn = settled_turn(vessel).await?;
    vessel.manager.make_room(&turn.state).await?;
    let snapshot = vessel.manager.config.id_generator.new_id();
    let mut still = match still_or_running(vessel).await? {
        Some(still) => still,
        None => return running::create(vessel, &options, turn).await,
    };
    let made = match seal(vessel, &mut still, &mut turn.manifest, &snapshot, options).await {
        Ok(made) => made,
        Err(error) => return Err(give_up(vessel, still, &snapshot, error).await),
    };
    vessel.remember(&turn.manifest);
    let may_merge = merge::may_be_due(still.state.sealed.len() + 1);
    let switched = switch_to_sealed(vessel, still, &snapshot).await;
    if switched.is_err() {
        // The snapshot exists. What is left to do is what is done after a crash: now, or by the next operation.
        let _ = vessel.reopen(true).await;
    }
    drop_work_dir_later(vessel, snapshot);
    if may_merge {
        vessel.manager.upkeep_later(&vessel.id);
    }
    Ok(made)
}

/// Makes the vessel still; `None` when commands run in it.
async fn still_or_running(vessel: &VesselInner) -> Result<Option<Still>> {
    match quiesce(vessel).await {
        Ok(still) => Ok(Some(still)),
        Err(error) if error.kind() == ErrorKind::Conflict && runs_commands(vessel).await? => Ok(None),
        Err(error) => Err(error),
    }
}

async fn runs_commands(vessel: &VesselInner) -> Result<bool> {
    let hello = |connection: &mut Connection| connection.call(&Request::Hello, &[]);
    match vessel.connect_holding(true).await {
        Err(error) => Err(error),
        Ok(mut connection) => {
            let (connection, reply) = blocking(move || {
                let reply = hello(&mut connection)?.0;
                Ok((connection, reply))
            })
            .await?;
            vessel.lease.give_back(connection);
            Ok(matches!(reply, Reply::Hello { running, .. } if running > 0))
        }
    }
}

/// The turn when no snapshot waits for its archive: parents are stored before their children.
async fn settled_turn(vessel: &VesselInner) -> Result<Turn> {
    loop {
        let turn = turn(vessel).await?;
        if turn.manifest.snapshots.iter().all(SnapshotManifest::is_stored) {
            return Ok(turn);
        }
        if open::is_interrupted(vessel.lease.dir().as_fd(), true)? {
            vessel.reopen(true).await?;
        }
        drop(turn);
        vessel.manager.settle(&vessel.id).await?;
    }
}

/// It only takes room.
fn drop_work_dir_later(vessel: &VesselInner, snapshot: String) {
    let store = Arc::clone(&vessel.manager.store);
    tokio::task::spawn_blocking(move || store.drop_work_dir(&snapshot));
}

/// Up to the point from which the snapshot exists.
async fn seal(
    vessel: &VesselInner,
    still: &mut Still,
    manifest: &mut Arc<VesselManifest>,
    snapshot: &str,
    options: SnapshotOptions,
) -> Result<SnapshotManifest> {
    still.state.check_room(vessel.manager.store.stack(&still.state).len())?;
    settle_names(vessel, &still.state).await?;
    still.state.pending = Some(Pending::Seal { snapshot: snapshot.to_owned() });
    save_state(vessel, &still.state).await?;
    let packed = archive(vessel, &still.connection, snapshot, options.level).await?;
    let now = OffsetDateTime::now_utc();
    let made = SnapshotManifest {
        id: snapshot.to_owned(),
        vessel_id: vessel.id.clone(),
        parent_id: still.state.top().to_owned(),
        message: options.message,
        checksum: format!("sha256:{}", packed.sha256),
        size: packed.size,
        create_time: now,
        labels: options.labels,
        mode: Some(SnapshotMode::Packed),
        pause_ms: None,
    };
    let changed = Arc::make_mut(manifest);
    changed.snapshots.push(made.clone());
    snapshot.clone_into(&mut changed.current_snapshot_id);
    changed.update_time = now;
    if let Err(error) = save(vessel, manifest).await {
        // It may have been saved although we were told otherwise.
        let there = vessel.manager.load_manifest(&vessel.id).await?;
        if there.snapshot(snapshot).is_none() {
            return Err(error);
        }
    }
    Ok(made)
}

/// Streams the writable layer into the storage.
async fn archive(
    vessel: &VesselInner,
    connection: &Connection,
    snapshot: &str,
    level: Option<i32>,
) -> Result<Packed> {
    let mut connection =
        connection.try_clone().map_err(|e| Error::io("failed to duplicate a descriptor", e))?;
    stream_archive(&vessel.manager, &vessel.id, snapshot, level, move |theirs| {
        connection.send(&Request::PackUpper, &[theirs.as_fd()])?;
        // Ours too must be closed for the reader to see the end.
        drop(theirs);
        match connection.receive()?.0 {
            Reply::Packed(packed) => Ok(packed),
            _ => Err(CallError::Unexpected("not packed").into()),
        }
    })
    .await
}

/// Undoes a snapshot that does not exist yet, and lets the vessel go on.
async fn give_up(vessel: &VesselInner, still: Still, snapshot: &str, error: Error) -> Error {
    if undo(vessel, still, snapshot).await.is_ok() {
        return error;
    }
    // It cannot be undone now, so it is left to the next opening of the vessel. Stop, lest anyone goes on before. The
    // vessel is no longer held still by us: a shim would let the order to stop wait for that.
    let dir = Arc::clone(vessel.lease.dir());
    vessel.lease.abandon();
    let _ = blocking(move || open::shut_down(dir.as_fd(), false)).await;
    error
}

/// Takes the vessel with it: whatever comes of it, its connection is closed or given back.
async fn undo(vessel: &VesselInner, mut still: Still, snapshot: &str) -> Result<()> {
    if vessel.manager.load_manifest(&vessel.id).await?.snapshot(snapshot).is_some() {
        return Err(Error::internal("the snapshot exists"));
    }
    let deleted = vessel.manager.storage.delete_snapshot(&vessel.id, snapshot).await;
    deleted.map_err(|e| Error::storage(format!("failed to delete the archive of snapshot {snapshot}"), e))?;
    still.state.pending = None;
    save_state(vessel, &still.state).await?;
    still.resume(vessel).await
}

/// The sealed layer takes its place, and an empty one is mounted above it.
async fn switch_to_sealed(vessel: &VesselInner, mut still: Still, snapshot: &str) -> Result<()> {
    let (manager, dir, name) =
        (Arc::clone(&vessel.manager), Arc::clone(vessel.lease.dir()), snapshot.to_owned());
    let sealed = still.state.generation;
    still.state.pending = None;
    still.state.sealed.insert(0, snapshot.to_owned());
    still.state.generation += 1;
    let state = still.state.clone();
    blocking(move || {
        manager.store.seal(dir.as_fd(), sealed, &name)?;
        manager.store.make_generation(dir.as_fd(), &state)?;
        write_state(dir.as_fd(), &state)
    })
    .await?;
    still.remount(vessel).await
}

/// The next state does not say any more that a sealed layer may have to be renamed.
async fn settle_names(vessel: &VesselInner, before: &VesselState) -> Result<()> {
    if !matches!(before.pending, Some(Pending::Sealed { .. })) {
        return Ok(());
    }
    let store = Arc::clone(&vessel.manager.store);
    blocking(move || dirs::sync(store.layers.as_fd())).await
}

async fn save_state(vessel: &VesselInner, state: &VesselState) -> Result<()> {
    let (dir, state) = (Arc::clone(vessel.lease.dir()), state.clone());
    blocking(move || write_state(dir.as_fd(), &state)).await
}

pub(super) async fn restore(vessel: &Arc<VesselInner>, snapshot: &str) -> Result<()> {
    let mut turn = turn(vessel).await?;
    if turn.manifest.named(snapshot).is_none() {
        return Err(missing(snapshot));
    }
    restore_to(vessel, &mut turn, snapshot).await
}

async fn restore_to(vessel: &VesselInner, turn: &mut Turn, snapshot: &str) -> Result<()> {
    let Turn { manifest, state, .. } = turn;
    if manifest.snapshot(snapshot).is_none() {
        return Err(missing(snapshot));
    }
    let sealed = recover::layers(manifest, snapshot)?;
    // A vessel whose shim is gone is opened again below, with all of its layers.
    vessel.manager.provide_beside(&state.sealed, manifest, &sealed).await?;
    state.sealed = sealed;
    vessel.manager.make_room(state).await?;
    let mut still = quiesce(vessel).await?;
    let before = still.state.clone();
    still.state.sealed.clone_from(&state.sealed);
    still.state.generation += 1;
    still.state.pending = None;
    if let Err(error) = settle_names(vessel, &before).await {
        let _ = still.resume(vessel).await;
        return Err(error);
    }
    if let Err(error) = begin_restored(vessel, &still.state, manifest).await {
        // When even this fails, the next opening of the vessel decides.
        if save_state(vessel, &before).await.is_ok() {
            let _ = still.resume(vessel).await;
        }
        return Err(error);
    }
    vessel.remember(manifest);
    // It is done. A shim that does not follow is replaced by the next operation.
    let _ = still.remount(vessel).await;
    let (manager, dir) = (Arc::clone(&vessel.manager), Arc::clone(vessel.lease.dir()));
    // It is not seen any more, and goes with the next opening if it cannot go now.
    let _ = blocking(move || manager.store.discard(dir.as_fd(), &generation_name(before.generation))).await;
    vessel.manager.sweep_later();
    Ok(())
}

/// An empty layer above the snapshot, then state and manifest. After an error the caller writes the state back.
async fn begin_restored(
    vessel: &VesselInner,
    after: &VesselState,
    manifest: &mut Arc<VesselManifest>,
) -> Result<()> {
    let (manager, dir, state) = (Arc::clone(&vessel.manager), Arc::clone(vessel.lease.dir()), after.clone());
    blocking(move || {
        // What an earlier attempt left.
        manager.store.discard(dir.as_fd(), &generation_name(state.generation))?;
        manager.store.lay_generation(dir.as_fd(), &state)?;
        write_state(dir.as_fd(), &state)
    })
    .await?;
    let was = history::stored_ancestor(manifest, &manifest.current_snapshot_id);
    if manifest.current_snapshot_id != after.top() {
        after.top().clone_into(&mut Arc::make_mut(manifest).current_snapshot_id);
    }
    let current = history::stored_ancestor(manifest, after.top());
    if was == current {
        return Ok(());
    }
    Arc::make_mut(manifest).update_time = OffsetDateTime::now_utc();
    if let Err(error) = save(vessel, manifest).await {
        // It may have been saved although we were told otherwise.
        let there = vessel.manager.load_manifest(&vessel.id).await;
        if !there.is_ok_and(|there| there.current_snapshot_id == current) {
            return Err(error);
        }
    }
    Ok(())
}

pub(super) async fn set_labels(vessel: &Arc<VesselInner>, labels: BTreeMap<String, String>) -> Result<()> {
    let mut turn = turn(vessel).await?;
    let manifest = Arc::make_mut(&mut turn.manifest);
    manifest.labels = labels;
    manifest.update_time = OffsetDateTime::now_utc();
    save(vessel, &turn.manifest).await?;
    vessel.remember(&turn.manifest);
    Ok(())
}

#[cfg(test)]
mod tests;
