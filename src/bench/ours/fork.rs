//! Forks of a vessel into which the tree was written and that was snapshotted.
#![forbid(unsafe_code)]

use async_trait::async_trait;
use vesselrt::ForkOptions;

use super::super::lab::Shared;
use super::super::race::{Clock, Entrant};
use super::snapshot::Snapshotted;
use crate::cli::{Failure, Outcome};

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One fork, and the first command in it.
    AndExec,
    /// One fork.
    Alone,
    /// A hundred forks by one call.
    Hundred,
}

/// Forks.
pub(crate) struct Fork {
    lab: Shared,
    kind: Kind,
    made: Option<Snapshotted>,
}

impl Fork {
    pub(crate) fn new(lab: &Shared, kind: Kind) -> Self {
        Self { lab: Shared::clone(lab), kind, made: None }
    }
}

/// Forks, and runs `true` in the first of them if asked to; the ids.
async fn fork(lab: &Shared, made: &Snapshotted, kind: Kind) -> Outcome<Vec<String>> {
    let count = if kind == Kind::Hundred { 100 } else { 1 };
    let options = ForkOptions::new().from(&made.snapshot).count(count);
    let forks = lab.manager.fork_vessel(made.vessel.id(), options).await?;
    let ids: Vec<String> = forks.into_iter().map(|fork| fork.id).collect();
    if let (Kind::AndExec, Some(first)) = (kind, ids.first()) {
        let vessel = lab.manager.open_vessel(first).await?;
        let done = vessel.exec(lab.nothing()).await?;
        if !done.success() {
            return Err(Failure::conflict(format!("true ended with {}", done.exit_code)));
        }
        // Its end is not part of it: the vessel is dropped open, and deleted by the caller.
        drop(vessel);
    }
    Ok(ids)
}

#[async_trait(?Send)]
impl Entrant for Fork {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        if self.made.is_none() {
            self.made = Some(Snapshotted::make(&self.lab).await?);
        }
        let Some(made) = &self.made else { return Ok(None) };
        self.lab.settle().await?;
        let ids = clock.time(fork(&self.lab, made, self.kind)).await?;
        for id in &ids {
            self.lab.manager.delete_vessel(id).await?;
        }
        self.lab.manager.close().await?;
        Ok(None)
    }

    async fn end(&mut self) {
        if let Some(made) = self.made.take() {
            let _ = self.lab.discard(&made.vessel).await;
        }
    }
}
