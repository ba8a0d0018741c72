//! [`Failure`]: why a verb did not do what it was asked, and the exit code that says so.
#![forbid(unsafe_code)]

use std::error::Error as _;
use std::fmt;
use std::io;

use vesselrt::{Error, ErrorKind};

/// The exit code of an error of vesselrt itself, as `docker run` and `env(1)` have it.
pub(crate) const OURS: u8 = 125;
/// The exit code of a program that is there and cannot be executed (POSIX sh, 2.8.2).
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The exit code of a program that is not there (POSIX sh, 2.8.2).
pub(crate) const NO_COMMAND: u8 = 127;

/// What to do when the disk is full.
const MAKE_ROOM: &str =
    "make room on that disk: `vesselrt du` shows what vessels take, `vesselrt gc` removes what nothing needs";

/// The result of a verb.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: &'static str,
    message: String,
    remedy: Option<String>,
    code: u8,
    /// Whoever read our output has left: nobody is there to be told, and nothing is wrong.
    quiet: bool,
}

impl Failure {
    /// An argument that makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument.as_str(), message)
    }

    /// Something that is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound.as_str(), message)
    }

    /// A state that does not allow it.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict.as_str(), message)
    }

    /// Too much of something.
    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::LimitExceeded.as_str(), message)
    }

    /// A failure of any kind.
    pub(crate) fn of_kind(kind: &ErrorKind, message: impl Into<String>) -> Self {
        Self::new(kind.as_str(), message)
    }

    /// A bug, or a system call that failed for no reason that a user could know.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal.as_str(), message)
    }

    /// `doing` fits "failed to …".
    pub(crate) fn io(doing: impl fmt::Display, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        Self::of_io_kind(format!("failed to {doing}: {error}"), Some(error.kind()))
    }

    /// A complete message, with the kind that an error of the system stands for.
    pub(crate) fn of_io_kind(message: String, kind: Option<io::ErrorKind>) -> Self {
        let name = match kind {
            Some(io::ErrorKind::NotFound) => ErrorKind::NotFound,
            Some(io::ErrorKind::AlreadyExists) => ErrorKind::AlreadyExists,
            Some(io::ErrorKind::PermissionDenied) => ErrorKind::PermissionDenied,
            Some(
                io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory,
            ) => ErrorKind::InvalidArgument,
            Some(
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem,
            ) => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
        Self { quiet: kind == Some(io::ErrorKind::BrokenPipe), ..Self::new(name.as_str(), message) }
    }

    fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), remedy: None, code: OURS, quiet: false }
    }

    /// Adds what the user can do about it.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// An error of starting a command has an exit code of its own.
    pub(crate) fn of_command(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::NotFound => NO_COMMAND,
            ErrorKind::PermissionDenied => NOT_EXECUTABLE,
            _ => OURS,
        };
        Self { code, ..Self::from(error) }
    }

    /// Sets the exit code.
    #[cfg(feature = "vm")]
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// What failed.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What the user can do about it.
    pub(crate) fn remedy_text(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        if self.quiet { 0 } else { self.code }
    }

    /// Whether nothing is to be said about it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// As people read it: what failed, and what to do on a second line.
    pub(crate) fn text(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("vesselrt: error: {}\n  remedy: {remedy}\n", self.message),
            None => format!("vesselrt: error: {}\n", self.message),
        }
    }

    /// As programs read it.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": { "kind": self.kind, "message": self.message, "remedy": self.remedy }
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let because = |kind| {
            std::iter::successors(error.source(), |e| (*e).source())
                .filter_map(|e| e.downcast_ref::<io::Error>())
                .any(|e| e.kind() == kind)
        };
        let quiet = because(io::ErrorKind::BrokenPipe);
        let full = || because(io::ErrorKind::StorageFull).then_some(MAKE_ROOM);
        let remedy = error.remedy().or_else(full).map(str::to_owned);
        Self { kind: error.kind().as_str(), message: error.chain(), remedy, code: OURS, quiet }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_its_remedy() {
        let failure = Failure::not_found("no such thing").remedy("make one");
        assert_eq!(failure.text(), "vesselrt: error: no such thing\n  remedy: make one\n");
        let json = failure.json();
        assert_eq!(json["error"]["kind"], "not_found");
        assert_eq!(json["error"]["message"], "no such thing");
        assert_eq!(json["error"]["remedy"], "make one");
        assert_eq!(failure.code(), OURS);
        assert!(Failure::invalid("x").json()["error"]["remedy"].is_null());
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let left = Failure::io("write", io::ErrorKind::BrokenPipe);
        assert!(left.is_quiet());
        assert_eq!(left.code(), 0);
        assert!(!Failure::io("write", io::ErrorKind::StorageFull).is_quiet());
    }
}
