//! The one error of this library.
//!
//! [`Error`] is opaque: decide by [`Error::kind`], show the `Display` text and the `source` chain, offer [`Error::remedy`].
//! The modules below (`vesselrt-runtime`, `vesselrt-storage`) have typed errors of their own; this file is the only place
//! that maps them to kinds. A source never repeats what the error above it says.
#![forbid(unsafe_code)]

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustix::io::Errno;
use vesselrt_runtime::launch::LaunchError;
use vesselrt_runtime::shim::client::CallError;
use vesselrt_runtime::shim::protocol::{Fault, FaultKind};
use vesselrt_storage::error::{StorageError, StorageErrorKind, io_kind};
use vesselrt_storage::registry::RegistryError;

/// The result of everything in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A vessel, snapshot, image, file, command or user that was asked for does not exist.
    NotFound,
    /// What was to be created exists already.
    AlreadyExists,
    /// An argument makes no sense.
    InvalidArgument,
    /// The state of the vessel or of the store does not allow it now: something else uses it, or depends on it.
    Conflict,
    /// This host, or this version, cannot do it.
    Unsupported {
        /// What is missing.
        what: String,
        /// What the user can do about it; empty when nothing is known.
        remedy: String,
    },
    /// The operating system refused.
    PermissionDenied,
    /// Bytes are not what they must be: a wrong digest or size, a malformed manifest or archive.
    IntegrityViolation,
    /// A limit was met.
    LimitExceeded,
    /// It did not work this time and may work later: the shim was killed, the disk is full.
    Unavailable,
    /// Anything else: an I/O error, a bug.
    Internal,
}

impl ErrorKind {
    /// The name of the kind in snake case, as JSON output and HTTP answers have it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::InvalidArgument => "invalid_argument",
            Self::Conflict => "conflict",
            Self::Unsupported { .. } => "unsupported",
            Self::PermissionDenied => "permission_denied",
            Self::IntegrityViolation => "integrity_violation",
            Self::LimitExceeded => "limit_exceeded",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// Why an operation failed.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    remedy: Option<String>,
    exit_code: Option<i32>,
    outside: bool,
    source: Option<Source>,
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind.clone()
    }

    /// What the user can do about it, as a sentence without a full stop or a command line, where that is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        match &self.0.kind {
            ErrorKind::Unsupported { remedy, .. } if !remedy.is_empty() => Some(remedy),
            _ => self.0.remedy.as_deref(),
        }
    }

    /// The same operation may succeed when it is tried again, unchanged.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unavailable)
    }

    /// What a shell exits with where a command could not be started: 127 when its program does not exist, 126 when it
    /// cannot be executed. `None` for every other error.
    #[must_use]
    pub fn command_exit_code(&self) -> Option<i32> {
        self.0.exit_code
    }

    /// A path leads out of the directory of [`UserFiles`](crate::UserFiles).
    #[must_use]
    pub fn leads_outside(&self) -> bool {
        self.0.outside
    }

    /// The message with those of all sources, outermost first, joined by `": "`.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        text
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            remedy: None,
            exit_code: None,
            outside: false,
            source: None,
        }))
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    pub(crate) fn integrity(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::IntegrityViolation, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// `message` is what was tried ("failed to …"), `source` what the system said.
    pub(crate) fn io(message: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let limit = Errno::from_io_error(&source).and_then(limit_of_the_host);
        let error = match limit {
            Some(remedy) => Self::new(ErrorKind::LimitExceeded, message).with_remedy(remedy),
            None => Self::new(of_storage(io_kind(&source), String::new), message),
        };
        error.with_source(source)
    }

    /// `message` is what was tried ("failed to …").
    pub(crate) fn storage(message: impl Into<String>, source: StorageError) -> Self {
        Self::new(of_storage(source.kind(), || source.to_string()), message).with_source(source)
    }
}

impl Error {
    /// `message` is what was tried ("failed to …").
    pub(crate) fn registry(message: impl Into<String>, source: RegistryError) -> Self {
        let kind = of_storage(source.kind(), || source.to_string());
        let remedy = source.remedy();
        let error = Self::new(kind, message).with_source(source);
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }
}

/// What to do when this process, its user or the host has no more of something.
fn limit_of_the_host(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::MFILE => {
            Some("this process has as many open files as it may: close vessels, or raise `ulimit -n`")
        }
        Errno::NFILE => Some("this host has as many open files as it may: raise sysctl fs.file-max"),
        _ => None,
    }
}

/// The kinds of the storage crate are ours by other names.
fn of_storage(kind: StorageErrorKind, what: impl FnOnce() -> String) -> ErrorKind {
    match kind {
        StorageErrorKind::NotFound => ErrorKind::NotFound,
        StorageErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        StorageErrorKind::InvalidArgument => ErrorKind::InvalidArgument,
        StorageErrorKind::IntegrityViolation => ErrorKind::IntegrityViolation,
        StorageErrorKind::LimitExceeded => ErrorKind::LimitExceeded,
        StorageErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        StorageErrorKind::Unavailable => ErrorKind::Unavailable,
        StorageErrorKind::Unsupported => ErrorKind::Unsupported { what: what(), remedy: String::new() },
        _ => ErrorKind::Internal,
    }
}

fn of_fault(fault: &Fault) -> ErrorKind {
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS].map(|errno| Some(errno.raw_os_error()));
    match fault.kind {
        FaultKind::LimitExceeded | FaultKind::Internal if full.contains(&fault.errno) => {
            ErrorKind::Unavailable
        }
        FaultKind::NotFound | FaultKind::CommandNotFound => ErrorKind::NotFound,
        FaultKind::AlreadyExists => ErrorKind::AlreadyExists,
        FaultKind::InvalidArgument => ErrorKind::InvalidArgument,
        FaultKind::Busy => ErrorKind::Conflict,
        FaultKind::PermissionDenied | FaultKind::CommandNotExecutable | FaultKind::Outside => {
            ErrorKind::PermissionDenied
        }
        FaultKind::LimitExceeded => ErrorKind::LimitExceeded,
        FaultKind::Integrity => ErrorKind::IntegrityViolation,
        FaultKind::Unsupported => ErrorKind::Unsupported {
            what: fault.message.clone(),
            remedy: fault.remedy.clone().unwrap_or_default(),
        },
        FaultKind::Internal => ErrorKind::Internal,
    }
}

impl From<Fault> for Error {
    /// A fault tells its causes in its message, so it is no source of its own.
    fn from(fault: Fault) -> Self {
        let mut error = Self::new(of_fault(&fault), fault.message);
        error.0.exit_code = match fault.kind {
            FaultKind::CommandNotFound => Some(127),
            FaultKind::CommandNotExecutable => Some(126),
            _ => None,
        };
        error.0.outside = fault.kind == FaultKind::Outside;
        error.0.remedy = fault.remedy;
        error
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Fault(fault) => fault.into(),
            CallError::Lost(source) => {
                Self::new(ErrorKind::Unavailable, "lost the connection to the vessel's shim")
                    .with_source(source)
            }
            CallError::Version { .. } => Self::conflict(error.to_string())
                .with_remedy("stop the vessel with the vesselrt that started it"),
            CallError::Unexpected(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<LaunchError> for Error {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Start { step, source } if Errno::from_io_error(&source) == Some(Errno::AGAIN) => {
                Self::new(ErrorKind::LimitExceeded, format!("failed to {step}")).with_source(source).with_remedy(
                    "this user has as many processes as it may: stop vessels (`vesselrt stop`), or raise `ulimit -u` or the \
                     limits of the control group",
                )
            }
            LaunchError::Start { step, source } => Self::io(format!("failed to {step}"), source),
            LaunchError::Unsupported { what, remedy } => {
                Self::new(ErrorKind::Unsupported { what: what.clone(), remedy }, what)
            }
            LaunchError::Call(call) => call.into(),
        }
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        let mut cause = error.source().map(ToString::to_string);
        let mut message = format!("failed to {error}");
        if let Some(cause) = cause.take() {
            message.push_str(": ");
            message.push_str(&cause);
        }
        Self::new(of_storage(error.kind(), || error.to_string()), message)
    }
}

impl From<Error> for io::Error {
    /// For streams, whose errors are [`io::Error`]s; the kind is kept as well as it can be.
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::InvalidArgument => io::ErrorKind::InvalidInput,
            ErrorKind::IntegrityViolation => io::ErrorKind::InvalidData,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::Unsupported { .. } => io::ErrorKind::Unsupported,
            ErrorKind::Conflict => io::ErrorKind::ResourceBusy,
            ErrorKind::LimitExceeded | ErrorKind::Unavailable | ErrorKind::Internal => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    /// What `main` prints when it returns the error: the whole chain and the remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.chain(), self.0.kind.as_str())?;
        match self.remedy() {
            Some(remedy) => write!(f, "; remedy: {remedy}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: FaultKind, errno: Option<i32>) -> Fault {
        Fault { kind, message: "open /x: no".into(), errno, remedy: Some("do it".into()) }
    }

    #[test]
    fn every_fault_has_its_kind_and_tells_its_message_once() {
        for (kind, name) in [
            (FaultKind::NotFound, "not_found"),
            (FaultKind::AlreadyExists, "already_exists"),
            (FaultKind::InvalidArgument, "invalid_argument"),
            (FaultKind::Busy, "conflict"),
            (FaultKind::PermissionDenied, "permission_denied"),
            (FaultKind::Unsupported, "unsupported"),
            (FaultKind::LimitExceeded, "limit_exceeded"),
            (FaultKind::Integrity, "integrity_violation"),
            (FaultKind::CommandNotFound, "not_found"),
            (FaultKind::CommandNotExecutable, "permission_denied"),
            (FaultKind::Internal, "internal"),
        ] {
            let error = Error::from(CallError::Fault(fault(kind, None)));
            let exit_code = match kind {
                FaultKind::CommandNotFound => Some(127),
                FaultKind::CommandNotExecutable => Some(126),
                _ => None,
            };
            assert_eq!(error.command_exit_code(), exit_code);
            assert_eq!(error.kind().as_str(), name);
            assert_eq!((error.chain().as_str(), error.remedy()), ("open /x: no", Some("do it")));
        }
    }

    #[test]
    fn a_full_disk_is_unavailable_wherever_it_is_met() {
        for kind in [FaultKind::Internal, FaultKind::LimitExceeded] {
            let inside = fault(kind, Some(Errno::NOSPC.raw_os_error()));
            assert_eq!(Error::from(inside).kind(), ErrorKind::Unavailable);
        }
        assert_eq!(Error::io("failed to write", Errno::NOSPC).kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_lost_shim_is_retryable_and_an_unsupported_host_has_its_remedy() {
        let lost = Error::from(CallError::Lost(io::ErrorKind::UnexpectedEof.into()));
        assert!(lost.is_retryable() && lost.source().is_some());
        let what = LaunchError::Unsupported { what: "no user namespaces".into(), remedy: "sysctl".into() };
        let error = Error::from(what);
        assert_eq!((error.to_string().as_str(), error.remedy()), ("no user namespaces", Some("sysctl")));
        assert!(format!("{error:?}").ends_with("remedy: sysctl"));
    }

    #[test]
    fn storage_errors_keep_their_kind_and_are_not_repeated() {
        let missing = StorageError::NotFound { what: "vessel x".into() };
        let error = Error::storage("failed to load the manifest", missing);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.chain(), "failed to load the manifest: find vessel x");
        let bare = Error::from(StorageError::NotFound { what: "image y".into() });
        assert_eq!(bare.chain(), "failed to find image y");
    }
}
