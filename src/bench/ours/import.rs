//! Importing an image: a compressed root file system verified, kept and unpacked, in a store of its own.
#![forbid(unsafe_code)]

use async_trait::async_trait;
use vesselrt::Manager;

use super::super::lab::{self, IMAGE, Shared};
use super::super::race::{Clock, Entrant};
use crate::cli::Outcome;

/// The tree as an image, into a new store every round.
pub(crate) struct Import {
    lab: Shared,
}

impl Import {
    pub(crate) fn new(lab: &Shared) -> Self {
        Self { lab: Shared::clone(lab) }
    }
}

#[async_trait(?Send)]
impl Entrant for Import {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let archive = self.lab.gzip().await?.to_owned();
        let root = self.lab.fresh("imported");
        let manager = Manager::new(self.lab.config_at(&root)).await?;
        self.lab.settle().await?;
        let imported = clock.time(async { Ok(manager.import_image(archive, IMAGE, |_| {}).await?) }).await;
        // By the manager first: some of it may be other users' (those of its id mappings).
        let _ = manager.remove_image(IMAGE).await;
        let _ = manager.close().await;
        lab::remove(root).await?;
        imported.map(|_report| None)
    }
}
