//! What clients see of ships and sessions.
#![forbid(unsafe_code)]

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use super::entry::{Entry, Session};
use super::{Fleet, Status};
use crate::serve::clock::Moment;

/// A ship.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Ship)]
pub(in crate::serve) struct ShipView {
    /// Its id.
    #[schema(format = "uuid")]
    pub(in crate::serve) id: String,
    /// 0 stopped, 1 running, 2 being created.
    #[schema(minimum = 0, maximum = 2)]
    status: u8,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// The id of its vessel.
    container_id: Option<String>,
    /// Always null: ships have no address of their own.
    ip_address: Option<String>,
    /// Seconds, as last asked for.
    #[schema(minimum = 1)]
    ttl: u64,
    /// Sessions that may be aboard at once.
    #[schema(minimum = 1)]
    max_session_num: u32,
    /// Sessions that are aboard.
    #[schema(minimum = 0)]
    current_session_num: usize,
    /// When the last of its sessions expires.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// A session on a ship.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Session)]
pub(in crate::serve) struct SessionView {
    /// Of the session on this ship.
    #[schema(format = "uuid")]
    id: String,
    /// As its client names it.
    session_id: String,
    #[schema(format = "uuid")]
    ship_id: String,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    last_activity: String,
    #[schema(format = DateTime)]
    expires_at: String,
    /// Seconds that each command gives it anew.
    #[schema(minimum = 1)]
    initial_ttl: u64,
    /// Whether it is aboard.
    is_active: bool,
}

/// How many ships and sessions there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(in crate::serve) struct Counts {
    pub(in crate::serve) running: usize,
    pub(in crate::serve) stopped: usize,
    pub(in crate::serve) creating: usize,
    pub(in crate::serve) sessions: usize,
    pub(in crate::serve) active: usize,
}

/// RFC 3339 with microseconds at most, which is what Python reads.
pub(super) fn stamp(time: OffsetDateTime) -> String {
    let micros = time.nanosecond() / 1000 * 1000;
    let time = time.replace_nanosecond(micros).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

impl ShipView {
    pub(super) fn of(entry: &Entry) -> Self {
        let row = &entry.row;
        Self {
            id: row.id.clone(),
            status: row.status.number(),
            created_at: stamp(row.created_at),
            updated_at: stamp(row.updated_at),
            container_id: Some(row.vessel.clone()).filter(|vessel| !vessel.is_empty()),
            ip_address: None,
            ttl: row.ttl,
            max_session_num: row.max_sessions,
            current_session_num: entry.aboard(Moment::now()),
            expires_at: entry.expires().map(|moment| stamp(moment.on_the_wall())),
        }
    }
}

impl SessionView {
    pub(super) fn of(session: &Session, entry: &Entry) -> Self {
        let row = &session.row;
        Self {
            id: row.id.clone(),
            session_id: row.session.clone(),
            ship_id: row.ship.clone(),
            created_at: stamp(row.created_at),
            last_activity: stamp(row.last_activity),
            expires_at: stamp(session.expires.on_the_wall()),
            initial_ttl: row.initial_ttl,
            is_active: !entry.is(Status::Stopped) && session.is_active(Moment::now()),
        }
    }
}

impl Fleet {
    /// All ships, newest first.
    pub(in crate::serve) fn list(&self) -> Vec<ShipView> {
        let ships = self.lock();
        let mut entries: Vec<&Entry> = ships.values().collect();
        entries.sort_by(|a, b| (b.row.created_at, &b.row.id).cmp(&(a.row.created_at, &a.row.id)));
        entries.into_iter().map(ShipView::of).collect()
    }

    /// A ship that was not deleted.
    pub(in crate::serve) fn get(&self, id: &str) -> Option<ShipView> {
        self.lock().get(id).filter(|entry| !entry.row.deleted).map(ShipView::of)
    }

    /// How many there are.
    pub(in crate::serve) fn counts(&self) -> Counts {
        let now = Moment::now();
        let mut counts = Counts::default();
        for entry in self.lock().values() {
            match entry.row.status {
                Status::Running => counts.running += 1,
                Status::Stopped => counts.stopped += 1,
                Status::Creating => counts.creating += 1,
            }
            counts.sessions += entry.sessions.len();
            counts.active += entry.aboard(now);
        }
        counts
    }
}
