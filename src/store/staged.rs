//! [`Staged`]: a directory that is being made.
#![forbid(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::rand::GetRandomFlags;

use super::lock::{self, FileLock};
use super::{Store, dirs};
use crate::error::{Error, ErrorKind, Result};

/// A directory in `staging`. Dropped, it goes to the trash; one whose process died is found by its lock being free.
pub(crate) struct Staged {
    store: Arc<Store>,
    name: String,
    dir: OwnedFd,
    lock: Option<FileLock>,
}

impl Staged {
    /// Makes one, of the root of the mapping.
    pub(crate) fn new(store: &Arc<Store>) -> Result<Self> {
        for _ in 0..16 {
            let name = unique("new");
            let dir = match store.make_owned(store.staging.as_fd(), &name) {
                // Even before it was opened.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                made => made?,
            };
            let lock = lock::lock_dir(&dir)?;
            // Before it was locked, it may have been taken for one that was left behind.
            if dirs::is_same(store.staging.as_fd(), &name, dir.as_fd())? {
                return Ok(Self { store: Arc::clone(store), name, dir, lock: Some(lock) });
            }
        }
        Err(Error::internal("failed to make a staging directory: each one was removed at once"))
    }

    /// The directory.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Its path, for what takes paths.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.store.path("staging").join(&self.name)
    }

    /// Gives it its final place; `None` when something is there already, and the directory otherwise.
    pub(crate) fn publish(mut self, parent: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>> {
        if !dirs::publish(self.store.staging.as_fd(), &self.name, parent, name)? {
            return Ok(None);
        }
        self.lock = None;
        let dir = self.dir.try_clone().map_err(|e| Error::io("failed to duplicate a descriptor", e))?;
        Ok(Some(dir))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // What fails here is found by the next sweep.
            let _ = self.store.discard(self.store.staging.as_fd(), &self.name);
        }
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Moves to the trash what processes that are gone left in `staging`.
pub(crate) fn sweep(store: &Store) -> Result<()> {
    for name in dirs::names(store.staging.as_fd())? {
        if let Some(dir) = dirs::open(store.staging.as_fd(), &name)?
            && let Some(_lock) = lock::attempt_dir(dir)?
        {
            store.discard(store.staging.as_fd(), &name)?;
        }
    }
    Ok(())
}

/// Whether `entry` is what [`dirs::write_atomic`] calls the file `name` before it is whole.
pub(crate) fn is(entry: &str, name: &str) -> bool {
    let random = entry.strip_prefix('.').and_then(|rest| rest.strip_prefix(name)?.strip_prefix('-'));
    random.is_some_and(|random| random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `name` with a random end: no two are alike.
pub(crate) fn unique(name: &str) -> String {
    let mut random = [0; 8];
    // Requests of up to 256 bytes are served whole once the kernel has entropy; before, time differs.
    if rustix::rand::getrandom(&mut random, GetRandomFlags::empty()).is_err() {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        random = now.tv_nsec.to_ne_bytes();
    }
    format!("{name}-{:016x}", u64::from_ne_bytes(random))
}
