//! Snapshots of ships, ships that begin where others are, and what changed.
#![forbid(unsafe_code)]

mod view;

use std::sync::Arc;

use super::entry::Entry;
use super::view::ShipView;
use super::{Fleet, Status, finished};
use crate::error::ErrorKind;
use crate::manager::fork::ForkOptions;
use crate::serve::ledger::ShipRow;
use crate::serve::problem::Problem;
use crate::serve::ship::Ship;
use crate::vessel::Vessel;
use crate::vessel::diff::{DiffOptions, DiffPoint};
use crate::vessel::snapshot::options::SnapshotOptions;
pub(in crate::serve) use view::{ChangesView, SnapshotView, SnapshotsView};

/// What is asked of a ship that begins where another is.
#[derive(Debug, Clone)]
pub(in crate::serve) struct ForkAsk {
    /// Seconds.
    pub(in crate::serve) ttl: u64,
    pub(in crate::serve) max_sessions: u32,
    /// Where it begins; `None`: what the ship is now.
    pub(in crate::serve) snapshot: Option<String>,
}

/// A vessel for a moment: of a ship that is up, or opened for this.
enum Visit {
    Aboard(Arc<Ship>),
    Opened(Vessel),
}

impl Visit {
    fn vessel(&self) -> Vessel {
        match self {
            Self::Aboard(ship) => ship.vessel().clone(),
            Self::Opened(vessel) => vessel.clone(),
        }
    }

    async fn end(self) {
        if let Self::Opened(vessel) = self {
            let _ = vessel.close().await;
        }
    }
}

fn of_snapshot(error: crate::Error) -> Problem {
    match error.kind() {
        ErrorKind::NotFound if error.to_string().starts_with("snapshot not found") => {
            Problem::new(404, "Snapshot not found")
        }
        ErrorKind::NotFound if error.to_string().starts_with("vessel not found") => Problem::no_ship(),
        _ => error.into(),
    }
}

impl Fleet {
    /// The vessel of a ship that was not deleted, if it is up or stopped.
    fn vessel_of(&self, id: &str) -> Result<String, Problem> {
        let ships = self.lock();
        let entry = ships.get(id).filter(|entry| !entry.row.deleted && !entry.is(Status::Creating));
        entry.map(|entry| entry.row.vessel.clone()).ok_or_else(Problem::no_ship)
    }

    /// Does something with the vessel of a ship, to its end.
    async fn visit<T: Send + 'static>(
        self: &Arc<Self>,
        id: &str,
        work: impl AsyncVisit<T>,
    ) -> Result<T, Problem> {
        self.vessel_of(id)?;
        let gate = self.lock().get(id).map(|entry| Arc::clone(&entry.gate)).ok_or_else(Problem::no_ship)?;
        let (fleet, id) = (Arc::clone(self), id.to_owned());
        finished(async move {
            let _gate = gate.lock().await;
            let vessel = fleet.vessel_of(&id)?;
            let visit = match fleet.ship_at_gate(&id).await {
                Ok(ship) => Visit::Aboard(ship),
                Err(problem) if problem != Problem::not_running() => return Err(problem),
                Err(_) => Visit::Opened(fleet.manager.open_vessel(&vessel).await.map_err(of_snapshot)?),
            };
            let done = work.run(visit.vessel()).await;
            visit.end().await;
            done.map_err(of_snapshot)
        })
        .await
    }

    /// Makes a snapshot of what a ship is now.
    ///
    /// # Errors
    /// 404; those of [`Vessel::create_snapshot`].
    pub(in crate::serve) async fn snapshot(
        self: &Arc<Self>,
        id: &str,
        message: String,
    ) -> Result<SnapshotView, Problem> {
        let made = self
            .visit(id, async move |vessel: Vessel| {
                vessel.create_snapshot_with(SnapshotOptions::new(message).sealed()).await
            })
            .await?;
        Ok(SnapshotView::from(&made))
    }

    /// The snapshots of a ship, oldest first.
    ///
    /// # Errors
    /// 404.
    pub(in crate::serve) async fn snapshots(&self, id: &str) -> Result<SnapshotsView, Problem> {
        let vessel = self.vessel_of(id)?;
        let manifest = self.manager.vessel_manifest(&vessel).await.map_err(of_snapshot)?;
        Ok(SnapshotsView::of(id, &manifest))
    }

    /// Takes a ship back to a snapshot. What runs in it ends; sessions stay aboard.
    ///
    /// # Errors
    /// 404; those of [`Vessel::restore_snapshot`], after which nothing has changed but that commands have ended.
    pub(in crate::serve) async fn rewind(
        self: &Arc<Self>,
        id: &str,
        snapshot: &str,
    ) -> Result<ShipView, Problem> {
        let known = self.snapshots(id).await?;
        if !known.snapshots.iter().any(|known| known.id == snapshot) {
            return Err(Problem::new(404, "Snapshot not found"));
        }
        let gate = self.lock().get(id).map(|entry| Arc::clone(&entry.gate)).ok_or_else(Problem::no_ship)?;
        let (fleet, id, snapshot) = (Arc::clone(self), id.to_owned(), snapshot.to_owned());
        finished(async move {
            let _gate = gate.lock().await;
            let vessel = fleet.vessel_of(&id)?;
            // Taken out first: what comes meanwhile waits at the gate.
            let ship = fleet.lock().get_mut(&id).and_then(|entry| entry.ship.take());
            if let Some(ship) = ship {
                ship.close().await;
            }
            let vessel = fleet.manager.open_vessel(&vessel).await.map_err(of_snapshot)?;
            let restored = vessel.restore_snapshot(&snapshot).await.map_err(of_snapshot);
            let _ = vessel.close().await;
            restored?;
            tracing::info!(ship = id, snapshot, "ship taken back to a snapshot");
            fleet.get(&id).ok_or_else(Problem::no_ship)
        })
        .await
    }

    /// Makes a ship that begins where another is, or was, with the session aboard.
    ///
    /// # Errors
    /// 404; those of a new ship; those of [`Manager::fork_vessel`](crate::Manager::fork_vessel).
    pub(in crate::serve) async fn fork(
        self: &Arc<Self>,
        origin: &str,
        session: &str,
        ask: ForkAsk,
    ) -> Result<ShipView, Problem> {
        let vessel = self.vessel_of(origin)?;
        let turn = self.turns.of(session).await;
        let slot = self.slot().await?;
        let (fleet, session) = (Arc::clone(self), session.to_owned());
        let spec = self.lock().get(origin).map(|entry| entry.row.spec.clone()).unwrap_or_default();
        finished(async move {
            let _turn = turn;
            let id = uuid::Uuid::new_v4().to_string();
            let row = ShipRow { spec, ..ShipRow::new(id.clone(), String::new(), ask.ttl, ask.max_sessions) };
            fleet.lock().insert(id.clone(), Entry::new(row, Some(slot)));
            let made = fleet.forked(&vessel, ask.snapshot).await;
            fleet.christen(&id, &session, ask.ttl, made.map_err(of_snapshot)).await
        })
        .await
    }

    async fn forked(&self, vessel: &str, snapshot: Option<String>) -> crate::Result<Vessel> {
        let options = match snapshot {
            Some(snapshot) => ForkOptions::new().from(snapshot),
            None => ForkOptions::new(),
        };
        let made = self.manager.fork_vessel(vessel, options).await?;
        let fork = made.first().ok_or_else(|| crate::Error::internal("no fork was made"))?;
        self.manager.open_vessel(&fork.id).await
    }

    /// What changed on a ship between two states: `@image`, `@last`, `@now`, or snapshots.
    ///
    /// # Errors
    /// 404; those of [`Vessel::diff`].
    pub(in crate::serve) async fn diff(
        self: &Arc<Self>,
        id: &str,
        from: Option<&str>,
        to: Option<&str>,
        most: usize,
    ) -> Result<ChangesView, Problem> {
        let options = DiffOptions::new().from(point(from.unwrap_or("@last"))).to(point(to.unwrap_or("@now")));
        let diff = self.visit(id, async move |vessel: Vessel| vessel.diff(options).await).await?;
        Ok(ChangesView::of(id, &diff, most))
    }
}

fn point(text: &str) -> DiffPoint {
    match text {
        "@image" => DiffPoint::Base,
        "@last" => DiffPoint::Last,
        "@now" => DiffPoint::Now,
        id => DiffPoint::Snapshot(id.to_owned()),
    }
}

/// Work on a vessel that can be done by a task of its own.
trait AsyncVisit<T>: Send + 'static {
    fn run(self, vessel: Vessel) -> impl Future<Output = crate::Result<T>> + Send;
}

impl<T, F, R> AsyncVisit<T> for F
where
    F: FnOnce(Vessel) -> R + Send + 'static,
    R: Future<Output = crate::Result<T>> + Send,
{
    fn run(self, vessel: Vessel) -> impl Future<Output = crate::Result<T>> + Send {
        self(vessel)
    }
}
