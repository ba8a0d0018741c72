//! The snapshots of a vessel as its user sees them: those of the manifest, and those that are only here so far.
//!
//! A snapshot enters the manifest when its archive is stored, parents before children. What the manifest calls current is
//! the nearest stored ancestor of what the vessel is really based on, so that another machine gets what it can restore.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::Arc;

use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};

use crate::state::VesselState;

/// The snapshots of `state` that wait for their archives and can still be stored: not in the manifest yet, each on a
/// parent that is in it or waits too.
pub(crate) fn waiting<'a>(manifest: &VesselManifest, state: &'a VesselState) -> Vec<&'a SnapshotManifest> {
    let mut known: HashSet<&str> = manifest.snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect();
    let mut waiting = Vec::new();
    for snapshot in &state.packing {
        let grounded = snapshot.parent_id.is_empty() || known.contains(snapshot.parent_id.as_str());
        if grounded && !known.contains(snapshot.id.as_str()) {
            known.insert(&snapshot.id);
            waiting.push(snapshot);
        }
    }
    waiting
}

/// Stored and waiting snapshots as one.
pub(crate) fn merged(manifest: &VesselManifest, state: &VesselState) -> VesselManifest {
    let mut merged = manifest.clone();
    merged.snapshots.extend(waiting(manifest, state).into_iter().cloned());
    let top = state.top();
    let is_packing = state.packing.iter().any(|snapshot| snapshot.id == top);
    if is_packing && merged.snapshot(top).is_some() {
        top.clone_into(&mut merged.current_snapshot_id);
    }
    merged
}

/// What of [`merged`] goes into the storage.
pub(crate) fn stored(merged: &Arc<VesselManifest>) -> Arc<VesselManifest> {
    if merged.snapshots.iter().all(SnapshotManifest::is_stored) {
        return Arc::clone(merged);
    }
    let mut stored = VesselManifest::clone(merged);
    stored.current_snapshot_id = stored_ancestor(merged, &merged.current_snapshot_id);
    stored.snapshots.retain(SnapshotManifest::is_stored);
    Arc::new(stored)
}

/// `snapshot` itself or its nearest ancestor that has an archive; empty for the image.
pub(crate) fn stored_ancestor(merged: &VesselManifest, snapshot: &str) -> String {
    let mut at = snapshot;
    // As many steps as there are snapshots: a cycle, which no manifest has, would end too.
    for _ in &merged.snapshots {
        match merged.snapshot(at) {
            Some(waiting) if !waiting.is_stored() => at = &waiting.parent_id,
            _ => break,
        }
    }
    at.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests::{manifest, snapshot, state, waiting as packing};

    #[test]
    fn what_waits_is_listed_after_what_is_stored_and_the_storage_never_hears_of_it() {
        let mut local = state(&["c", "b", "a"]);
        local.packing = vec![packing("b", "a"), packing("c", "b")];
        let mut there = manifest();
        there.snapshots.push(snapshot("a", ""));
        there.current_snapshot_id = "a".into();
        let merged = merged(&there, &local);
        assert_eq!(merged.snapshots.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(merged.current_snapshot_id, "c");
        assert_eq!(*stored(&Arc::new(merged)), there);
    }

    #[test]
    fn what_is_stored_already_or_has_lost_its_parent_does_not_wait() {
        let mut local = state(&["b", "a"]);
        local.packing = vec![packing("a", ""), packing("x", "gone"), packing("y", "x"), packing("b", "a")];
        let mut there = manifest();
        there.snapshots.push(snapshot("a", ""));
        let ids: Vec<&str> = waiting(&there, &local).iter().map(|s| s.id.as_str()).collect();
        assert_eq!(ids, ["b"]);
    }
}
