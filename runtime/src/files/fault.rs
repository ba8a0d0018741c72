//! What goes wrong with a file, and how it is told.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use crate::shim::protocol::{Fault, FaultKind};

pub(super) type Outcome<T> = Result<T, Problem>;

/// Why an operation failed, before it has a name and a path.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// A system call, or the data to write.
    #[error(transparent)]
    Os(#[from] io::Error),
    /// The operation itself.
    #[error("{why}")]
    Refused { kind: FaultKind, why: &'static str },
}

impl From<Errno> for Problem {
    fn from(errno: Errno) -> Self {
        Self::Os(errno.into())
    }
}

impl Problem {
    pub(super) fn refused(why: &'static str) -> Self {
        Self::Refused { kind: FaultKind::InvalidArgument, why }
    }

    /// The fault `failed to operation "path": reason`, the paths escaped.
    pub(super) fn fault(self, operation: &str, paths: &[&[u8]]) -> Fault {
        let (kind, errno, reason) = match self {
            Self::Os(error) => (kind(&error), error.raw_os_error(), reason(&error)),
            Self::Refused { kind, why } => (kind, None, why.to_owned()),
        };
        let paths: Vec<_> = paths.iter().map(|path| format!("{:?}", OsStr::from_bytes(path))).collect();
        let message = format!("failed to {operation} {}: {reason}", paths.join(" to "));
        Fault { kind, message, errno, remedy: None }
    }
}

/// `No such file or directory (os error 2)` → `no such file or directory`.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

fn kind(error: &io::Error) -> FaultKind {
    let Some(errno) = Errno::from_io_error(error) else { return FaultKind::Internal };
    match errno {
        Errno::NOENT => FaultKind::NotFound,
        Errno::EXIST => FaultKind::AlreadyExists,
        Errno::INVAL
        | Errno::ISDIR
        | Errno::NOTDIR
        | Errno::NOTEMPTY
        | Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::NXIO
        | Errno::NODEV
        | Errno::ILSEQ => FaultKind::InvalidArgument,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => FaultKind::PermissionDenied,
        Errno::BUSY | Errno::TXTBSY | Errno::AGAIN => FaultKind::Busy,
        Errno::NOSPC
        | Errno::DQUOT
        | Errno::FBIG
        | Errno::MFILE
        | Errno::NFILE
        | Errno::MLINK
        | Errno::NOMEM
        | Errno::TOOBIG => FaultKind::LimitExceeded,
        Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV => FaultKind::Unsupported,
        _ => FaultKind::Internal,
    }
}
