//! Making [`Fault`]s out of errors.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io;

use super::protocol::{Fault, FaultKind};

impl Fault {
    /// A fault of `kind` that says `message`.
    #[must_use]
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None, remedy: None }
    }

    /// With what the user can do about it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// `doing` failed with an error of the operating system, which decides the kind.
    #[must_use]
    pub fn io(doing: impl Display, error: &io::Error) -> Self {
        Self {
            kind: kind_of(error),
            message: format!("{doing}: {error}"),
            errno: error.raw_os_error(),
            remedy: None,
        }
    }

    /// Any error with its causes, told once.
    #[must_use]
    pub fn internal(doing: impl Display, error: &dyn std::error::Error) -> Self {
        Self::new(FaultKind::Internal, format!("{doing}: {}", chain(error)))
    }
}

/// An error and its causes on one line, leaving out a cause that its parent has told already.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = error.source();
    }
    text
}

fn kind_of(error: &io::Error) -> FaultKind {
    if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return FaultKind::InvalidArgument; // std's name for it is not stable
    }
    match error.kind() {
        io::ErrorKind::NotFound => FaultKind::NotFound,
        io::ErrorKind::AlreadyExists => FaultKind::AlreadyExists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FaultKind::PermissionDenied,
        io::ErrorKind::InvalidInput
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::DirectoryNotEmpty
        | io::ErrorKind::InvalidFilename => FaultKind::InvalidArgument,
        io::ErrorKind::ResourceBusy => FaultKind::Busy,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            FaultKind::LimitExceeded
        }
        io::ErrorKind::Unsupported => FaultKind::Unsupported,
        _ => FaultKind::Internal,
    }
}
