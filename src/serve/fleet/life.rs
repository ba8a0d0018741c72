//! Stopping, starting again, deleting, and more time.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;

use super::view::ShipView;
use super::{Fleet, finished};
use crate::error::ErrorKind;
use crate::serve::clock::Moment;
use crate::serve::ledger::{Change, Status, Written};
use crate::serve::problem::Problem;
use crate::serve::ship::Ship;
use crate::vessel::Vessel;

/// Why a ship is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A client deleted it.
    Deleted,
    /// Nobody is aboard any more.
    Expired,
}

impl Fleet {
    /// Stops a ship at a client's request: what was written is kept.
    ///
    /// # Errors
    /// 404 for one that is not up.
    pub(in crate::serve) async fn delete(self: &Arc<Self>, id: &str) -> Result<(), Problem> {
        let (fleet, id) = (Arc::clone(self), id.to_owned());
        finished(async move { fleet.stop(&id, Why::Deleted).await }).await
    }

    /// Stops a ship that is up.
    pub(super) async fn stop(&self, id: &str, why: Why) -> Result<(), Problem> {
        let gate = self.lock().get(id).map(|entry| Arc::clone(&entry.gate)).ok_or_else(Problem::no_ship)?;
        let _gate = gate.lock().await;
        let (ship, slot, written) = {
            let mut ships = self.lock();
            let entry = ships.get_mut(id).ok_or_else(Problem::no_ship)?;
            let now = Moment::now();
            match why {
                Why::Deleted if entry.row.deleted => return Err(Problem::no_ship()),
                // One that was stopped by itself can still be deleted.
                Why::Deleted if entry.is(Status::Creating) => return Err(Problem::no_ship()),
                Why::Expired if !entry.is(Status::Running) => return Ok(()),
                // Somebody came aboard, or was given more time.
                Why::Expired if entry.expires().is_some_and(|expires| expires > now) => return Ok(()),
                _ => {}
            }
            entry.row.status = Status::Stopped;
            entry.row.deleted = why == Why::Deleted;
            entry.row.updated_at = OffsetDateTime::now_utc();
            entry.until = Some(now.after(self.config.keep_stopped));
            let mut changes: Vec<Change> =
                entry.sessions.values_mut().map(|session| session.end(&self.clock)).collect();
            changes.push(entry.change(&self.clock));
            (entry.ship.take(), entry.slot.take(), self.ledger.submit(changes))
        };
        let written = written.wait().await;
        if let Some(ship) = ship {
            ship.close().await;
        }
        // Only now there is room for another.
        drop(slot);
        self.sooner.notify_one();
        tracing::info!(ship = id, ?why, "ship stopped");
        Ok(written?)
    }

    /// Starts a ship that was stopped, for `session` or for those that were aboard. One that is up is left as it is.
    ///
    /// # Errors
    /// 404 for one that is not there or is being created; those of a new one.
    pub(in crate::serve) async fn start(
        self: &Arc<Self>,
        id: &str,
        session: Option<&str>,
        ttl: u64,
    ) -> Result<ShipView, Problem> {
        match self.lock().get(id) {
            Some(entry) if entry.is(Status::Running) => return Ok(ShipView::of(entry)),
            Some(entry) if entry.is(Status::Stopped) => {}
            _ => return Err(Problem::no_ship()),
        }
        let slot = self.slot().await?;
        let (fleet, id, session) = (Arc::clone(self), id.to_owned(), session.map(str::to_owned));
        finished(async move {
            fleet.restore(&id, session.as_deref(), ttl, slot).await.map_err(|(problem, _)| problem)
        })
        .await
    }

    /// Opens a ship that was stopped. The slot is given back with an error.
    pub(super) async fn restore(
        self: &Arc<Self>,
        id: &str,
        session: Option<&str>,
        ttl: u64,
        slot: OwnedSemaphorePermit,
    ) -> Result<ShipView, (Problem, OwnedSemaphorePermit)> {
        let Some(gate) = self.lock().get(id).map(|entry| Arc::clone(&entry.gate)) else {
            return Err((Problem::no_ship(), slot));
        };
        let _gate = gate.lock().await;
        let vessel = match self.lock().get_mut(id) {
            // Somebody else was first.
            Some(entry) if entry.is(Status::Running) => {
                let now = Moment::now();
                if let Some(session) = session.filter(|session| !entry.has(session, now)) {
                    if !entry.has_room(now) {
                        return Err((Problem::no_ship(), slot));
                    }
                    let change = entry.board(session, ttl, &self.clock);
                    self.ledger.submit(vec![change]).later();
                }
                return Ok(ShipView::of(entry));
            }
            Some(entry) if entry.is(Status::Stopped) => {
                entry.row.status = Status::Creating;
                entry.row.vessel.clone()
            }
            _ => return Err((Problem::no_ship(), slot)),
        };
        let opened = self.manager.open_vessel(&vessel).await;
        let (view, written) = self.come_back(id, session, ttl, slot, opened)?;
        self.sooner.notify_one();
        tracing::info!(ship = id, ttl, "ship started again");
        // It is up; what could not be written was told.
        let _ = written.wait().await;
        Ok(view)
    }

    /// A ship whose vessel was opened is up again; one that has none any more is forgotten.
    fn come_back(
        &self,
        id: &str,
        session: Option<&str>,
        ttl: u64,
        slot: OwnedSemaphorePermit,
        opened: crate::Result<Vessel>,
    ) -> Result<(ShipView, Written), (Problem, OwnedSemaphorePermit)> {
        let mut ships = self.lock();
        let Some(entry) = ships.get_mut(id) else { return Err((Problem::no_ship(), slot)) };
        let vessel = match opened {
            Ok(vessel) => vessel,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let gone = ships.remove(id);
                self.forget(id, gone.iter().flat_map(|entry| entry.sessions.keys())).later();
                return Err((Problem::no_ship(), slot));
            }
            Err(error) => {
                entry.row.status = Status::Stopped;
                return Err((Problem::internal(&error), slot));
            }
        };
        entry.ship = Some(Arc::new(Ship::new(vessel, self.ship_limits())));
        entry.slot = Some(slot);
        entry.row.status = Status::Running;
        entry.row.deleted = false;
        entry.row.updated_at = OffsetDateTime::now_utc();
        entry.row.ttl = ttl;
        let names: Vec<String> = match session {
            Some(session) => vec![session.to_owned()],
            None => entry.sessions.keys().take(entry.row.max_sessions as usize).cloned().collect(),
        };
        entry.until = names.is_empty().then(|| Moment::now().after(Duration::from_secs(ttl)));
        let mut changes: Vec<Change> = names.iter().map(|name| entry.board(name, ttl, &self.clock)).collect();
        changes.push(entry.change(&self.clock));
        Ok((ShipView::of(entry), self.ledger.submit(changes)))
    }

    /// Deletes a ship with all that was written.
    ///
    /// # Errors
    /// 404 for one that is not there, or is being created.
    pub(in crate::serve) async fn delete_for_ever(self: &Arc<Self>, id: &str) -> Result<(), Problem> {
        let (fleet, id) = (Arc::clone(self), id.to_owned());
        finished(async move { fleet.remove(&id).await }).await
    }

    pub(super) async fn remove(&self, id: &str) -> Result<(), Problem> {
        let gate = self.lock().get(id).map(|entry| Arc::clone(&entry.gate)).ok_or_else(Problem::no_ship)?;
        let _gate = gate.lock().await;
        let entry = {
            let mut ships = self.lock();
            match ships.get(id) {
                Some(entry) if !entry.is(Status::Creating) => {}
                _ => return Err(Problem::no_ship()),
            }
            ships.remove(id).ok_or_else(Problem::no_ship)?
        };
        self.forget(id, entry.sessions.keys()).wait().await?;
        if let Some(ship) = &entry.ship {
            ship.close().await;
        }
        match self.manager.delete_vessel(&entry.row.vessel).await {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                // It is nobody's any more, and removed when the service starts next.
                tracing::warn!(ship = id, error = error.chain(), "failed to delete the vessel of a ship");
            }
            _ => tracing::info!(ship = id, "ship deleted"),
        }
        Ok(())
    }

    fn forget<'a>(&self, id: &str, sessions: impl Iterator<Item = &'a String>) -> Written {
        let gone = |session: &String| Change::NoSession { ship: id.to_owned(), session: session.clone() };
        let mut changes: Vec<Change> = sessions.map(gone).collect();
        changes.push(Change::NoShip(id.to_owned()));
        self.ledger.submit(changes)
    }

    /// Lets all sessions of a ship expire `ttl` seconds from now.
    ///
    /// # Errors
    /// 404 for one that is not up.
    pub(in crate::serve) async fn extend(&self, id: &str, ttl: u64) -> Result<ShipView, Problem> {
        let (view, written) = {
            let mut ships = self.lock();
            let entry = ships.get_mut(id).filter(|entry| entry.is(Status::Running));
            let entry = entry.ok_or_else(Problem::no_ship)?;
            let (now, until) = (Moment::now(), Moment::now().after(Duration::from_secs(ttl)));
            entry.row.ttl = ttl;
            entry.row.updated_at = OffsetDateTime::now_utc();
            entry.until = entry.until.map(|_| until);
            let active = entry.sessions.values_mut().filter(|session| session.is_active(now));
            let mut changes: Vec<Change> = active.map(|session| session.expire(until, &self.clock)).collect();
            changes.push(entry.change(&self.clock));
            (ShipView::of(entry), self.ledger.submit(changes))
        };
        self.sooner.notify_one();
        written.wait().await?;
        Ok(view)
    }
}
