//! Locks between processes: flock(2) on files that stay.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::offload::blocking;

/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Beside others.
    Shared,
    /// Alone.
    Exclusive,
}

/// A lock, until it is dropped here and in every process that was given the descriptor.
#[derive(Debug)]
pub(crate) struct FileLock(OwnedFd);

impl AsFd for FileLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .map_err(|e| Error::io(format!("failed to open the lock {name:?} of the store"), e))
}

fn flock(fd: &OwnedFd, operation: FlockOperation) -> Result<bool> {
    loop {
        match rustix::fs::flock(fd, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("failed to lock a file of the store", e)),
        }
    }
}

/// Locks alone, if nobody holds it.
pub(crate) fn attempt(dir: BorrowedFd<'_>, name: &str) -> Result<Option<FileLock>> {
    let fd = open(dir, name)?;
    Ok(flock(&fd, FlockOperation::NonBlockingLockExclusive)?.then_some(FileLock(fd)))
}

/// Locks, however long that takes: for locks whose holders work and do not wait for anyone.
pub(crate) fn wait(dir: BorrowedFd<'_>, name: &str, mode: Mode) -> Result<FileLock> {
    let fd = open(dir, name)?;
    let operation = match mode {
        Mode::Shared => FlockOperation::LockShared,
        Mode::Exclusive => FlockOperation::LockExclusive,
    };
    flock(&fd, operation)?;
    Ok(FileLock(fd))
}

/// Locks a directory itself.
pub(crate) fn lock_dir(dir: &OwnedFd) -> Result<FileLock> {
    // An open file description of its own, so that dropping it unlocks although `dir` stays open.
    let own = rustix::fs::openat(
        dir,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|e| Error::io("failed to open a directory of the store", e))?;
    flock(&own, FlockOperation::LockExclusive)?;
    Ok(FileLock(own))
}

/// Locks a directory itself, if nobody holds it.
pub(crate) fn attempt_dir(dir: OwnedFd) -> Result<Option<FileLock>> {
    Ok(flock(&dir, FlockOperation::NonBlockingLockExclusive)?.then_some(FileLock(dir)))
}

/// Pauses that grow, until the time is up.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Option<Instant>,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { until: Instant::now().checked_add(timeout), pause: PAUSES.0 }
    }

    /// Waits a moment; false when there is no more time.
    pub(crate) async fn wait(&mut self) -> bool {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        true
    }
}

/// [`attempt`] until `timeout`; `None` when somebody still holds it then.
pub(crate) async fn within(
    dir: &std::sync::Arc<OwnedFd>,
    name: &str,
    timeout: Duration,
) -> Result<Option<FileLock>> {
    let mut patience = Patience::new(timeout);
    loop {
        let (dir, name) = (std::sync::Arc::clone(dir), name.to_owned());
        if let Some(lock) = blocking(move || attempt(dir.as_fd(), &name)).await? {
            return Ok(Some(lock));
        }
        if !patience.wait().await {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_lock_is_held_by_one_and_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fd = Arc::new(crate::store::dirs::open_path(dir.path()).unwrap());
        let held = attempt(fd.as_fd(), "l").unwrap().unwrap();
        assert!(attempt(fd.as_fd(), "l").unwrap().is_none());
        assert!(within(&fd, "l", Duration::from_millis(20)).await.unwrap().is_none());
        let release = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            drop(held);
        });
        assert!(within(&fd, "l", Duration::from_secs(10)).await.unwrap().is_some());
        release.await.unwrap();
    }

    #[test]
    fn shared_holders_keep_an_exclusive_one_out() {
        let dir = tempfile::tempdir().unwrap();
        let fd = crate::store::dirs::open_path(dir.path()).unwrap();
        let (a, b) =
            (wait(fd.as_fd(), "l", Mode::Shared).unwrap(), wait(fd.as_fd(), "l", Mode::Shared).unwrap());
        drop(a);
        assert!(attempt(fd.as_fd(), "l").unwrap().is_none());
        drop(b);
        assert!(attempt(fd.as_fd(), "l").unwrap().is_some());
    }
}
