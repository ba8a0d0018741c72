//! [`StorageError`], the one error of this crate, and the kind that callers decide by.
//!
//! The modules have small error enums of their own (`IdError`, `DigestError`, `ReferenceError`, `JsonError`,
//! `ImageError`, `ArchiveError`, …). They arrive as the `source` of [`StorageError::Invalid`] (a caller's
//! argument was wrong), [`StorageError::Corrupt`] (bytes that were read are wrong) or
//! [`StorageError::Unsupported`].
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

/// What a typed error of a module is carried as.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// The result of everything in this crate that can fail for more than one reason.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// Why an operation of this crate failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// What was asked for does not exist.
    #[error("find {what}")]
    NotFound {
        /// What was looked for, with its name.
        what: String,
    },
    /// What was to be created exists already.
    #[error("create {what}, which exists already")]
    AlreadyExists {
        /// What was to be created, with its name.
        what: String,
    },
    /// An argument of the caller is not acceptable.
    #[error("accept {what}")]
    Invalid {
        /// The argument, with its (quoted, shortened) value.
        what: String,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// Stored or imported bytes are not what they must be: wrong digest, size, structure or file type.
    #[error("verify {what}")]
    Corrupt {
        /// The object, with its name.
        what: String,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// Something is larger than this crate is willing to handle.
    #[error("handle {what}: the limit is {limit}")]
    LimitExceeded {
        /// What is too large, with its unit.
        what: String,
        /// The limit, in that unit.
        limit: u64,
    },
    /// Well-formed, but nothing that this version can do.
    #[error("handle {what}, which is not supported")]
    Unsupported {
        /// What is not supported.
        what: String,
    },
    /// Another user of the store holds a lock for too long.
    #[error("lock {path:?}, which others keep in use")]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The asynchronous runtime stopped before the work was done.
    #[error("finish {what}: the runtime is shutting down")]
    Cancelled {
        /// What was not finished.
        what: &'static str,
    },
    /// A system call, or reading a stream, failed.
    #[error("{op} {path:?}")]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What a caller can do about a [`StorageError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// It does not exist.
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// The caller passed something unacceptable.
    InvalidArgument,
    /// The bytes are not the ones that were stored, or not well-formed.
    IntegrityViolation,
    /// A limit of this crate, or of the file system, was hit.
    LimitExceeded,
    /// The operating system refused.
    PermissionDenied,
    /// No space, a read-only file system, a lock that others hold: may work later.
    Unavailable,
    /// Not something this version can do.
    Unsupported,
    /// Anything else.
    Internal,
}

impl StorageError {
    /// The kind of this error. A [`StorageError`] that travelled inside an [`io::Error`] (as the errors of a
    /// stream do) keeps the kind it had.
    #[must_use]
    pub fn kind(&self) -> StorageErrorKind {
        match self {
            Self::NotFound { .. } => StorageErrorKind::NotFound,
            Self::AlreadyExists { .. } => StorageErrorKind::AlreadyExists,
            Self::Invalid { .. } => StorageErrorKind::InvalidArgument,
            Self::Corrupt { .. } => StorageErrorKind::IntegrityViolation,
            Self::LimitExceeded { .. } => StorageErrorKind::LimitExceeded,
            Self::Unsupported { .. } => StorageErrorKind::Unsupported,
            Self::Busy { .. } | Self::Cancelled { .. } => StorageErrorKind::Unavailable,
            Self::Io { source, .. } => io_kind(source),
        }
    }

    /// `what` (an argument) is wrong because of `source`.
    pub(crate) fn invalid(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Invalid { what: what.into(), source: source.into() }
    }

    /// `what` (bytes that were read) is wrong because of `source`.
    pub(crate) fn corrupt(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Corrupt { what: what.into(), source: source.into() }
    }

    /// There is no `what`.
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// `op` on `path` failed. An error of ours that comes back inside of `source` is handed out as it was.
    pub(crate) fn io(op: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        match source.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Io { op, path: path.as_ref().to_path_buf(), source },
        }
    }
}

impl From<StorageError> for io::Error {
    /// For streams, whose errors are [`io::Error`]s; [`StorageError::kind`] looks inside.
    fn from(error: StorageError) -> Self {
        let kind = match error.kind() {
            StorageErrorKind::NotFound => io::ErrorKind::NotFound,
            StorageErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            StorageErrorKind::InvalidArgument => io::ErrorKind::InvalidInput,
            StorageErrorKind::IntegrityViolation => io::ErrorKind::InvalidData,
            StorageErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            StorageErrorKind::Unsupported => io::ErrorKind::Unsupported,
            StorageErrorKind::LimitExceeded | StorageErrorKind::Unavailable | StorageErrorKind::Internal => {
                io::ErrorKind::Other
            }
        };
        io::Error::new(kind, error)
    }
}

/// The kind of an error of the system, of a stream or of a decoder.
#[must_use]
pub fn io_kind(error: &io::Error) -> StorageErrorKind {
    if let Some(own) = error.get_ref().and_then(|inner| inner.downcast_ref::<StorageError>()) {
        return own.kind();
    }
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS) => StorageErrorKind::Unavailable,
        Some(Errno::ACCESS | Errno::PERM) => StorageErrorKind::PermissionDenied,
        Some(Errno::NOENT) => StorageErrorKind::NotFound,
        Some(Errno::EXIST) => StorageErrorKind::AlreadyExists,
        Some(Errno::FBIG | Errno::NAMETOOLONG) => StorageErrorKind::LimitExceeded,
        Some(_) => StorageErrorKind::Internal,
        None => stream_kind(error.kind()),
    }
}

/// The kind of an [`io::Error`] that no system call made.
fn stream_kind(kind: io::ErrorKind) -> StorageErrorKind {
    match kind {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => StorageErrorKind::IntegrityViolation,
        io::ErrorKind::StorageFull => StorageErrorKind::Unavailable,
        io::ErrorKind::PermissionDenied => StorageErrorKind::PermissionDenied,
        io::ErrorKind::NotFound => StorageErrorKind::NotFound,
        _ => StorageErrorKind::Internal,
    }
}

/// `text` for a message: escaped, and no longer than a line.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 120;
    let short: String = text.chars().take(LONGEST).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_error(errno: Errno) -> StorageError {
        StorageError::io("write", "/x", io::Error::from(errno))
    }

    #[test]
    fn the_system_s_answer_picks_the_kind() {
        assert_eq!(io_error(Errno::NOSPC).kind(), StorageErrorKind::Unavailable);
        assert_eq!(io_error(Errno::ROFS).kind(), StorageErrorKind::Unavailable);
        assert_eq!(io_error(Errno::DQUOT).kind(), StorageErrorKind::Unavailable);
        assert_eq!(io_error(Errno::ACCESS).kind(), StorageErrorKind::PermissionDenied);
        assert_eq!(io_error(Errno::IO).kind(), StorageErrorKind::Internal);
    }

    #[test]
    fn an_error_of_ours_survives_a_stream() {
        let inner = StorageError::corrupt("blob", "no");
        let back = StorageError::io("read", "/x", io::Error::from(inner));
        assert!(matches!(back, StorageError::Corrupt { .. }), "{back:?}");
        let wrapped = io::Error::from(StorageError::LimitExceeded { what: "x".into(), limit: 1 });
        assert_eq!(io_kind(&wrapped), StorageErrorKind::LimitExceeded);
    }

    #[test]
    fn messages_do_not_repeat_their_source() {
        let error = io_error(Errno::NOSPC);
        assert_eq!(error.to_string(), "write \"/x\"");
        assert!(error.source().is_some());
    }

    #[test]
    fn quoted_text_is_short_and_escaped() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert!(quoted(&"é".repeat(500)).chars().count() < 130);
    }
}
