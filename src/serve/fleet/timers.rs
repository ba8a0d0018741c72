//! What happens when time is up.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use super::Fleet;
use super::life::Why;
use crate::serve::clock::Moment;
use crate::serve::ledger::Status;
use crate::serve::ship::Ship;

/// The clock of timers stands still while the machine sleeps, so it is looked at now and then.
const LONGEST: Duration = Duration::from_secs(30);

/// What is due, and when something is next.
#[derive(Default)]
struct Due {
    /// Ships that nobody is aboard of any more.
    expired: Vec<String>,
    /// Ships that are kept no longer.
    old: Vec<String>,
    /// Sessions that leave ships that stay.
    left: Vec<(Arc<Ship>, String)>,
    next: Option<Moment>,
}

impl Fleet {
    /// Ends what is due until the service leaves.
    pub(super) async fn watch(self: Arc<Self>) {
        loop {
            let due = self.due();
            for (ship, session) in due.left {
                tracing::info!(session, "session expired");
                tokio::spawn(async move { ship.end_session(&session).await });
            }
            for id in due.expired {
                let fleet = Arc::clone(&self);
                tokio::spawn(async move { fleet.stop(&id, Why::Expired).await });
            }
            for id in due.old {
                let fleet = Arc::clone(&self);
                tokio::spawn(async move { fleet.remove(&id).await });
            }
            let wait = due.next.map_or(LONGEST, |next| next.since(Moment::now()).min(LONGEST));
            tokio::select! {
                // A moment later than the last millisecond that counts; and what is being stopped is no reason to spin.
                () = tokio::time::sleep(wait + Duration::from_millis(20)) => {}
                () = self.sooner.notified() => {}
                () = self.closing.cancelled() => return,
            }
        }
    }

    fn due(&self) -> Due {
        let now = Moment::now();
        let mut due = Due::default();
        let mut changes = Vec::new();
        for (id, entry) in self.lock().iter_mut() {
            let ends = match entry.row.status {
                Status::Running => entry.expires(),
                Status::Stopped => entry.until,
                Status::Creating => continue,
            };
            if ends.is_none_or(|ends| ends <= now) {
                match entry.row.status {
                    Status::Stopped if ends.is_some() => due.old.push(id.clone()),
                    Status::Running => due.expired.push(id.clone()),
                    _ => {}
                }
                continue;
            }
            due.next = [due.next, ends].into_iter().flatten().min();
            if entry.is(Status::Stopped) {
                continue;
            }
            for session in entry.sessions.values_mut().filter(|session| session.row.active) {
                if session.expires > now {
                    due.next = [due.next, Some(session.expires)].into_iter().flatten().min();
                    continue;
                }
                changes.push(session.end(&self.clock));
                due.left.extend(entry.ship.clone().map(|ship| (ship, session.row.session.clone())));
            }
        }
        if !changes.is_empty() {
            self.ledger.submit(changes).later();
        }
        due
    }
}
