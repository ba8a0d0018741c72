//! Snapshots that go, lose their name, or get labels.
//!
//! Whatever goes, goes in one step: the manifest is saved without it. What a crash leaves after that, archives and layers that
//! no manifest mentions, the garbage collection finds. A snapshot that others lie on can lose its name only: its layer and its
//! archive stay, as theirs need it, and go with the last of them.
#![forbid(unsafe_code)]

mod choice;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};

use super::{Turn, missing, read_state, restore_to, save, save_state, settle_names, turn};
use crate::error::{Error, Result};
use crate::history;
use crate::offload::{blocking, detached};
use crate::state::{Pending, VesselState};
use crate::vessel::{Vessel, VesselInner};
use choice::Choice;

/// What the names of labels begin with that vesselrt sets itself.
const RESERVED: &str = "vesselrt.";

/// How a snapshot is deleted that others are based on. The setters return the changed value, to be chained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotDeletion {
    /// Those that are based on it go too.
    pub recursive: bool,
    /// It loses its name, and those that are based on it keep its data.
    pub squash: bool,
    /// When the vessel lies on one that goes, it goes back to the snapshot below.
    pub force: bool,
}

impl SnapshotDeletion {
    /// Of one that nothing is based on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether those that are based on it go too.
    #[must_use]
    pub fn recursive(mut self, recursive: bool) -> Self {
        self.recursive = recursive;
        self
    }

    /// Sets whether it loses its name only, if others are based on it.
    #[must_use]
    pub fn squash(mut self, squash: bool) -> Self {
        self.squash = squash;
        self
    }

    /// Sets whether the vessel may be taken back from a snapshot that goes with others.
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}

/// Which snapshots are pruned: those to which all that is set applies. The setters return the changed value, to be
/// chained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotPruning {
    /// Not the newest so many.
    pub keep_last: Option<usize>,
    /// Those that were made before so long.
    pub older_than: Option<Duration>,
    /// Those that others are based on that stay lose their names; otherwise they stay as they are.
    pub squash: bool,
    /// Nothing is done, only told.
    pub dry_run: bool,
}

impl SnapshotPruning {
    /// Nothing is set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the newest so many.
    #[must_use]
    pub fn keep_last(mut self, count: usize) -> Self {
        self.keep_last = Some(count);
        self
    }

    /// Keeps those that were made within this time.
    #[must_use]
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Sets whether those that others are based on lose their names.
    #[must_use]
    pub fn squash(mut self, squash: bool) -> Self {
        self.squash = squash;
        self
    }

    /// Sets whether it is only told what would be done.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What became of snapshots, by their ids in the order of their creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotsDeleted {
    /// They are gone.
    pub deleted: Vec<String>,
    /// They have lost their names, and their data is kept for those that are based on them.
    pub squashed: Vec<String>,
}

impl Vessel {
    /// Deletes a snapshot, with what is based on it or without. Deleting the current one, if nothing is based on it, goes
    /// back to the one below first.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "snapshot not found: …"; [`Conflict`](crate::ErrorKind::Conflict) when others are
    /// based on it and nothing is said about them, or the vessel lies on what would go.
    pub async fn delete_snapshot_with(
        &self,
        snapshot: &str,
        deletion: SnapshotDeletion,
    ) -> Result<SnapshotsDeleted> {
        let (inner, snapshot) = (Arc::clone(&self.inner), snapshot.to_owned());
        detached(async move { delete(&inner, &snapshot, deletion).await }).await
    }

    /// Deletes old snapshots. Never the one that the vessel lies on, nor, unless they are squashed, those that others are
    /// based on that stay.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) when nothing says which; those of the storage.
    pub async fn prune_snapshots(&self, pruning: SnapshotPruning) -> Result<SnapshotsDeleted> {
        let inner = Arc::clone(&self.inner);
        detached(async move { prune(&inner, pruning).await }).await
    }

    /// Replaces the labels of a snapshot, but for those that begin with `vesselrt.`, which stay.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "snapshot not found: …";
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for labels that begin with `vesselrt.`, or are empty.
    pub async fn set_snapshot_labels(
        &self,
        snapshot: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<SnapshotManifest> {
        let (inner, snapshot) = (Arc::clone(&self.inner), snapshot.to_owned());
        detached(async move { set_labels(&inner, &snapshot, labels).await }).await
    }
}

pub(in crate::vessel) async fn delete(
    vessel: &Arc<VesselInner>,
    snapshot: &str,
    how: SnapshotDeletion,
) -> Result<SnapshotsDeleted> {
    let mut turn = turn(vessel).await?;
    let manifest = Arc::clone(&turn.manifest);
    if manifest.named(snapshot).is_none() {
        return Err(missing(snapshot));
    }
    let current = manifest.current_snapshot_id.clone();
    let parent = manifest.named_parent(snapshot).to_owned();
    let choice = if manifest.children(snapshot).next().is_none() {
        if current == snapshot {
            if parent.is_empty() {
                return Err(Error::conflict("cannot delete the only snapshot"));
            }
            restore_to(vessel, &mut turn, &parent).await?;
        }
        Choice::of(&[snapshot])
    } else if how.squash {
        if current == snapshot {
            let message = format!("cannot squash the snapshot that the vessel lies on: {snapshot}");
            return Err(Error::conflict(message).with_remedy("make a new snapshot, or restore another"));
        }
        Choice::squash(snapshot)
    } else if how.recursive {
        let choice = Choice::tree(&manifest, snapshot);
        if choice.gone.contains(&current) {
            leave(vessel, &mut turn, snapshot, &parent, how.force).await?;
        }
        choice
    } else {
        let message = format!("cannot delete snapshot with children: {snapshot}");
        return Err(Error::conflict(message)
            .with_remedy("delete those too (--recursive), or keep its data for them (--squash)"));
    };
    drop(manifest);
    carry_out(vessel, &mut turn.manifest, choice).await
}

/// Takes the vessel away from snapshots that are going to be deleted.
async fn leave(
    vessel: &Arc<VesselInner>,
    turn: &mut Turn,
    snapshot: &str,
    parent: &str,
    force: bool,
) -> Result<()> {
    let current = &turn.manifest.current_snapshot_id;
    if parent.is_empty() {
        let message = format!("cannot delete all snapshots that the vessel lies on: {current}");
        return Err(Error::conflict(message).with_remedy("restore another snapshot first"));
    }
    if !force {
        let message = format!("the vessel lies on snapshot {current}, which is based on {snapshot}");
        let remedy = format!(
            "restore another first, or go back to {parent} and lose what was written since (--force)"
        );
        return Err(Error::conflict(message).with_remedy(remedy));
    }
    restore_to(vessel, turn, parent).await
}

async fn prune(vessel: &Arc<VesselInner>, how: SnapshotPruning) -> Result<SnapshotsDeleted> {
    if how.keep_last.is_none() && how.older_than.is_none() {
        let message = "nothing says which snapshots to prune";
        return Err(Error::invalid(message).with_remedy("--keep-last N, --older-than AGE, or both"));
    }
    if how.dry_run {
        let manifest = vessel.reload().await?;
        return Ok(Choice::prune(&manifest, &how, OffsetDateTime::now_utc()).told());
    }
    let mut turn = turn(vessel).await?;
    let choice = Choice::prune(&turn.manifest, &how, OffsetDateTime::now_utc());
    if choice.is_empty() {
        return Ok(SnapshotsDeleted::default());
    }
    carry_out(vessel, &mut turn.manifest, choice).await
}

/// The manifest first: from then on they are gone.
async fn carry_out(
    vessel: &Arc<VesselInner>,
    manifest: &mut Arc<VesselManifest>,
    choice: Choice,
) -> Result<SnapshotsDeleted> {
    let told = choice.told();
    let changed = Arc::make_mut(manifest);
    let gone = choice.apply(changed);
    changed.update_time = OffsetDateTime::now_utc();
    announce(vessel, &gone).await?;
    if let Err(error) = save(vessel, manifest).await {
        // It may have been saved although we were told otherwise.
        let there = vessel.manager.load_manifest(&vessel.id).await?;
        if there != history::stored(manifest) {
            return Err(error);
        }
    }
    vessel.remember(manifest);
    for snapshot in &gone {
        vessel.manager.forget_snapshot(&vessel.id, snapshot).await?;
    }
    change_state(vessel, |state| {
        if gone.len() == 1 {
            state.pending = None;
        }
        label_waiting(state, manifest);
    })
    .await?;
    vessel.manager.sweep_later();
    Ok(told)
}

/// Snapshots that wait for their archives are in no stored manifest: what was said about them is kept in the state.
fn label_waiting(state: &mut VesselState, manifest: &VesselManifest) {
    for waiting in &mut state.packing {
        if let Some(changed) = manifest.snapshot(&waiting.id) {
            waiting.labels.clone_from(&changed.labels);
        }
    }
}

/// A single one is written down first, so that the next opening of the vessel does the rest if we are killed. Of many the
/// garbage collection does. Those that wait for their archives do not wait any more.
async fn announce(vessel: &Arc<VesselInner>, gone: &[String]) -> Result<()> {
    change_state(vessel, |state| {
        state.packing.retain(|waiting| !gone.contains(&waiting.id));
        if let [snapshot] = gone {
            state.pending = Some(Pending::Delete { snapshot: snapshot.clone() });
        }
    })
    .await
}

async fn change_state(vessel: &Arc<VesselInner>, change: impl FnOnce(&mut VesselState)) -> Result<()> {
    let (dir, id) = (Arc::clone(vessel.lease.dir()), vessel.id.clone());
    let before = blocking(move || read_state(&id, dir.as_fd())).await?;
    let mut state = before.clone();
    change(&mut state);
    if state == before {
        return Ok(());
    }
    settle_names(vessel, &before).await?;
    save_state(vessel, &state).await
}

/// Whether a user may set them.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    match labels.keys().find(|key| key.is_empty() || key.starts_with(RESERVED)) {
        Some(key) => Err(Error::invalid(format!("not a label for a snapshot: {key:?}"))),
        None => Ok(()),
    }
}

async fn set_labels(
    vessel: &Arc<VesselInner>,
    snapshot: &str,
    labels: BTreeMap<String, String>,
) -> Result<SnapshotManifest> {
    check_labels(&labels)?;
    let mut turn = turn(vessel).await?;
    if turn.manifest.named(snapshot).is_none() {
        return Err(missing(snapshot));
    }
    let manifest = Arc::make_mut(&mut turn.manifest);
    let found = manifest.snapshots.iter_mut().find(|other| other.id == snapshot);
    let found = found.ok_or_else(|| missing(snapshot))?;
    found.labels.retain(|key, _| key.starts_with(RESERVED));
    found.labels.extend(labels);
    let changed = found.clone();
    manifest.update_time = OffsetDateTime::now_utc();
    change_state(vessel, |state| {
        state.packing.iter_mut().filter(|waiting| waiting.id == changed.id).for_each(|waiting| {
            waiting.labels.clone_from(&changed.labels);
        });
    })
    .await?;
    save(vessel, &turn.manifest).await?;
    vessel.remember(&turn.manifest);
    Ok(changed)
}
