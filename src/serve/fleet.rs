//! [`Fleet`]: which ships there are, who is aboard, and until when.
//!
//! What is true is in memory, behind one lock that is never held across an await; every change is handed to the ledger in
//! the order in which it happens. What takes time (opening, closing, deleting) is done at a ship's gate, one at a time.
#![forbid(unsafe_code)]

mod create;
mod entry;
mod history;
mod life;
mod operate;
mod pool;
mod restart;
mod sessions;
mod timers;
mod turns;
pub(super) mod view;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::config::ServeConfig;
use super::ledger::{Ledger, Status};
use super::metrics::Metrics;
use super::problem::Problem;
use super::ship::{self, Ship};
use super::token::Token;
use crate::error::Result;
use crate::manager::Manager;
use crate::offload::blocking;
pub(super) use create::Ask;
use entry::Entry;
pub(super) use history::{ChangesView, ForkAsk, SnapshotView, SnapshotsView};
use pool::Pool;
use turns::Turns;

/// The label of our vessels: whose service they are of.
const LABEL: &str = "shipyard.service";

/// All ships of a service.
pub(super) struct Fleet {
    manager: Manager,
    config: ServeConfig,
    token: Token,
    clock: Clock,
    ledger: Ledger,
    /// Of this state.
    name: String,
    ships: Mutex<HashMap<String, Entry>>,
    /// One for each ship that may be up.
    slots: Arc<Semaphore>,
    /// One creation at a time for a session.
    turns: Turns,
    /// Something ends earlier than was known.
    sooner: Notify,
    pool: Pool,
    metrics: Metrics,
    closing: CancellationToken,
}

/// The ships, while nobody else changes them.
type Ships<'a> = MutexGuard<'a, HashMap<String, Entry>>;

impl Fleet {
    /// Opens the state.
    ///
    /// # Errors
    /// Those of [`Ledger::open`].
    pub(super) async fn open(manager: Manager, config: ServeConfig, token: Token) -> Result<Arc<Self>> {
        let data = config.data.clone();
        let (ledger, remembered) = blocking(move || Ledger::open(&data)).await?;
        let fleet = Self {
            manager,
            token,
            clock: Clock::new(),
            ledger,
            name: remembered.name.clone(),
            ships: Mutex::default(),
            slots: Arc::new(Semaphore::new(config.max_ships)),
            turns: Turns::default(),
            sooner: Notify::new(),
            pool: Pool::new(config.pool, config.settings.limits.clone()),
            metrics: Metrics::new(),
            closing: CancellationToken::new(),
            config,
        };
        fleet.recall(remembered);
        Ok(Arc::new(fleet))
    }

    /// Removes what a crash left behind, and begins to do what is done in the background.
    ///
    /// # Errors
    /// Those of listing the vessels.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<()> {
        let orphans = self.orphans().await?;
        tokio::spawn(Arc::clone(self).delete_vessels(orphans));
        tokio::spawn(Arc::clone(self).watch());
        tokio::spawn(Arc::clone(self).fill_pool());
        Ok(())
    }

    /// Ends what runs in ships: the service is about to leave.
    pub(super) fn hang_up(&self) {
        self.closing.cancel();
    }

    /// Closes all ships, and writes what is known. They go on when the service runs again.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        let open: Vec<Arc<Ship>> = self.lock().values_mut().filter_map(|entry| entry.ship.take()).collect();
        let closed = open.into_iter().map(|ship| tokio::spawn(async move { ship.close().await }));
        for closing in closed.collect::<Vec<_>>() {
            let _ = closing.await;
        }
        for vessel in self.pool.drain() {
            let _ = self.manager.delete_vessel(vessel.id()).await;
        }
        let changes = self.lock().values().flat_map(|entry| entry.changes(&self.clock)).collect();
        if let Err(error) = self.ledger.submit(changes).wait().await {
            tracing::error!(error = error.chain(), "failed to write the state");
        }
        self.ledger.close();
        let _ = self.manager.close().await;
    }

    fn lock(&self) -> Ships<'_> {
        self.ships.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a client knows the token.
    pub(super) fn knows(&self, token: &str) -> bool {
        self.token.is(token)
    }

    pub(super) fn config(&self) -> &ServeConfig {
        &self.config
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How many vessels wait for a ship.
    pub(super) fn pooled(&self) -> usize {
        self.pool.len()
    }

    /// Is ready when the service is about to leave.
    pub(super) fn leaving(&self) -> impl Future<Output = ()> + '_ {
        self.closing.cancelled()
    }

    fn ship_limits(&self) -> ship::Limits {
        ship::Limits { upload: self.config.max_upload }
    }

    /// The ship itself, which is opened if it was not since the service began.
    async fn ship(self: &Arc<Self>, id: &str) -> Result<Arc<Ship>, Problem> {
        let gate = {
            let ships = self.lock();
            let entry = ships.get(id).filter(|entry| entry.row.status == Status::Running);
            let entry = entry.ok_or_else(Problem::not_running)?;
            if let Some(ship) = &entry.ship {
                return Ok(Arc::clone(ship));
            }
            Arc::clone(&entry.gate)
        };
        let (fleet, id) = (Arc::clone(self), id.to_owned());
        finished(async move {
            let _gate = gate.lock().await;
            fleet.ship_at_gate(&id).await
        })
        .await
    }

    /// [`Self::ship`] for whoever is at the gate.
    async fn ship_at_gate(&self, id: &str) -> Result<Arc<Ship>, Problem> {
        let vessel = {
            let ships = self.lock();
            let entry = ships.get(id).filter(|entry| entry.row.status == Status::Running);
            let entry = entry.ok_or_else(Problem::not_running)?;
            if let Some(ship) = &entry.ship {
                return Ok(Arc::clone(ship));
            }
            entry.row.vessel.clone()
        };
        let vessel = self.manager.open_vessel(&vessel).await.map_err(|e| Problem::internal(&e))?;
        let ship = Arc::new(Ship::new(vessel, self.ship_limits()));
        if let Some(entry) = self.lock().get_mut(id) {
            entry.ship = Some(Arc::clone(&ship));
        }
        Ok(ship)
    }
}

/// Runs `work` to its end although its client may leave.
async fn finished<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Problem::new(503, "the service is shutting down")),
    }
}
