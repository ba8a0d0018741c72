//! [`Problem`]: why a request was not done, as its client reads it.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind};

/// A status and what `detail` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn new(status: u16, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// There is no such ship, or not for this.
    pub(super) fn no_ship() -> Self {
        Self::new(404, "Ship not found")
    }

    /// There is no such ship, or it is not up.
    pub(super) fn not_running() -> Self {
        Self::new(400, "Ship not found or not running")
    }

    /// It is somebody else's.
    pub(super) fn no_access() -> Self {
        Self::new(400, "Session does not have access to this ship")
    }

    /// Of what only a bug or the machine can be the cause.
    pub(super) fn internal(error: &Error) -> Self {
        Self::new(500, error.chain())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => 404,
            ErrorKind::InvalidArgument => 400,
            ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::LimitExceeded => 409,
            ErrorKind::Unsupported { .. } => 501,
            ErrorKind::Unavailable => 503,
            _ => 500,
        };
        Self::new(status, error.chain())
    }
}

impl From<super::ship::Refusal> for Problem {
    fn from(refusal: super::ship::Refusal) -> Self {
        Self::new(refusal.status, refusal.detail)
    }
}
