//! What goes wrong while an operation is executed, before the entry is named.
#![forbid(unsafe_code)]

use std::io;

use rustix::io::Errno;

use crate::layer::entry::Reject;
use crate::layer::tar::ParseError;

/// A failure of one step.
#[derive(Debug)]
pub(super) enum Fault {
    Io { action: &'static str, source: io::Error },
    Xattr { name: Vec<u8>, source: io::Error },
    Parse(ParseError),
    Rejected(Reject),
    Limit { what: &'static str, limit: u64 },
    InTheWay,
    LinkMissing { target: String },
    LinkToDirectory { target: String },
}

pub(super) type Step<T> = Result<T, Fault>;

impl From<ParseError> for Fault {
    fn from(source: ParseError) -> Self {
        Self::Parse(source)
    }
}

/// Names the action that failed; `action` completes "failed to …".
pub(super) trait During<T> {
    fn during(self, action: &'static str) -> Step<T>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, action: &'static str) -> Step<T> {
        self.map_err(|errno| Fault::Io { action, source: errno.into() })
    }
}

impl<T> During<T> for io::Result<T> {
    fn during(self, action: &'static str) -> Step<T> {
        self.map_err(|source| Fault::Io { action, source })
    }
}
