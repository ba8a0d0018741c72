//! [`Choice`]: which snapshots go and which lose their names. Pure.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use time::OffsetDateTime;
use vesselrt_storage::manifest::{SnapshotManifest, UNNAMED, VesselManifest};

use super::{SnapshotPruning, SnapshotsDeleted};

/// What is to become of snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// They go. Nothing that stays is based on them.
    pub(super) gone: Vec<String>,
    /// They lose their names.
    squashed: Vec<String>,
    /// Of those that go, the ones that had lost their names before: nobody is told of them.
    silent: HashSet<String>,
}

impl Choice {
    /// These go.
    pub(super) fn of(gone: &[&str]) -> Self {
        Self { gone: gone.iter().map(|&id| id.to_owned()).collect(), ..Self::default() }
    }

    /// This one loses its name.
    pub(super) fn squash(id: &str) -> Self {
        Self { squashed: vec![id.to_owned()], ..Self::default() }
    }

    /// A snapshot and all that is based on it, in order of creation.
    pub(super) fn tree(manifest: &VesselManifest, root: &str) -> Self {
        let mut children: HashMap<&str, Vec<&SnapshotManifest>> = HashMap::new();
        for snapshot in &manifest.snapshots {
            children.entry(&snapshot.parent_id).or_default().push(snapshot);
        }
        let mut tree: HashSet<&str> = HashSet::from([root]);
        let mut next = vec![root];
        while let Some(id) = next.pop() {
            for child in children.get(id).into_iter().flatten() {
                if tree.insert(&child.id) {
                    next.push(&child.id);
                }
            }
        }
        let within = manifest.snapshots.iter().filter(|snapshot| tree.contains(snapshot.id.as_str()));
        let mut choice = Self::default();
        for snapshot in within {
            choice.gone.push(snapshot.id.clone());
            if !snapshot.is_named() {
                choice.silent.insert(snapshot.id.clone());
            }
        }
        choice
    }

    /// What a pruning does.
    pub(super) fn prune(manifest: &VesselManifest, how: &SnapshotPruning, now: OffsetDateTime) -> Self {
        let named: Vec<&SnapshotManifest> =
            manifest.snapshots.iter().filter(|snapshot| snapshot.is_named()).collect();
        let old = named.len().saturating_sub(how.keep_last.unwrap_or(0));
        let aged = |snapshot: &SnapshotManifest| match how.older_than {
            // A time that no calendar has is before all others.
            Some(age) => time::Duration::try_from(age)
                .ok()
                .and_then(|age| now.checked_sub(age))
                .is_some_and(|limit| snapshot.create_time < limit),
            None => true,
        };
        let wanted: HashSet<&str> = named[..old]
            .iter()
            .filter(|snapshot| snapshot.id != manifest.current_snapshot_id && aged(snapshot))
            .map(|snapshot| snapshot.id.as_str())
            .collect();
        let gone = without_dependants(manifest, &wanted);
        let ids = |keep: &dyn Fn(&str) -> bool| {
            named.iter().filter(|s| keep(&s.id)).map(|s| s.id.clone()).collect::<Vec<_>>()
        };
        Self {
            gone: ids(&|id| gone.contains(id)),
            squashed: if how.squash {
                ids(&|id| wanted.contains(id) && !gone.contains(id))
            } else {
                Vec::new()
            },
            silent: HashSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.squashed.is_empty()
    }

    /// What the user hears of it.
    pub(super) fn told(&self) -> SnapshotsDeleted {
        let heard = |id: &&String| !self.silent.contains(*id);
        SnapshotsDeleted {
            deleted: self.gone.iter().filter(heard).cloned().collect(),
            squashed: self.squashed.clone(),
        }
    }

    /// Changes the manifest, and tells whose archives and layers go: also of snapshots that had lost their names and were kept
    /// for those that go now.
    pub(super) fn apply(self, manifest: &mut VesselManifest) -> Vec<String> {
        for snapshot in &mut manifest.snapshots {
            if self.squashed.contains(&snapshot.id) {
                snapshot.labels.insert(UNNAMED.to_owned(), String::new());
            }
        }
        let mut wanted: HashSet<&str> = self.gone.iter().map(String::as_str).collect();
        let unnamed: HashSet<String> = manifest
            .snapshots
            .iter()
            .filter(|s| !s.is_named() && s.id != manifest.current_snapshot_id)
            .map(|s| s.id.clone())
            .collect();
        wanted.extend(unnamed.iter().map(String::as_str));
        let gone: HashSet<String> =
            without_dependants(manifest, &wanted).into_iter().map(str::to_owned).collect();
        let (gone, kept) = std::mem::take(&mut manifest.snapshots)
            .into_iter()
            .partition(|snapshot: &SnapshotManifest| gone.contains(&snapshot.id));
        manifest.snapshots = kept;
        gone.into_iter().map(|snapshot| snapshot.id).collect()
    }
}

/// Those of `wanted` that nothing is based on but others of them.
fn without_dependants<'a>(manifest: &'a VesselManifest, wanted: &HashSet<&str>) -> HashSet<&'a str> {
    let mut needed: HashSet<&str> = HashSet::new();
    let parents: HashMap<&str, &str> =
        manifest.snapshots.iter().map(|s| (s.id.as_str(), s.parent_id.as_str())).collect();
    for snapshot in manifest.snapshots.iter().filter(|s| !wanted.contains(s.id.as_str())) {
        // What is below one that is needed was seen with it.
        let mut id = snapshot.id.as_str();
        while !id.is_empty() && needed.insert(id) {
            id = parents.get(id).copied().unwrap_or("");
        }
    }
    manifest.snapshots.iter().map(|s| s.id.as_str()).filter(|id| !needed.contains(id)).collect()
}

#[cfg(test)]
mod tests;
