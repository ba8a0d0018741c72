//! Forks: vessels that begin where another one is, or was.
//!
//! A fork has the snapshots that lead to where it begins: their layers are shared, their archives are its own as well, and
//! its writable layer is made when it is first opened. Snapshots that wait for their archives wait in the fork too; whoever
//! of those that have one packs it first shares the archive with the others (`upkeep/archive.rs`), and needs none of
//! them for it. The steps, for some forks at a time:
//!
//! 1. `vessels/FORK` with its state, marked as unfinished, and locked
//! 2. storage: archives and manifest — from here on the fork exists
//! 3. the mark is removed
//!
//! What is killed before the second leaves directories that the next sweep finds. The origin's `ops.lock` is held, so
//! that none of its snapshots goes meanwhile.
#![forbid(unsafe_code)]

mod origin;
mod place;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use time::OffsetDateTime;
use vesselrt_storage::backend::VesselFork;
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};

use self::origin::Origin;
use self::place::Placed;
use super::ManagerInner;
use crate::error::{Error, Result};
use crate::history;
use crate::offload::blocking;

/// Forks that are made at a time: each holds two descriptors meanwhile.
const BATCH: usize = 64;
/// Forks whose archives are seen to by one task, or by one process, which gets their ids as arguments.
const AT_ONCE: usize = 1000;
/// Forks that are made by one call at most.
const MOST: usize = 100_000;

/// What forks of a vessel are to be like. The setters return the changed value, to be chained.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForkOptions {
    /// The snapshot that they begin at; `None`: what the vessel is now, which becomes a snapshot unless it is one.
    pub from: Option<String>,
    /// How many.
    pub count: usize,
    /// Ids of the first ones; the others get new ones.
    pub ids: Vec<String>,
    /// Labels of theirs, besides those that the vessel has.
    pub labels: BTreeMap<String, String>,
    /// Message of the snapshot, should one be made.
    pub message: String,
}

impl Default for ForkOptions {
    fn default() -> Self {
        Self { from: None, count: 1, ids: Vec::new(), labels: BTreeMap::new(), message: "fork".to_owned() }
    }
}

impl ForkOptions {
    /// One fork of what the vessel is now, with a new id.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the snapshot that they begin at.
    #[must_use]
    pub fn from(mut self, snapshot: impl Into<String>) -> Self {
        self.from = Some(snapshot.into());
        self
    }

    /// Sets how many there are to be.
    #[must_use]
    pub fn count(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    /// Adds an id: lower-case letters, digits, `_`, `.` and `-`, 64 at most. There are as many forks as ids at least.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.ids.push(id.into());
        self.count = self.count.max(self.ids.len());
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the message of the snapshot, should one be made.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    fn check(&self) -> Result<()> {
        if self.count == 0 || self.count > MOST {
            return Err(Error::invalid(format!("cannot make {} forks: 1 to {MOST}", self.count)));
        }
        if self.ids.len() > self.count {
            return Err(Error::invalid(format!("{} ids for {} forks", self.ids.len(), self.count)));
        }
        let mut seen = HashSet::new();
        for id in &self.ids {
            vesselrt_storage::validate_id(id)
                .map_err(|e| Error::invalid(format!("invalid id of a vessel: {id:?}")).with_source(e))?;
            if !seen.insert(id) {
                return Err(Error::invalid(format!("two forks cannot both be called {id}")));
            }
        }
        Ok(())
    }
}

/// All of them, or none.
pub(super) async fn fork(
    manager: &Arc<ManagerInner>,
    id: &str,
    options: ForkOptions,
) -> Result<Vec<VesselManifest>> {
    options.check()?;
    let origin = Arc::new(origin::find(manager, id, &options).await?);
    let mut made: Vec<VesselManifest> = Vec::with_capacity(options.count);
    while made.len() < options.count {
        let asked = &options.ids[made.len().min(options.ids.len())..];
        let count = (options.count - made.len()).min(BATCH);
        match batch(manager, &origin, &options, &asked[..asked.len().min(count)], count).await {
            Ok(forks) => made.extend(forks),
            Err(error) => {
                undo(manager, made.into_iter().map(|fork| fork.id).collect()).await;
                return Err(error);
            }
        }
    }
    if origin.chain.iter().any(|snapshot| !snapshot.is_stored()) {
        // After the vessel itself, which was asked first and packs for all.
        for some in made.chunks(AT_ONCE) {
            manager.upkeep_these_later(some.iter().map(|fork| fork.id.clone()).collect());
        }
    }
    Ok(made)
}

async fn batch(
    manager: &Arc<ManagerInner>,
    origin: &Arc<Origin>,
    options: &ForkOptions,
    asked: &[String],
    count: usize,
) -> Result<Vec<VesselManifest>> {
    let placed = place::place(manager, origin, asked, count).await?;
    let ids = placed.iter().map(|placed| placed.id.clone()).collect();
    match exist(manager, origin, options, placed).await {
        Ok(manifests) => Ok(manifests),
        Err(error) => {
            undo(manager, ids).await;
            Err(error)
        }
    }
}

/// Archives and manifests; after that the forks are vessels like others.
async fn exist(
    manager: &Arc<ManagerInner>,
    origin: &Arc<Origin>,
    options: &ForkOptions,
    placed: Vec<Placed>,
) -> Result<Vec<VesselManifest>> {
    let id = &origin.manifest.id;
    let failed = |e| Error::storage(format!("failed to fork vessel {id}"), e);
    let mut manifests = Vec::with_capacity(placed.len());
    let mut forks = Vec::with_capacity(placed.len());
    for fork in &placed {
        let manifest = Arc::new(origin.manifest_of(&fork.id, &options.labels));
        let stored = history::stored(&manifest);
        forks.push(VesselFork::new(&fork.id, stored.to_json().map_err(failed)?));
        drop(stored);
        manifests.push(Arc::unwrap_or_clone(manifest));
    }
    let stored = origin.chain.iter().filter(|snapshot| snapshot.is_stored());
    let snapshots: Vec<String> = stored.map(|snapshot| snapshot.id.clone()).collect();
    manager.storage.fork_vessel(id, &snapshots, &forks).await.map_err(failed)?;
    blocking(move || placed.into_iter().try_for_each(Placed::finish)).await?;
    Ok(manifests)
}

/// What cannot be undone now is found by the next sweep, unless it has a manifest: then it is a vessel.
async fn undo(manager: &Arc<ManagerInner>, ids: Vec<String>) {
    for id in &ids {
        // The manifest may have been saved although we were told otherwise; nobody else can have one under this id.
        let _ = manager.storage.delete_vessel(id).await;
    }
    let own = Arc::clone(manager);
    let _ = blocking(move || place::remove(&own, &ids)).await;
    manager.sweep_later();
}

fn of_fork(id: &str, snapshot: &SnapshotManifest) -> SnapshotManifest {
    SnapshotManifest { vessel_id: id.to_owned(), ..snapshot.clone() }
}

impl Origin {
    /// Those of the snapshots that wait for their archives, as a fork's own.
    fn waiting_of(&self, id: &str) -> Vec<SnapshotManifest> {
        self.chain.iter().filter(|snapshot| !snapshot.is_stored()).map(|one| of_fork(id, one)).collect()
    }

    /// The manifest of a fork as its user sees it: the snapshots that lead to where it begins, as its own.
    fn manifest_of(&self, id: &str, labels: &BTreeMap<String, String>) -> VesselManifest {
        let now = OffsetDateTime::now_utc();
        let mut manifest = VesselManifest {
            id: id.to_owned(),
            current_snapshot_id: self.chain.last().map_or_else(String::new, |top| top.id.clone()),
            create_time: now,
            update_time: now,
            snapshots: self.chain.iter().map(|snapshot| of_fork(id, snapshot)).collect(),
            version: self.manifest.version,
            base_image_ref: self.manifest.base_image_ref.clone(),
            base_image_digest: self.manifest.base_image_digest.clone(),
            work_dir: self.manifest.work_dir.clone(),
            labels: self.manifest.labels.clone(),
        };
        manifest.labels.extend(labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        manifest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn options_that_make_no_sense_are_refused() {
        ForkOptions::new().check().unwrap();
        ForkOptions::new().id("a").id("b").check().unwrap();
        assert_eq!(ForkOptions::new().id("a").id("b").count, 2);
        for bad in [
            ForkOptions::new().count(0),
            ForkOptions::new().count(MOST + 1),
            ForkOptions::new().id("a").id("a"),
            ForkOptions::new().id("../a"),
            ForkOptions::new().id(""),
            ForkOptions::new().id("a").id("b").count(1),
        ] {
            assert_eq!(bad.check().unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
    }
}
