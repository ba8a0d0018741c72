//! Fields that several requests have.
#![forbid(unsafe_code)]

use axum::body::Body;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::{Fields, Invalid, read};
use crate::serve::http::answer::Trouble;

/// Ten years, in seconds: the longest time that is given.
const LONGEST_TTL: u64 = 10 * 365 * 24 * 3600;
/// Sessions that may be aboard of one ship.
const MOST_SESSIONS: u64 = 10_000;

impl Fields<'_> {
    /// Seconds; they must be there unless there is a default.
    pub(in crate::serve::http) fn ttl(&mut self, default: Option<u64>) -> u64 {
        self.positive("ttl", LONGEST_TTL, default)
    }

    /// How many sessions may be aboard; one unless told otherwise.
    pub(in crate::serve::http) fn seats(&mut self) -> u32 {
        let seats = self.positive("max_session_num", MOST_SESSIONS, Some(1));
        u32::try_from(seats).unwrap_or(u32::MAX)
    }
}

/// A body of which all fields may be left out, and so may be the body.
///
/// # Errors
/// Those of [`read`].
pub(in crate::serve::http) async fn read_or_empty(headers: &HeaderMap, body: Body) -> Result<Value, Trouble> {
    Ok(read(headers, body).await?.filter(|body| !body.is_null()).unwrap_or_else(|| json!({})))
}

/// The time of a body that has nothing else.
///
/// # Errors
/// 422.
pub(in crate::serve::http) fn ttl(body: Option<Value>) -> Result<u64, Trouble> {
    let mut wrong = Invalid::default();
    let ttl = Fields::of(body, &mut wrong).map_or(0, |mut fields| {
        let ttl = fields.ttl(None);
        fields.end();
        ttl
    });
    wrong.check()?;
    Ok(ttl)
}
