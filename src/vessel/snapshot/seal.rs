//! Sealing without waiting for the archive: the writable layer becomes the layer of the snapshot, on disk, and that is all.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use time::OffsetDateTime;
use vesselrt_runtime::shim::client::{CallError, Connection};
use vesselrt_runtime::shim::protocol::{Reply, Request};
use vesselrt_storage::manifest::{SnapshotManifest, SnapshotMode};

use super::{Still, VesselInner, drop_work_dir_later, running, save_state, still_or_running, turn};
use crate::error::Result;
use crate::manager::open::{self, STATE};
use crate::offload::blocking;
use crate::state::{Pending, VesselState};
use crate::store::dirs::{self, Replacement};

use super::options::SnapshotOptions;

pub(super) async fn create(vessel: &Arc<VesselInner>, options: &SnapshotOptions) -> Result<SnapshotManifest> {
    let mut turn = turn(vessel).await?;
    vessel.manager.make_room(&turn.state).await?;
    let Some(still) = still_or_running(vessel).await? else {
        return running::create(vessel, options, turn).await;
    };
    let made = described(vessel, options, still.state.top(), SnapshotMode::Sealed);
    let still = announce(vessel, still, &made, options.level).await?;
    let manifest = Arc::make_mut(&mut turn.manifest);
    manifest.snapshots.push(made.clone());
    made.id.clone_into(&mut manifest.current_snapshot_id);
    vessel.remember(&turn.manifest);
    if exchange(vessel, still).await.is_err() {
        // The snapshot exists. What is left to do is what is done after a crash: now, or by the next operation.
        let _ = vessel.reopen(true).await;
    }
    drop_work_dir_later(vessel, made.id.clone());
    vessel.manager.upkeep_later(&vessel.id);
    Ok(made)
}

/// A new snapshot that waits for its archive.
pub(super) fn described(
    vessel: &VesselInner,
    options: &SnapshotOptions,
    parent: &str,
    mode: SnapshotMode,
) -> SnapshotManifest {
    SnapshotManifest {
        id: vessel.manager.config.id_generator.new_id(),
        vessel_id: vessel.id.clone(),
        parent_id: parent.to_owned(),
        message: options.message.clone(),
        checksum: String::new(),
        size: 0,
        create_time: OffsetDateTime::now_utc(),
        labels: options.labels.clone(),
        mode: Some(mode),
        pause_ms: None,
    }
}

/// Content and state on disk: from then on the snapshot exists.
async fn announce(
    vessel: &VesselInner,
    mut still: Still,
    made: &SnapshotManifest,
    level: Option<i32>,
) -> Result<Still> {
    let before = still.state.clone();
    let (snapshot, generation) = (made.id.clone(), before.generation);
    still.state.packing.push(made.clone());
    still.state.levels.extend(level.map(|level| (snapshot.clone(), level)));
    still.state.sealed.insert(0, snapshot.clone());
    still.state.generation += 1;
    still.state.pending = Some(Pending::Sealed { snapshot, generation });
    let (dir, state) = (Arc::clone(vessel.lease.dir()), still.state.clone());
    if let Err(error) = before.check_room(vessel.manager.store.stack(&before).len()) {
        let _ = still.resume(vessel).await;
        return Err(error);
    }
    let mut connection = still.connection;
    let (connection, announced) = blocking(move || {
        let announced = write_synced(dir.as_fd(), &state, &mut connection);
        Ok((connection, announced))
    })
    .await?;
    let still = Still { connection, state: still.state };
    let Err(error) = announced else { return Ok(still) };
    // It may have been written although we were told otherwise.
    if save_state(vessel, &before).await.is_ok() {
        let _ = still.resume(vessel).await;
    } else {
        // The next opening of the vessel reads which of the two is there. Nobody may go on before.
        drop(still);
        let dir = Arc::clone(vessel.lease.dir());
        vessel.lease.abandon();
        let _ = blocking(move || open::shut_down(dir.as_fd(), false)).await;
    }
    Err(error)
}

/// Everything is synced at once, and then the new state takes its place: the cost is what is not on disk yet. The shim takes
/// the mount away meanwhile. The kernel syncs then, too, but does not say how it went.
fn write_synced(dir: BorrowedFd<'_>, state: &VesselState, connection: &mut Connection) -> Result<()> {
    let replacement = Replacement::write(dir, STATE, &state.to_json(), false)?;
    connection.send(&Request::Detach, &[])?;
    let synced = if state.volatile { Ok(()) } else { dirs::sync_all(dir) };
    match connection.receive() {
        // fuse-overlayfs cannot be unmounted here.
        Ok((Reply::Done, _)) | Err(CallError::Fault(_)) => {}
        Ok(_) => return Err(CallError::Unexpected("not done").into()),
        Err(error) => return Err(error.into()),
    }
    synced?;
    replacement.put(!state.volatile)
}

/// The layer gets its name, and an empty one is mounted above it. Nothing of it is synced: what a crash takes back is
/// done again.
async fn exchange(vessel: &VesselInner, still: Still) -> Result<()> {
    let (manager, dir, state) =
        (Arc::clone(&vessel.manager), Arc::clone(vessel.lease.dir()), still.state.clone());
    blocking(move || {
        if let Some(Pending::Sealed { snapshot, generation }) = &state.pending {
            manager.store.name_sealed(dir.as_fd(), *generation, snapshot)?;
        }
        manager.store.lay_generation(dir.as_fd(), &state).map(drop)
    })
    .await?;
    still.remount(vessel).await
}
