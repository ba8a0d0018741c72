//! Locks of the content store: flock(2) on files that are never removed.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Result, StorageError};

/// How long anybody waits for a lock.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// A lock that is held until it is dropped, also across threads; the kernel releases it when the process dies.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct Lease {
    _file: OwnedFd,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// Takes the lock `name` of `dir`.
pub(super) fn lock(dir: &Dir, name: &str, mode: Mode) -> Result<Lease> {
    lock_within(dir, name, mode, PATIENCE)
}

/// [`lock`] that waits for as long as `patience`.
pub(super) fn lock_within(dir: &Dir, name: &str, mode: Mode, patience: Duration) -> Result<Lease> {
    let path = dir.path_of(name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .map_err(|e| StorageError::io("open", &path, e))?;
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let deadline = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(Lease { _file: file }),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => std::thread::sleep(POLL),
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(StorageError::Busy { path }),
            Err(e) => return Err(StorageError::io("lock", &path, e)),
        }
    }
}
