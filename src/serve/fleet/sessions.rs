//! Sessions, by themselves.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use super::Fleet;
use super::entry::{Entry, Session};
use super::life::Why;
use super::view::SessionView;
use crate::serve::clock::Moment;
use crate::serve::ledger::{Change, Status};
use crate::serve::problem::Problem;

fn no_session() -> Problem {
    Problem::new(404, "Session not found")
}

/// The one that counts of those with the same name: that which is aboard, then the one that did something last.
fn best<'a>(found: impl Iterator<Item = (&'a Entry, &'a Session)>) -> Option<(&'a Entry, &'a Session)> {
    let now = Moment::now();
    found.max_by_key(|(entry, session)| {
        let aboard = entry.has(&session.row.session, now);
        (aboard, session.row.last_activity, session.row.id.clone())
    })
}

impl Fleet {
    /// All sessions, newest first.
    pub(in crate::serve) fn sessions(&self) -> Vec<SessionView> {
        let ships = self.lock();
        let mut all: Vec<(&Entry, &Session)> =
            ships.values().flat_map(|entry| entry.sessions.values().map(move |s| (entry, s))).collect();
        all.sort_by(|(_, a), (_, b)| (b.row.created_at, &b.row.id).cmp(&(a.row.created_at, &a.row.id)));
        all.into_iter().map(|(entry, session)| SessionView::of(session, entry)).collect()
    }

    /// Those of one ship.
    ///
    /// # Errors
    /// 404 for one that is not there.
    pub(in crate::serve) fn sessions_of(&self, ship: &str) -> Result<Vec<SessionView>, Problem> {
        let ships = self.lock();
        let entry = ships.get(ship).filter(|entry| !entry.row.deleted).ok_or_else(Problem::no_ship)?;
        let mut all: Vec<&Session> = entry.sessions.values().collect();
        all.sort_by(|a, b| (b.row.created_at, &b.row.id).cmp(&(a.row.created_at, &a.row.id)));
        Ok(all.into_iter().map(|session| SessionView::of(session, entry)).collect())
    }

    /// One by its name.
    ///
    /// # Errors
    /// 404.
    pub(in crate::serve) fn session(&self, name: &str) -> Result<SessionView, Problem> {
        let ships = self.lock();
        let found = ships.values().filter_map(|entry| Some((entry, entry.sessions.get(name)?)));
        best(found).map(|(entry, session)| SessionView::of(session, entry)).ok_or_else(no_session)
    }

    /// Lets a session expire `ttl` seconds from now.
    ///
    /// # Errors
    /// 404 for one that is not aboard.
    pub(in crate::serve) async fn extend_session(
        &self,
        name: &str,
        ttl: u64,
    ) -> Result<SessionView, Problem> {
        let (view, written) = {
            let mut ships = self.lock();
            let now = Moment::now();
            let found = ships.values().filter(|entry| entry.has(name, now));
            let id = best(found.filter_map(|entry| Some((entry, entry.sessions.get(name)?))))
                .map(|(entry, _)| entry.row.id.clone())
                .ok_or_else(no_session)?;
            let entry = ships.get_mut(&id).ok_or_else(no_session)?;
            let session = entry.sessions.get_mut(name).ok_or_else(no_session)?;
            let change = session.expire(now.after(Duration::from_secs(ttl)), &self.clock);
            let written = self.ledger.submit(vec![change]);
            (entry.sessions.get(name).map(|session| SessionView::of(session, entry)), written)
        };
        self.sooner.notify_one();
        written.wait().await?;
        view.ok_or_else(no_session)
    }

    /// Ends a session wherever it is, and forgets it; a ship that it was the last aboard of is stopped.
    ///
    /// # Errors
    /// 404.
    pub(in crate::serve) async fn delete_session(self: &Arc<Self>, name: &str) -> Result<(), Problem> {
        let (fleet, name) = (Arc::clone(self), name.to_owned());
        super::finished(async move { fleet.remove_session(&name).await }).await
    }

    async fn remove_session(self: &Arc<Self>, name: &str) -> Result<(), Problem> {
        let (mut left, mut empty, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        let written = {
            let mut ships = self.lock();
            for entry in ships.values_mut() {
                if entry.sessions.remove(name).is_none() {
                    continue;
                }
                let (ship, session) = (entry.row.id.clone(), name.to_owned());
                changes.push(Change::NoSession { ship: ship.clone(), session });
                left.extend(entry.ship.clone());
                if entry.is(Status::Running) && entry.expires().is_none() {
                    empty.push(ship);
                }
            }
            if changes.is_empty() {
                return Err(no_session());
            }
            self.ledger.submit(changes)
        };
        for ship in left {
            ship.end_session(name).await;
        }
        for ship in empty {
            // Whoever came aboard meanwhile keeps it up.
            self.stop(&ship, Why::Expired).await?;
        }
        Ok(written.wait().await?)
    }
}
