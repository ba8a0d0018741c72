//! Making [`Fault`]s out of errors.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io;

use super::protocol::{Fault, FaultKind};
use crate::layer::{BlobError, PackError, SnapshotError, UnpackError};

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

    /// With a message of a few kilobytes at most: without the middle of one that has a long path in it.
    #[must_use]
    pub(crate) fn short(mut self) -> Self {
        const BEGIN: usize = 4096;
        const END: usize = 512;
        let bytes = self.message.as_bytes();
        if bytes.len() > BEGIN + END {
            let text = |part| String::from_utf8_lossy(part);
            self.message = format!("{}…{}", text(&bytes[..BEGIN]), text(&bytes[bytes.len() - END..]));
        }
        self
    }

    /// What failed to make a namespace, a process or a mount of one: with the remedy, where a limit of this host is why. The
    /// kernel says so by the error of a full disk (namespaces(7), `/proc/sys/user`).
    #[must_use]
    pub(crate) fn of_host(mut self) -> Self {
        let full = Some(rustix::io::Errno::NOSPC.raw_os_error());
        if self.errno != full && !self.message.contains("ENOSPC") {
            return self;
        }
        self.errno = None;
        self.kind = FaultKind::LimitExceeded;
        self.with_remedy(
            "as many namespaces as this user may have are in use: stop vessels (`vesselrt stop`), or raise the limits (sysctl \
             user.max_user_namespaces, user.max_mnt_namespaces and the like, fs.mount-max)",
        )
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

/// `doing` failed while a tree was packed.
pub(crate) fn pack_fault(doing: &str, error: &PackError) -> Fault {
    let (kind, errno) = match error {
        PackError::Io { source, .. } | PackError::Write(source) => (kind_of(source), source.raw_os_error()),
        PackError::Limit { .. } => (FaultKind::LimitExceeded, None),
        PackError::ReservedNames { .. } | PackError::Whiteout { .. } => (FaultKind::InvalidArgument, None),
        PackError::Changed { .. } => (FaultKind::Busy, None),
        PackError::ForeignOverlay { .. } => (FaultKind::Unsupported, None),
    };
    Fault { errno, ..Fault::new(kind, format!("{doing}: {}", chain(error))) }
}

/// `doing` failed while an archive was unpacked.
pub(crate) fn unpack_fault(doing: &str, error: &UnpackError) -> Fault {
    let (kind, errno) = unpack_kind(error);
    Fault { errno, ..Fault::new(kind, format!("{doing}: {}", chain(error))) }
}

/// `doing` failed while the blob of an image layer was unpacked.
pub(crate) fn blob_fault(doing: &str, error: &BlobError) -> Fault {
    let (kind, errno) = match error {
        BlobError::Read(source) | BlobError::Sync(source) => (kind_of(source), source.raw_os_error()),
        BlobError::Unpack(source) => unpack_kind(source),
        BlobError::TooLarge { .. } => (FaultKind::LimitExceeded, None),
        BlobError::Allowance(_) => (FaultKind::LimitExceeded, None),
        _ => (FaultKind::Integrity, None),
    };
    Fault { errno, ..Fault::new(kind, format!("{doing}: {}", chain(error))) }
}

/// `doing` failed while a snapshot archive was unpacked.
pub(crate) fn snapshot_fault(doing: &str, error: &SnapshotError) -> Fault {
    let (kind, errno) = match error {
        SnapshotError::Sync(source) => (kind_of(source), source.raw_os_error()),
        SnapshotError::Unpack(source) => unpack_kind(source),
        _ => (FaultKind::Integrity, None),
    };
    Fault { errno, ..Fault::new(kind, format!("{doing}: {}", chain(error))) }
}

fn unpack_kind(error: &UnpackError) -> (FaultKind, Option<i32>) {
    match error {
        UnpackError::Limit { .. } => (FaultKind::LimitExceeded, None),
        UnpackError::Parse { .. } if error.is_bad_archive() => (FaultKind::Integrity, None),
        _ => match error.io_error() {
            Some(source) => (kind_of(source), source.raw_os_error()),
            None => (FaultKind::InvalidArgument, None),
        },
    }
}
