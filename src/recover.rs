//! What a crash left of a vessel, and how it is made good: decided here, done by [`crate::manager`].
//!
//! Sealing a snapshot S of `gen-N` goes through these steps, and may stop after any of them:
//!
//! 1. state: pending seal of S
//! 2. storage: archive of S
//! 3. storage: manifest with S as current — from here on S exists
//! 4. `gen-N` becomes `layers/S`
//! 5. an empty `gen-N+1`
//! 6. state: S on top, N+1, nothing pending
//!
//! Restoring S:
//!
//! 1. an empty `gen-N+1`
//! 2. state: S on top, N+1 — from here on it is done
//! 3. storage: manifest with S as current
//!
//! Deleting S, which is not current and has no children:
//!
//! 1. state: pending deletion of S
//! 2. storage: manifest without S — from here on it is deleted
//! 3. storage: no archive of S
//! 4. state: nothing pending
//!
//! Sealing S of `gen-N` without waiting for its archive:
//!
//! 1. state: S on top and among those that wait for their archives, N+1, `gen-N` still to be renamed — from here on S exists
//! 2. `gen-N` becomes `layers/S`
//! 3. an empty `gen-N+1`
//!
//! Copying the writable layer of a vessel in which commands run, as S:
//!
//! 1. the copy is `layers/S`
//! 2. state: S among those that wait for their archives — from here on S exists
//!
//! Storing S, which waits for its archive and whose parent is stored:
//!
//! 1. storage: archive of S
//! 2. storage: manifest with S
//! 3. state: S does not wait any more
//!
//! Deleting S that waits begins with a state in which it does not, and goes on as every deletion.
//!
//! The rule of restoring makes good what another store did to a shared manifest: the local writable layer belongs to the snapshot
//! it was made on, and is never put on another one.
#![forbid(unsafe_code)]

use vesselrt_storage::manifest::VesselManifest;

use crate::error::Result;
use crate::history;
use crate::state::{Pending, VesselState};

/// What is to be done before a vessel can be mounted. All of it may be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The state as it must be.
    pub(crate) state: VesselState,
    /// This generation becomes the layer of this snapshot, if it is still there.
    pub(crate) seal: Option<(u64, String)>,
    /// The generation of `state` holds nothing of worth if it is there.
    pub(crate) fresh: bool,
    /// An archive that belongs to no snapshot.
    pub(crate) drop_archive: Option<String>,
    /// What the manifest must say is current.
    pub(crate) current: Option<String>,
}

/// Decides. `None`: nothing was interrupted, or is any more. To be asked again when it was done.
///
/// # Errors
/// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for a manifest whose snapshots form no chain.
pub(crate) fn plan(state: &VesselState, manifest: &VesselManifest) -> Result<Option<Plan>> {
    let mut next = VesselState { pending: None, ..state.clone() };
    let plan = |state, seal, fresh, drop_archive, current| {
        Ok(Some(Plan { state, seal, fresh, drop_archive, current }))
    };
    if let Some(pending) = &state.pending {
        let snapshot = pending.snapshot();
        if let Pending::Sealed { generation, .. } = pending {
            return plan(next, Some((*generation, snapshot.clone())), false, None, None);
        }
        if manifest.snapshot(snapshot).is_none() {
            return plan(next, None, false, Some(snapshot.clone()), None);
        }
        if matches!(pending, Pending::Delete { .. }) {
            return plan(next, None, false, None, None);
        }
        next.sealed.insert(0, snapshot.clone());
        next.generation += 1;
        return plan(next, Some((state.generation, snapshot.clone())), true, None, None);
    }
    next.packing = history::waiting(manifest, state).into_iter().cloned().collect();
    if next.packing != state.packing {
        return plan(next, None, false, None, None);
    }
    let (top, merged) = (state.top(), history::merged(manifest, state));
    if top.is_empty() || merged.snapshot(top).is_some() {
        let current = history::stored_ancestor(&merged, top);
        if manifest.current_snapshot_id == current {
            return Ok(None);
        }
        return plan(next, None, false, None, Some(current));
    }
    // The snapshot below was deleted elsewhere: what lies on it has lost its ground.
    next.sealed = layers(manifest, &manifest.current_snapshot_id)?;
    next.generation += 1;
    plan(next, None, true, None, None)
}

/// The snapshots that make up `snapshot`, topmost first.
///
/// # Errors
/// Those of [`VesselManifest::chain`].
pub(crate) fn layers(manifest: &VesselManifest, snapshot: &str) -> Result<Vec<String>> {
    let chain = manifest.chain(snapshot)?;
    Ok(chain.into_iter().rev().map(|snapshot| snapshot.id.clone()).collect())
}

#[cfg(test)]
pub(crate) mod tests;
