//! Snapshots of a vessel into which the tree was written.
#![forbid(unsafe_code)]

use async_trait::async_trait;
use vesselrt::{SnapshotManifest, SnapshotOptions, Vessel};

use super::super::lab::Shared;
use super::super::race::{Clock, Entrant};
use crate::cli::{Failure, Outcome};

/// How durable the snapshot is when the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its archive is stored and verified.
    Durable,
    /// Its layer is on disk; the archive comes later.
    Sealed,
}

/// One snapshot of a new vessel a round.
pub(crate) struct Snapshot {
    lab: Shared,
    kind: Kind,
    vessel: Option<Vessel>,
}

impl Snapshot {
    pub(crate) fn new(lab: &Shared, kind: Kind) -> Self {
        Self { lab: Shared::clone(lab), kind, vessel: None }
    }
}

#[async_trait(?Send)]
impl Entrant for Snapshot {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        self.end().await;
        let vessel = self.vessel.insert(self.lab.vessel_with_tree().await?);
        let made = clock.time(take(vessel, self.kind)).await?;
        stored(vessel, self.kind, &made).await?;
        let size = archived(&self.lab, &made).await;
        self.end().await;
        Ok(size)
    }

    async fn end(&mut self) {
        if let Some(vessel) = self.vessel.take() {
            let _ = self.lab.discard(&vessel).await;
        }
    }
}

/// Takes one.
///
/// # Errors
/// Those of the vessel.
pub(crate) async fn take(vessel: &Vessel, kind: Kind) -> Outcome<SnapshotManifest> {
    match kind {
        Kind::Durable => Ok(vessel.create_snapshot("bench").await?),
        Kind::Sealed => Ok(vessel.create_snapshot_with(SnapshotOptions::new("bench").sealed()).await?),
    }
}

/// Waits for the archive of a snapshot that did not, so that it is not packed while something else is timed.
///
/// # Errors
/// Those of the vessel.
pub(crate) async fn stored(vessel: &Vessel, kind: Kind, made: &SnapshotManifest) -> Outcome {
    if kind == Kind::Sealed {
        vessel.wait_snapshot(&made.id).await?;
    }
    Ok(())
}

/// Bytes of its archive, where the store has it as a file.
async fn archived(lab: &Shared, made: &SnapshotManifest) -> Option<u64> {
    let file = format!("data/vessels/{}/snapshots/{}.tar.zst", made.vessel_id, made.id);
    tokio::fs::metadata(lab.store().join(file)).await.ok().map(|meta| meta.len())
}

/// A vessel with the tree in it that was snapshotted, and stays.
pub(crate) struct Snapshotted {
    pub(crate) vessel: Vessel,
    pub(crate) snapshot: String,
}

impl Snapshotted {
    /// Makes it.
    ///
    /// # Errors
    /// Those of the vessel.
    pub(crate) async fn make(lab: &Shared) -> Outcome<Self> {
        let vessel = lab.vessel_with_tree().await?;
        match take(&vessel, Kind::Durable).await {
            Ok(made) => Ok(Self { vessel, snapshot: made.id }),
            Err(failure) => {
                let _ = lab.discard(&vessel).await;
                Err(failure)
            }
        }
    }

    /// Changes something, so that there is something to go back from: the largest file goes, another comes.
    ///
    /// # Errors
    /// Those of the vessel.
    pub(crate) async fn change(&self) -> Outcome {
        self.vessel.write_file("/work/change", vec![1; 1 << 20], 0o644).await?;
        let gone = self.vessel.delete_all("/work/tree/data").await;
        match gone {
            Err(e) if e.kind() != vesselrt::ErrorKind::NotFound => Err(Failure::from(e)),
            _ => Ok(()),
        }
    }
}
