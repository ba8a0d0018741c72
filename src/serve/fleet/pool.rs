//! Vessels that wait for a ship, open and with everything ready for their first command.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Fleet;
use crate::vessel::Vessel;
use crate::vessel::exec::ExecOptions;

/// How long to wait after a vessel could not be made.
const PAUSE: Duration = Duration::from_secs(5);

/// Vessels that wait.
#[derive(Debug)]
pub(super) struct Pool {
    size: usize,
    ready: Mutex<VecDeque<Vessel>>,
    taken: Notify,
}

impl Pool {
    pub(super) fn new(size: usize) -> Self {
        Self { size, ready: Mutex::default(), taken: Notify::new() }
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<Vessel>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Option<Vessel> {
        let vessel = self.ready().pop_front();
        if vessel.is_some() {
            self.taken.notify_one();
        }
        vessel
    }

    pub(super) fn len(&self) -> usize {
        self.ready().len()
    }

    /// All that wait, who will not be used.
    pub(super) fn drain(&self) -> Vec<Vessel> {
        self.ready().drain(..).collect()
    }
}

impl Fleet {
    /// Makes vessels until there are enough, and again whenever one was taken.
    pub(super) async fn fill_pool(self: Arc<Self>) {
        if self.pool.size == 0 {
            return;
        }
        while !self.closing.is_cancelled() {
            if self.pool.len() >= self.pool.size {
                tokio::select! {
                    () = self.pool.taken.notified() => {}
                    () = self.closing.cancelled() => return,
                }
                continue;
            }
            match self.ready_vessel().await {
                Ok(vessel) if self.closing.is_cancelled() => {
                    let _ = self.manager.delete_vessel(vessel.id()).await;
                }
                Ok(vessel) => self.pool.ready().push_back(vessel),
                Err(error) => {
                    tracing::warn!(error = error.chain(), "failed to make a vessel for the pool");
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = self.closing.cancelled() => return,
                    }
                }
            }
        }
    }

    /// A vessel in which a command was run, so that its sandbox is there.
    async fn ready_vessel(&self) -> crate::Result<Vessel> {
        let vessel = self.manager.create_vessel_with(self.options()).await?;
        // What the image cannot run, the ship will tell.
        let _ = vessel.exec(ExecOptions::new(["/bin/sh", "-c", ":"])).await;
        Ok(vessel)
    }
}
