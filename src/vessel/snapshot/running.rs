//! The snapshot of a vessel in which commands run: they stand still while the writable layer is copied.
//!
//! The vessel itself goes on as it was, on the snapshot below: the copy is a layer on that one, too, and nothing that runs
//! sees other layers than before.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::Arc;

use vesselrt_runtime::shim::client::CallError;
use vesselrt_runtime::shim::protocol::{Reply, Request};
use vesselrt_storage::manifest::{SnapshotManifest, SnapshotMode};

use super::options::SnapshotOptions;
use super::seal::described;
use super::upkeep::{SnapshotDeletion, delete};
use super::{Turn, VesselInner, save_state};
use crate::error::{Error, Result};
use crate::manager::open::read_state;
use crate::offload::blocking;
use crate::state::Copied;
use crate::store::{dirs, staged::Staged};

/// Where the shim puts what it copies ahead (`files/ahead.rs` of the runtime).
const AHEAD: &str = "ahead";

/// Makes it; when the archive is to be waited for and cannot be stored, there is no snapshot.
pub(super) async fn create(
    vessel: &Arc<VesselInner>,
    options: &SnapshotOptions,
    turn: Turn,
) -> Result<SnapshotManifest> {
    let made = capture(vessel, options, turn).await?;
    if options.sealed {
        vessel.manager.upkeep_later(&vessel.id);
        return Ok(made);
    }
    match vessel.manager.wait_snapshot(&vessel.id, Some(&made.id)).await {
        Ok(stored) => stored
            .into_iter()
            .next()
            .ok_or_else(|| Error::internal("the snapshot is not what was waited for")),
        Err(error) => {
            // What cannot be deleted now is listed, can be restored, and is stored later.
            let _ = delete(vessel, &made.id, SnapshotDeletion::new()).await;
            Err(error)
        }
    }
}

async fn capture(
    vessel: &VesselInner,
    options: &SnapshotOptions,
    mut turn: Turn,
) -> Result<SnapshotManifest> {
    let (staged, mode, pause_us) = copy(vessel, options).await?;
    let (dir, id, store) =
        (Arc::clone(vessel.lease.dir()), vessel.id.clone(), Arc::clone(&vessel.manager.store));
    let mut state = blocking(move || read_state(&id, dir.as_fd())).await?;
    let mut made = described(vessel, options, state.top(), mode);
    made.pause_ms = Some(pause_us.div_ceil(1000));
    let (name, synced) = (made.id.clone(), !state.volatile);
    blocking(move || {
        // What changed after it was copied ahead.
        store.discard(staged.dir(), AHEAD)?;
        if synced {
            dirs::sync_all(staged.dir())?;
        }
        if staged.publish(store.layers.as_fd(), &name)?.is_none() {
            return Err(Error::internal(format!("there is a layer of snapshot {name} already")));
        }
        dirs::sync(store.layers.as_fd())
    })
    .await?;
    vessel.manager.sweep_later();
    state.packing.push(made.clone());
    let before = state.copied.replace(Copied { snapshot: made.id.clone(), generation: state.generation });
    state.levels.extend(options.level.map(|level| (made.id.clone(), level)));
    if let Err(error) = save_state(vessel, &state).await {
        // It may have been written although we were told otherwise: the layer stays, and garbage is collected.
        state.packing.pop();
        state.copied = before;
        let _ = save_state(vessel, &state).await;
        return Err(error);
    }
    Arc::make_mut(&mut turn.manifest).snapshots.push(made.clone());
    vessel.remember(&turn.manifest);
    Ok(made)
}

/// A consistent copy of the writable layer, how it was made, and for how long the commands stood still.
async fn copy(vessel: &VesselInner, options: &SnapshotOptions) -> Result<(Staged, SnapshotMode, u64)> {
    let mut connection = vessel.connect_holding(true).await?;
    let store = Arc::clone(&vessel.manager.store);
    let longest_ms = u64::try_from(options.longest_pause.as_millis()).unwrap_or(u64::MAX);
    let (connection, copied) = blocking(move || {
        let staged = Staged::new(&store)?;
        // What this cannot do is done while the commands stand still.
        match connection.call(&Request::CopyAhead, &[staged.dir()]) {
            Ok(_) | Err(CallError::Fault(_)) => {}
            Err(error) => return Ok((connection, Err(error))),
        }
        let reply = connection.call(&Request::Capture { longest_ms }, &[staged.dir()]);
        let copied = match reply {
            Ok((Reply::Captured { reflinked: true, pause_us }, _)) => {
                Ok((staged, SnapshotMode::Reflinked, pause_us))
            }
            Ok((Reply::Captured { reflinked: false, pause_us }, _)) => {
                Ok((staged, SnapshotMode::Copied, pause_us))
            }
            Ok(_) => Err(CallError::Unexpected("not captured")),
            Err(error) => Err(error),
        };
        Ok((connection, copied))
    })
    .await?;
    if matches!(copied, Ok(_) | Err(CallError::Fault(_))) {
        vessel.lease.give_back(connection);
    }
    Ok(copied?)
}
