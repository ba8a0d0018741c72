//! What the tree changed in a vessel: every file of it was added.
#![forbid(unsafe_code)]

use async_trait::async_trait;
use vesselrt::{DiffOptions, Vessel};

use super::super::lab::Shared;
use super::super::race::{Clock, Entrant};
use crate::cli::{Failure, Outcome};

/// `Vessel::diff` from the image to now.
pub(crate) struct Diff {
    lab: Shared,
    vessel: Option<Vessel>,
}

impl Diff {
    pub(crate) fn new(lab: &Shared) -> Self {
        Self { lab: Shared::clone(lab), vessel: None }
    }
}

#[async_trait(?Send)]
impl Entrant for Diff {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        if self.vessel.is_none() {
            self.vessel = Some(self.lab.vessel_with_tree().await?);
        }
        let Some(vessel) = &self.vessel else { return Ok(None) };
        let diff = clock.time(async { Ok(vessel.diff(DiffOptions::new()).await?) }).await?;
        let (_, written) = self.lab.tree().await?;
        if (diff.changes.len() as u64) < written.files {
            return Err(Failure::conflict(format!(
                "{} changes of {} files",
                diff.changes.len(),
                written.files
            )));
        }
        Ok(None)
    }

    async fn end(&mut self) {
        if let Some(vessel) = self.vessel.take() {
            let _ = self.lab.discard(&vessel).await;
        }
    }
}
