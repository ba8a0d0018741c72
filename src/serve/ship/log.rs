//! What a ship was asked for, for `logs`.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Lines that are remembered, and how long one is at most.
const LINES: usize = 1000;
const LENGTH: usize = 400;

/// The last things that happened in a ship.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<VecDeque<String>>);

impl Log {
    /// An operation of a session and its status.
    pub(super) fn note(&self, session: &str, operation: &str, status: u16, took: Duration) {
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        // Both come from a client.
        let (session, operation) = (session.escape_debug(), operation.escape_debug());
        let line = format!("{now} session={session} {operation} {status} {}ms", took.as_millis());
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.truncate(LINES - 1);
        lines.push_front(line.chars().take(LENGTH).collect());
    }

    /// All of it, the oldest first.
    pub(super) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_has_one_line_for_each_operation() {
        let log = Log::default();
        for n in 0..=LINES {
            log.note(&format!("s\n{n}"), &"x".repeat(2 * LENGTH), 200, Duration::ZERO);
        }
        let text = log.text();
        assert_eq!(text.lines().count(), LINES);
        assert!(text.lines().next().unwrap().contains("session=s\\n1 xxx"));
        assert!(text.lines().all(|line| line.chars().count() <= LENGTH));
    }
}
