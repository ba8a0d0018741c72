//! A ship for a session: one that it has, one that it had, one with room, a new one.
#![forbid(unsafe_code)]

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::entry::{Entry, Session};
use super::view::ShipView;
use super::{Fleet, LABEL, finished};
use crate::manager::create::CreateOptions;
use crate::serve::clock::Moment;
use crate::serve::config::WhenFull;
use crate::serve::ledger::{Change, ShipRow, Status, Written};
use crate::serve::problem::Problem;
use crate::serve::ship::Ship;
use crate::serve::spec::ShipSpec;
use crate::vessel::Vessel;

/// What is asked of a ship.
#[derive(Debug, Clone)]
pub(in crate::serve) struct Ask {
    /// Seconds.
    pub(in crate::serve) ttl: u64,
    pub(in crate::serve) spec: ShipSpec,
    pub(in crate::serve) max_sessions: u32,
    /// A new one in any case.
    pub(in crate::serve) new: bool,
}

/// Where a session finds its ship.
enum Place {
    Here(ShipView, Option<Written>),
    Stopped(String),
    Nowhere,
}

impl Fleet {
    /// A ship for `session`.
    ///
    /// # Errors
    /// 500 when there are as many as may be, 408 when none went within the time; 500 when it cannot be made.
    pub(in crate::serve) async fn create(
        self: &Arc<Self>,
        session: &str,
        ask: Ask,
    ) -> Result<ShipView, Problem> {
        let turn = self.turns.of(session).await;
        let stopped = match self.place(session, &ask) {
            Place::Here(view, written) => {
                if let Some(written) = written {
                    written.wait().await?;
                }
                return Ok(view);
            }
            Place::Stopped(id) => Some(id),
            Place::Nowhere => None,
        };
        let slot = self.slot().await?;
        let (fleet, session) = (Arc::clone(self), session.to_owned());
        // From here on the client may leave: the ship is made, and found by its session.
        finished(async move {
            let _turn = turn;
            if let Some(id) = stopped {
                match fleet.restore(&id, Some(&session), ask.ttl, slot).await {
                    Err((Problem { status: 404, .. }, slot)) => fleet.launch(&session, ask, slot).await,
                    Err((problem, _slot)) => Err(problem),
                    Ok(view) => Ok(view),
                }
            } else {
                fleet.launch(&session, ask, slot).await
            }
        })
        .await
    }

    /// Finds a ship that is up, and takes the session aboard.
    fn place(&self, session: &str, ask: &Ask) -> Place {
        if ask.new {
            return Place::Nowhere;
        }
        let now = Moment::now();
        let mut ships = self.lock();
        let newest = |entry: &&Entry| (entry.row.created_at, entry.row.id.clone());
        if let Some(entry) = ships.values().filter(|entry| entry.has(session, now)).max_by_key(newest) {
            return Place::Here(ShipView::of(entry), None);
        }
        let had = |entry: &&Entry| entry.is(Status::Stopped) && entry.sessions.contains_key(session);
        if let Some(entry) = ships.values().filter(had).max_by_key(newest) {
            return Place::Stopped(entry.row.id.clone());
        }
        let roomy = ships.values_mut().filter(|entry| entry.is(Status::Running) && entry.has_room(now));
        // Where it was before is first, then the oldest.
        let order = |entry: &&mut Entry| {
            (!entry.sessions.contains_key(session), entry.row.created_at, entry.row.id.clone())
        };
        let Some(entry) = roomy.min_by_key(order) else { return Place::Nowhere };
        let change = entry.board(session, ask.ttl, &self.clock);
        let written = self.ledger.submit(vec![change, entry.change(&self.clock)]);
        Place::Here(ShipView::of(entry), Some(written))
    }

    /// The right to have one more ship up.
    pub(super) async fn slot(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let slots = Arc::clone(&self.slots);
        if self.config.when_full == WhenFull::Reject {
            let full = |_| Problem::new(500, "Maximum number of ships reached");
            return slots.try_acquire_owned().map_err(full);
        }
        let leaving = || Problem::new(503, "the service is shutting down");
        tokio::select! {
            slot = tokio::time::timeout(self.config.wait, slots.acquire_owned()) => match slot {
                Ok(slot) => slot.map_err(|_| leaving()),
                Err(_) => Err(Problem::new(408, "Timed out waiting for an available ship slot")),
            },
            () = self.closing.cancelled() => Err(leaving()),
        }
    }

    /// Makes a ship, with the session aboard.
    async fn launch(
        self: &Arc<Self>,
        session: &str,
        ask: Ask,
        slot: OwnedSemaphorePermit,
    ) -> Result<ShipView, Problem> {
        let id = uuid::Uuid::new_v4().to_string();
        let mut row = ShipRow::new(id.clone(), String::new(), ask.ttl, ask.max_sessions);
        row.spec = ask.spec.clone();
        self.lock().insert(id.clone(), Entry::new(row, Some(slot)));
        let made = self.vessel(&ask.spec).await;
        self.christen(&id, session, ask.ttl, made.map_err(|e| Problem::internal(&e))).await
    }

    /// Lets a ship that is being made begin in its vessel, with the session aboard; or forgets it.
    pub(super) async fn christen(
        self: &Arc<Self>,
        id: &str,
        session: &str,
        ttl: u64,
        made: Result<Vessel, Problem>,
    ) -> Result<ShipView, Problem> {
        let vessel = made.inspect_err(|_| drop(self.lock().remove(id)))?;
        let vessel_id = vessel.id().to_owned();
        let ship = Arc::new(Ship::new(vessel, self.ship_limits()));
        let begun = {
            let mut ships = self.lock();
            ships.get_mut(id).map(|entry| {
                entry.row.status = Status::Running;
                entry.row.vessel.clone_from(&vessel_id);
                entry.ship = Some(Arc::clone(&ship));
                let member = Session::new(session, id, ttl, &self.clock);
                let joined = Change::Session(member.row.clone());
                entry.sessions.insert(session.to_owned(), member);
                (ShipView::of(entry), self.ledger.submit(vec![entry.change(&self.clock), joined]))
            })
        };
        let (view, written) = begun.ok_or_else(Problem::no_ship)?;
        self.sooner.notify_one();
        if let Err(error) = written.wait().await {
            drop(self.lock().remove(id));
            ship.close().await;
            let _ = self.manager.delete_vessel(&vessel_id).await;
            return Err(Problem::internal(&error));
        }
        tracing::info!(ship = id, session, ttl, "ship created");
        Ok(view)
    }

    /// A vessel for a new ship: one that was kept ready, if there is one.
    async fn vessel(self: &Arc<Self>, spec: &ShipSpec) -> crate::Result<Vessel> {
        let mut settings = self.config.settings.clone();
        spec.apply(&mut settings.limits);
        if let Some((vessel, had)) = self.pool.take(&settings.limits) {
            let limits = settings.limits.clone();
            if limits == had {
                return Ok(vessel);
            }
            match vessel.update(move |old| *old = limits).await {
                Ok(_) => return Ok(vessel),
                Err(error) => {
                    tracing::warn!(error = error.chain(), "a vessel of the pool cannot be given limits");
                    let _ = vessel.close().await;
                    let _ = self.manager.delete_vessel(vessel.id()).await;
                }
            }
        }
        self.manager.create_vessel_with(self.options().settings(settings)).await
    }

    /// What all ships are made from.
    pub(super) fn options(&self) -> CreateOptions {
        let settings = self.config.settings.clone();
        CreateOptions::new(&self.config.image).work_dir("/").label(LABEL, &self.name).settings(settings)
    }
}
