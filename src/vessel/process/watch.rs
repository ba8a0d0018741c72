//! [`Watch`]: tells when a log has grown (inotify(7)), or when a while has passed.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::vessel::pump;

/// How often is looked where nothing tells of changes: a user may have only so many watches.
const LOOK: Duration = Duration::from_millis(50);
/// How often is looked although something does.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);

/// Watches the files of one directory.
pub(super) struct Watch(Option<AsyncFd<OwnedFd>>);

impl Watch {
    /// Begins to watch: of what happens from now on, nothing is missed.
    pub(super) fn new(dir: &OwnedFd) -> Self {
        Self(begin(dir).ok())
    }

    /// Returns when something may have changed. May be cancelled and called again.
    pub(super) async fn changed(&self) {
        let Some(watch) = &self.0 else { return tokio::time::sleep(LOOK).await };
        let Ok(ready) = tokio::time::timeout(LOOK_ANYWAY, watch.readable()).await else { return };
        let Ok(mut guard) = ready else { return tokio::time::sleep(LOOK).await };
        let mut events = [0; 4096];
        while rustix::io::read(watch.get_ref(), &mut events).is_ok_and(|read| read > 0) {}
        guard.clear_ready();
    }
}

fn begin(dir: &OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    inotify::add_watch(&watch, path, WatchFlags::MODIFY | WatchFlags::CREATE)?;
    pump::watch(watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let watch = Watch::new(&fd);
        std::fs::write(dir.path().join("new"), "x").unwrap();
        let quick = tokio::time::timeout(LOOK_ANYWAY / 2, watch.changed());
        quick.await.expect("it is told");
        // Nothing is told twice.
        let silent = tokio::time::timeout(LOOK_ANYWAY / 4, watch.changed()).await;
        assert!(silent.is_err() || watch.0.is_none());
    }
}
