//! What clients see of snapshots and changes.
#![forbid(unsafe_code)]

use serde::Serialize;
use utoipa::ToSchema;
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};

use super::super::view::stamp;
use crate::vessel::diff::{Change, ChangeKind, Diff};

/// A snapshot of a ship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Snapshot)]
pub(in crate::serve) struct SnapshotView {
    /// Its id, unique on the ship.
    pub(in crate::serve) id: String,
    /// The snapshot below; null for the image.
    parent_id: Option<String>,
    /// What was said about it.
    message: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// Whether its archive is still being packed.
    packing: bool,
    /// Bytes of its archive before compression; 0 while it is being packed.
    size: u64,
}

impl From<&SnapshotManifest> for SnapshotView {
    fn from(snapshot: &SnapshotManifest) -> Self {
        Self {
            id: snapshot.id.clone(),
            parent_id: Some(snapshot.parent_id.clone()).filter(|parent| !parent.is_empty()),
            message: snapshot.message.clone(),
            created_at: stamp(snapshot.create_time),
            packing: snapshot.checksum.is_empty(),
            size: snapshot.size,
        }
    }
}

/// The snapshots of a ship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Snapshots)]
pub(in crate::serve) struct SnapshotsView {
    #[schema(format = "uuid")]
    ship_id: String,
    /// The snapshot that the ship is based on; null for the image.
    current: Option<String>,
    /// Oldest first.
    pub(in crate::serve) snapshots: Vec<SnapshotView>,
    total: usize,
}

impl SnapshotsView {
    pub(super) fn of(ship: &str, manifest: &VesselManifest) -> Self {
        let snapshots: Vec<SnapshotView> =
            manifest.named_snapshots().iter().map(SnapshotView::from).collect();
        Self {
            ship_id: ship.to_owned(),
            current: Some(manifest.current_snapshot_id.clone()).filter(|id| !id.is_empty()),
            total: snapshots.len(),
            snapshots,
        }
    }
}

/// What one side of a change was or is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ChangedFile)]
pub(in crate::serve) struct FileView {
    /// Permission bits.
    mode: u32,
    uid: u32,
    gid: u32,
    /// Bytes.
    size: u64,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Change)]
pub(in crate::serve) struct ChangeView {
    /// What is not UTF-8 in it is replaced.
    path: String,
    /// `A` new, `M` something else, `D` gone, `R` renamed.
    status: &'static str,
    /// The name before, for what was renamed.
    old_path: Option<String>,
    old: Option<FileView>,
    new: Option<FileView>,
}

impl ChangeView {
    fn of(change: &Change) -> Self {
        let file = |file: &crate::ChangedFile| FileView {
            mode: file.mode,
            uid: file.uid,
            gid: file.gid,
            size: file.size,
        };
        Self {
            path: change.path.to_string_lossy().into_owned(),
            status: match change.kind {
                ChangeKind::Added => "A",
                ChangeKind::Deleted => "D",
                ChangeKind::Renamed => "R",
                _ => "M",
            },
            old_path: change.old_path.as_ref().map(|path| path.to_string_lossy().into_owned()),
            old: change.old.as_ref().map(file),
            new: change.new.as_ref().map(file),
        }
    }
}

/// What differs between two states of a ship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Changes)]
pub(in crate::serve) struct ChangesView {
    #[schema(format = "uuid")]
    ship_id: String,
    /// A snapshot, `@image` or `@now`.
    from: String,
    /// Likewise.
    to: String,
    /// A directory before what is in it.
    changes: Vec<ChangeView>,
    /// How many there are; more than are told, if there are too many.
    total: usize,
}

impl ChangesView {
    pub(super) fn of(ship: &str, diff: &Diff, most: usize) -> Self {
        let side = |side: &Option<String>| match side.as_deref() {
            None => "@now".to_owned(),
            Some("") => "@image".to_owned(),
            Some(id) => id.to_owned(),
        };
        Self {
            ship_id: ship.to_owned(),
            from: side(&diff.from),
            to: side(&diff.to),
            changes: diff.changes.iter().take(most).map(ChangeView::of).collect(),
            total: diff.changes.len(),
        }
    }
}
