//! [`Entry`]: a ship as the fleet knows it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;

use crate::serve::clock::{Clock, Moment};
use crate::serve::ledger::{Change, SessionRow, ShipRow, Status};
use crate::serve::ship::Ship;

/// How old what is on disk of a session's expiry may be.
const STALE: Duration = Duration::from_secs(1);

/// A ship, with who is aboard.
pub(super) struct Entry {
    pub(super) row: ShipRow,
    pub(super) sessions: HashMap<String, Session>,
    /// `None` while it is not open.
    pub(super) ship: Option<Arc<Ship>>,
    /// Its right to be up.
    pub(super) slot: Option<OwnedSemaphorePermit>,
    /// Held by whoever opens, closes or deletes it.
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
    /// Up: until when without any session. Stopped: until when it is kept.
    pub(super) until: Option<Moment>,
}

/// A session on a ship.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) row: SessionRow,
    pub(super) expires: Moment,
    /// When its row was last written.
    saved: Moment,
}

impl Session {
    /// One that begins now.
    pub(super) fn new(session: &str, ship: &str, ttl: u64, clock: &Clock) -> Self {
        let expires = Moment::now().after(Duration::from_secs(ttl));
        let row = SessionRow::new(session.to_owned(), ship.to_owned(), ttl, clock.save(expires));
        Self { row, expires, saved: Moment::now() }
    }

    /// One that was remembered.
    pub(super) fn of(row: SessionRow, clock: &Clock) -> Self {
        Self { expires: clock.restore(&row.expires), row, saved: Moment::now() }
    }

    /// Whether it is aboard.
    pub(super) fn is_active(&self, now: Moment) -> bool {
        self.row.active && self.expires > now
    }

    /// Sets when it expires.
    pub(super) fn expire(&mut self, at: Moment, clock: &Clock) -> Change {
        self.expires = at;
        self.row.expires = clock.save(at);
        self.saved = Moment::now();
        Change::Session(self.row.clone())
    }

    /// Begins anew.
    pub(super) fn begin(&mut self, ttl: u64, clock: &Clock) -> Change {
        self.row.active = true;
        self.row.initial_ttl = ttl;
        self.row.last_activity = OffsetDateTime::now_utc();
        self.expire(Moment::now().after(Duration::from_secs(ttl)), clock)
    }

    /// It did something, which gives it the time that it began with, and never takes any: an extension stays. What there is
    /// to write, if that was not just done.
    pub(super) fn did(&mut self, clock: &Clock) -> Option<Change> {
        let now = Moment::now();
        self.row.last_activity = OffsetDateTime::now_utc();
        self.expires = self.expires.max(now.after(Duration::from_secs(self.row.initial_ttl)));
        (now.since(self.saved) >= STALE).then(|| self.expire(self.expires, clock))
    }

    /// Ends now, if it has not.
    pub(super) fn end(&mut self, clock: &Clock) -> Change {
        self.row.active = false;
        self.expire(self.expires.min(Moment::now()), clock)
    }
}

impl Entry {
    pub(super) fn new(row: ShipRow, slot: Option<OwnedSemaphorePermit>) -> Self {
        Self { row, sessions: HashMap::new(), ship: None, slot, gate: Arc::default(), until: None }
    }

    pub(super) fn is(&self, status: Status) -> bool {
        self.row.status == status
    }

    /// Sessions that are aboard.
    pub(super) fn aboard(&self, now: Moment) -> usize {
        if !self.is(Status::Stopped) {
            return self.sessions.values().filter(|session| session.is_active(now)).count();
        }
        0
    }

    /// Whether this session is aboard.
    pub(super) fn has(&self, session: &str, now: Moment) -> bool {
        self.is(Status::Running) && self.sessions.get(session).is_some_and(|session| session.is_active(now))
    }

    /// Whether one more session fits.
    pub(super) fn has_room(&self, now: Moment) -> bool {
        self.aboard(now) < self.row.max_sessions as usize
    }

    /// Takes a session aboard.
    pub(super) fn board(&mut self, name: &str, ttl: u64, clock: &Clock) -> Change {
        self.row.updated_at = OffsetDateTime::now_utc();
        match self.sessions.get_mut(name) {
            Some(session) => session.begin(ttl, clock),
            None => {
                let session = Session::new(name, &self.row.id, ttl, clock);
                let change = Change::Session(session.row.clone());
                self.sessions.insert(name.to_owned(), session);
                change
            }
        }
    }

    /// When the last of what keeps it up ends.
    pub(super) fn expires(&self) -> Option<Moment> {
        let sessions = self.sessions.values().filter(|session| session.row.active);
        let last = sessions.map(|session| session.expires).max();
        last.max(self.until.filter(|_| self.is(Status::Running)))
    }

    /// Everything that is to be remembered. One that is being made was not there, or was stopped.
    pub(super) fn changes(&self, clock: &Clock) -> Vec<Change> {
        if self.is(Status::Creating) {
            return Vec::new();
        }
        let sessions = self.sessions.values().map(|session| {
            let row = SessionRow { expires: clock.save(session.expires), ..session.row.clone() };
            Change::Session(row)
        });
        std::iter::once(self.change(clock)).chain(sessions).collect()
    }

    /// The ship alone.
    pub(super) fn change(&self, clock: &Clock) -> Change {
        Change::Ship(ShipRow { until: self.until.map(|until| clock.save(until)), ..self.row.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(max: u32) -> Entry {
        let mut entry = Entry::new(ShipRow::new("a".into(), "v".into(), 60, max), None);
        entry.row.status = Status::Running;
        entry
    }

    #[test]
    fn what_is_done_never_undoes_an_extension() {
        let clock = Clock::new();
        let mut session = Session::new("s", "a", 8, &clock);
        let extended = Moment::now().after(Duration::from_secs(100));
        let _ = session.expire(extended, &clock);
        assert!(session.did(&clock).is_none(), "it was just written");
        assert_eq!(session.expires, extended);
        let _ = session.expire(Moment::now().after(Duration::from_secs(1)), &clock);
        let _ = session.did(&clock);
        let left = session.expires.since(Moment::now());
        assert!(left > Duration::from_secs(7) && left <= Duration::from_secs(8), "{left:?}");
    }

    #[test]
    fn who_has_left_makes_room() {
        let clock = Clock::new();
        let mut entry = entry(1);
        let _ = entry.board("s", 60, &clock);
        let now = Moment::now();
        assert!(entry.has("s", now) && !entry.has("t", now) && !entry.has_room(now));
        let _ = entry.sessions.get_mut("s").unwrap().end(&clock);
        assert!(!entry.has("s", now) && entry.has_room(now));
        assert_eq!(entry.expires(), None);
        let _ = entry.board("s", 60, &clock);
        assert!(entry.has("s", Moment::now()));
        entry.row.status = Status::Stopped;
        assert_eq!(entry.aboard(Moment::now()), 0);
    }

    #[test]
    fn a_ship_expires_with_the_last_of_its_sessions() {
        let clock = Clock::new();
        let mut entry = entry(3);
        assert_eq!(entry.expires(), None);
        let _ = entry.board("s", 60, &clock);
        let _ = entry.board("t", 600, &clock);
        let left = entry.expires().unwrap().since(Moment::now());
        assert!(left > Duration::from_secs(590), "{left:?}");
    }
}
