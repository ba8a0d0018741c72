//! Going back: where the sealed layers are here, and where only the archives are left.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use vesselrt::{CompressedStorage, Manager, Vessel};

use super::super::lab::{self, Shared};
use super::super::peers::command::Ground;
use super::super::race::{Clock, Entrant};
use super::snapshot::Snapshotted;
use crate::cli::{Failure, Outcome};

/// `restore` of a snapshot whose layer is here: by the library in an open vessel, or by a command on a closed one.
pub(crate) struct Restore {
    lab: Shared,
    by_command: Option<Ground>,
    made: Option<Snapshotted>,
}

impl Restore {
    pub(crate) fn by_library(lab: &Shared) -> Self {
        Self { lab: Shared::clone(lab), by_command: None, made: None }
    }

    /// # Errors
    /// Those of mkdir(2).
    pub(crate) fn by_command(lab: &Shared) -> Outcome<Self> {
        Ok(Self { by_command: Some(lab.ground("restore")?), ..Self::by_library(lab) })
    }
}

#[async_trait(?Send)]
impl Entrant for Restore {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        if self.made.is_none() {
            self.made = Some(Snapshotted::make(&self.lab).await?);
        }
        let Some(made) = &mut self.made else { return Ok(None) };
        if self.by_command.is_some() {
            // It was closed by the last round.
            made.vessel = self.lab.manager.open_vessel(made.vessel.id()).await?;
        }
        made.change().await?;
        self.lab.settle().await?;
        match &mut self.by_command {
            None => clock.time(async { Ok(made.vessel.restore_snapshot(&made.snapshot).await?) }).await?,
            Some(ground) => {
                made.vessel.close().await?;
                let verb = ["snapshot", "restore", made.vessel.id(), &made.snapshot];
                clock.time(ground.run(&self.lab.command()?.args(verb))).await?;
            }
        }
        // What was thrown away is removed in the background: not while somebody else is timed.
        self.lab.manager.close().await?;
        Ok(None)
    }

    async fn end(&mut self) {
        if let Some(made) = self.made.take() {
            let _ = self.lab.discard(&made.vessel).await;
        }
    }
}

/// Opening a vessel of which another store has only the archive: unpacking, verifying, mounting.
pub(crate) struct Rebuild {
    lab: Shared,
    made: Option<Snapshotted>,
    elsewhere: Option<Elsewhere>,
}

/// A store without a layer, on the same archives.
struct Elsewhere {
    root: PathBuf,
    manager: Manager,
    vessel: Option<Vessel>,
}

impl Rebuild {
    pub(crate) fn new(lab: &Shared) -> Self {
        Self { lab: Shared::clone(lab), made: None, elsewhere: None }
    }

    async fn elsewhere(&self) -> Outcome<Elsewhere> {
        let root = self.lab.fresh("elsewhere");
        let archives = CompressedStorage::local(self.lab.store().join("data"));
        let archives = archives.map_err(|e| Failure::internal(e.to_string()))?;
        let config = self.lab.config_at(&root).storage(Arc::new(archives));
        let manager = lab::with_image(&config, &self.lab.base).await?;
        Ok(Elsewhere { root, manager, vessel: None })
    }

    async fn leave(&mut self) {
        let Some(elsewhere) = self.elsewhere.take() else { return };
        if let Some(vessel) = elsewhere.vessel {
            let _ = vessel.close().await;
        }
        // The manifest is the other store's too: its vessel is not deleted here, only the directories go.
        let _ = elsewhere.manager.stop_all().await;
        let _ = elsewhere.manager.close().await;
        let _ = lab::remove(elsewhere.root).await;
    }
}

#[async_trait(?Send)]
impl Entrant for Rebuild {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        self.leave().await;
        if self.made.is_none() {
            let made = Snapshotted::make(&self.lab).await?;
            made.vessel.close().await?;
            self.made = Some(made);
        }
        let elsewhere = self.elsewhere().await?;
        let elsewhere = self.elsewhere.insert(elsewhere);
        self.lab.settle().await?;
        let Some(made) = &self.made else { return Ok(None) };
        let id = made.vessel.id();
        elsewhere.vessel = Some(clock.time(async { Ok(elsewhere.manager.open_vessel(id).await?) }).await?);
        self.leave().await;
        Ok(None)
    }

    async fn end(&mut self) {
        self.leave().await;
        if let Some(made) = self.made.take() {
            let _ = self.lab.discard(&made.vessel).await;
        }
    }
}
