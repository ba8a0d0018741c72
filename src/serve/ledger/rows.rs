//! What is remembered of a ship and of a session.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::super::clock::Saved;
use super::super::spec::ShipSpec;

/// Whether a ship is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::serve) enum Status {
    /// It is not; what was written is there.
    Stopped,
    /// It is.
    Running,
    /// It is being made, or started again. Never on disk.
    Creating,
}

impl Status {
    /// As the API has it.
    pub(in crate::serve) fn number(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Running => 1,
            Self::Creating => 2,
        }
    }
}

/// A ship.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::serve) struct ShipRow {
    pub(in crate::serve) id: String,
    /// The id of its vessel.
    pub(in crate::serve) vessel: String,
    pub(in crate::serve) status: Status,
    /// It was deleted by a client: it is not shown by itself until it is started again.
    pub(in crate::serve) deleted: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub(in crate::serve) created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(in crate::serve) updated_at: OffsetDateTime,
    /// Seconds, as last asked for.
    pub(in crate::serve) ttl: u64,
    pub(in crate::serve) max_sessions: u32,
    pub(in crate::serve) spec: ShipSpec,
    /// Until when it runs without any session, if it was started so.
    pub(in crate::serve) until: Option<Saved>,
}

impl ShipRow {
    /// A ship that is being made.
    pub(in crate::serve) fn new(id: String, vessel: String, ttl: u64, max_sessions: u32) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            id,
            vessel,
            status: Status::Creating,
            deleted: false,
            created_at: now,
            updated_at: now,
            ttl,
            max_sessions,
            spec: ShipSpec::default(),
            until: None,
        }
    }
}

/// A session on a ship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::serve) struct SessionRow {
    /// Of this row.
    pub(in crate::serve) id: String,
    pub(in crate::serve) ship: String,
    /// As its client names it.
    pub(in crate::serve) session: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(in crate::serve) created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(in crate::serve) last_activity: OffsetDateTime,
    /// When it expires, or has.
    pub(in crate::serve) expires: Saved,
    /// Seconds that it was created with: what a command gives it anew.
    pub(in crate::serve) initial_ttl: u64,
    /// It has not been ended.
    pub(in crate::serve) active: bool,
}

impl SessionRow {
    /// A session that begins.
    pub(in crate::serve) fn new(session: String, ship: String, ttl: u64, expires: Saved) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            ship,
            session,
            created_at: now,
            last_activity: now,
            expires,
            initial_ttl: ttl,
            active: true,
        }
    }
}
