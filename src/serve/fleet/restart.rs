//! What is found when the service starts again.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, Session};
use super::{Fleet, LABEL};
use crate::error::Result;
use crate::serve::clock::Moment;
use crate::serve::ledger::{Remembered, Status};

/// What a stopped ship has written is not deleted sooner after a start: a clock that is wrong when a machine boots is soon right.
const GRACE: Duration = Duration::from_secs(3600);

impl Fleet {
    /// Ships, sessions and timers as they were. Ships are opened when somebody uses them.
    pub(super) fn recall(&self, remembered: Remembered) {
        let mut ships = self.lock();
        for mut row in remembered.ships {
            let until = row.until.as_ref().map(|saved| self.clock.restore(saved));
            if row.status == Status::Creating {
                row.status = Status::Stopped;
            }
            let running = row.status == Status::Running;
            // With fewer slots than there are ships nobody loses one.
            let slot = running.then(|| Arc::clone(&self.slots).try_acquire_owned().ok()).flatten();
            let mut entry = Entry::new(row, slot);
            entry.until = match running {
                true => until,
                false => {
                    until.map(|until| until.max(Moment::now().after(GRACE.min(self.config.keep_stopped))))
                }
            };
            ships.insert(entry.row.id.clone(), entry);
        }
        for row in remembered.sessions {
            if let Some(entry) = ships.get_mut(&row.ship) {
                entry.sessions.insert(row.session.clone(), Session::of(row, &self.clock));
            }
        }
    }

    /// Vessels of ours that no ship has: those of the pool, and those that a crash left.
    ///
    /// # Errors
    /// Those of [`Manager::list_vessels`](crate::Manager::list_vessels).
    pub(super) async fn orphans(&self) -> Result<Vec<String>> {
        let vessels = self.manager.list_vessels().await?;
        let known: HashSet<String> = self.lock().values().map(|entry| entry.row.vessel.clone()).collect();
        let ours = vessels.into_iter().filter(|vessel| vessel.labels.get(LABEL) == Some(&self.name));
        Ok(ours.map(|vessel| vessel.id).filter(|id| !known.contains(id)).collect())
    }

    /// Deletes vessels that nobody has.
    pub(super) async fn delete_vessels(self: Arc<Self>, ids: Vec<String>) {
        for vessel in ids {
            match self.manager.delete_vessel(&vessel).await {
                Ok(()) => tracing::info!(vessel, "deleted a vessel without a ship"),
                Err(error) => tracing::warn!(vessel, error = error.chain(), "failed to delete a vessel"),
            }
        }
    }
}
