//! Vessels that wait for a ship, open and with everything ready for their first command.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Fleet;
use crate::vessel::Vessel;
use crate::vessel::exec::ExecOptions;
use vesselrt_runtime::settings::Limits;

/// How long to wait after a vessel could not be made.
const PAUSE: Duration = Duration::from_secs(5);

/// A vessel that waits, with its limits.
type Ready = (Vessel, Limits);

/// Vessels that wait.
#[derive(Debug)]
pub(super) struct Pool {
    size: usize,
    ready: Mutex<VecDeque<Ready>>,
    /// The limits that were last asked for: the next one will most likely want the same, and to give a vessel others takes
    /// longer than anything else about it.
    usual: Mutex<Limits>,
    taken: Notify,
}

impl Pool {
    /// A pool of so many, with these limits until others are asked for.
    pub(super) fn new(size: usize, limits: Limits) -> Self {
        Self { size, ready: Mutex::default(), usual: Mutex::new(limits), taken: Notify::new() }
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<Ready>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usual(&self) -> Limits {
        self.usual.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A vessel and its limits: one that has these, if there is one.
    pub(super) fn take(&self, limits: &Limits) -> Option<(Vessel, Limits)> {
        self.usual.lock().unwrap_or_else(PoisonError::into_inner).clone_from(limits);
        let vessel = {
            let mut ready = self.ready();
            let best = ready.iter().position(|ready| ready.1 == *limits).unwrap_or_default();
            ready.remove(best)
        };
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
        self.ready().drain(..).map(|ready| ready.0).collect()
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
                Ok((vessel, _)) if self.closing.is_cancelled() => {
                    let _ = self.manager.delete_vessel(vessel.id()).await;
                }
                Ok(ready) => self.pool.ready().push_back(ready),
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
    async fn ready_vessel(&self) -> crate::Result<Ready> {
        let limits = self.pool.usual();
        let vessel = self.manager.create_vessel_with(self.options().limits(limits.clone())).await?;
        // What the image cannot run, the ship will tell.
        let _ = vessel.exec(ExecOptions::new(["/bin/sh", "-c", ":"])).await;
        Ok((vessel, limits))
    }
}
