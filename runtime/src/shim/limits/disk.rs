//! A process that looks how large the writable layer is, and says when it is too large.
//!
//! Where a file system has project quotas they would need real root and a mount option; looking needs neither. It
//! looks at once, then every 200 ms, or as often as keeps it at a tenth of its time. A layer that was too large before may
//! be worked on, so that something can be removed, as long as it does not grow.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal};
use rustix::time::Timespec;

use crate::layer::Measure;
use crate::sys;

/// How often it looks at least.
const PAUSE: Duration = Duration::from_millis(200);
/// How much longer than a look the pause after it is.
const SHARE: u32 = 9;

/// What the shim says when no command runs. Anything else is the number of a time in which commands run, and what the watch says
/// when the layer became too large in that time.
const REST: u8 = 0;

/// The first time, which begins with the watch.
const FIRST: u8 = 1;

/// The process, and the socket to it. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct DiskWatch {
    pid: Pid,
    socket: UnixStream,
    /// The number of the time in which commands run.
    time: u8,
    resting: bool,
}

impl DiskWatch {
    /// Watches everything in the directory `vessel`.
    pub(super) fn start(limit: u64, vessel: &OwnedFd) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let pid = sys::fork(|| match watch(limit, vessel, theirs) {
            Ok(()) => 0,
            Err(_) => 1,
        })?;
        Ok(Self { pid, socket, time: FIRST, resting: false })
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Commands run. False when it cannot be told, as it has died or is far behind: another one must be started.
    pub(super) fn look(&mut self) -> bool {
        if !self.resting {
            return true;
        }
        self.time = self.time.checked_add(1).unwrap_or(FIRST);
        self.resting = false;
        (&self.socket).write_all(&[self.time]).is_ok()
    }

    /// No command runs. One that does not hear it looks in vain.
    pub(super) fn rest(&mut self) {
        let _ = (&self.socket).write_all(&[REST]);
        self.resting = true;
    }

    /// Whether it says that the layer became too large since commands run; `None` when it has died.
    pub(super) fn says_too_large(&self) -> Option<bool> {
        let mut said = [0; 16];
        match (&self.socket).read(&mut said) {
            Ok(0) => None,
            // What it says late is about commands that have ended.
            Ok(length) => Some(!self.resting && said.get(..length)?.contains(&self.time)),
            Err(e) => (e.kind() == io::ErrorKind::WouldBlock).then_some(false),
        }
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
    }
}

/// In the watching process, until the shim hangs up.
fn watch(limit: u64, vessel: &OwnedFd, socket: UnixStream) -> io::Result<()> {
    // It must not outlive the shim, nor keep open what the shim closes.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::fchdir(vessel)?;
    let [kept] = sys::keep_only([socket.as_fd()], 3)?;
    std::mem::forget(socket); // closed with the others
    let mut socket = UnixStream::from(kept);
    let mut level = Level::new(limit, FIRST);
    loop {
        let began = Instant::now();
        let used = Measure::default().tree(rustix::fs::CWD.as_fd(), b".")?;
        if level.is_exceeded(used) {
            socket.write_all(&[level.time])?;
        }
        if !wait(&mut socket, PAUSE.max(began.elapsed() * SHARE), &mut level)? {
            return Ok(());
        }
    }
}

/// Waits for the next look; false when the shim is gone.
fn wait(socket: &mut UnixStream, pause: Duration, level: &mut Level) -> io::Result<bool> {
    let mut timeout = Timespec::try_from(pause).ok();
    loop {
        let ready = rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], timeout.as_ref());
        match ready {
            Ok(0) => return Ok(true),
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let mut said = [0; 64];
        let length = socket.read(&mut said)?;
        match said.get(..length).and_then(<[u8]>::last) {
            None => return Ok(false),
            Some(&REST) => timeout = None,
            Some(&time) => {
                // What came from elsewhere meanwhile is not the commands' doing.
                *level = Level::new(level.limit, time);
                return Ok(true);
            }
        }
    }
}

/// What the layer may have, which is more than the limit when it had more to begin with.
#[derive(Debug, PartialEq, Eq)]
struct Level {
    limit: u64,
    /// Since when commands run.
    time: u8,
    /// The least it had since.
    least: Option<u64>,
}

impl Level {
    fn new(limit: u64, time: u8) -> Self {
        Self { limit, time, least: None }
    }

    fn is_exceeded(&mut self, used: u64) -> bool {
        let least = self.least.map_or(used, |least| least.min(used));
        self.least = Some(least);
        used > self.limit.max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_over_the_limit_is_too_large() {
        let mut level = Level::new(100, FIRST);
        assert!(!level.is_exceeded(10) && !level.is_exceeded(100) && level.is_exceeded(101));
        assert!(level.is_exceeded(102), "as long as it stays so");
        assert!(!level.is_exceeded(90));
    }

    #[test]
    fn what_was_too_large_may_shrink() {
        let mut level = Level::new(100, FIRST);
        assert!(!level.is_exceeded(500) && !level.is_exceeded(300));
        assert!(level.is_exceeded(301), "but it may not grow again");
        level = Level::new(100, FIRST + 1);
        assert!(!level.is_exceeded(301), "with the next command it begins anew");
    }
}
