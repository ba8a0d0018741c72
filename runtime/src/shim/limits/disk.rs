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

/// What the shim says: commands run, or none does.
const LOOK: u8 = b'l';
const REST: u8 = b'r';
/// What the watch says.
const TOO_LARGE: u8 = b'!';

/// The process, and the socket to it. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct DiskWatch {
    pid: Pid,
    socket: UnixStream,
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
        Ok(Self { pid, socket })
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Commands run again. A watch that has died is noticed by its socket.
    pub(super) fn look(&self) {
        let _ = (&self.socket).write_all(&[LOOK]);
    }

    /// No command runs.
    pub(super) fn rest(&self) {
        let _ = (&self.socket).write_all(&[REST]);
    }

    /// Takes what it said; false when it has died.
    pub(super) fn hears(&self) -> bool {
        let mut said = [0; 16];
        match (&self.socket).read(&mut said) {
            Ok(length) => length > 0,
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
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
    let mut level = Level::new(limit);
    loop {
        let began = Instant::now();
        let used = Measure::default().tree(rustix::fs::CWD.as_fd(), b".")?;
        if level.is_exceeded(used) {
            socket.write_all(&[TOO_LARGE])?;
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
            // What came from elsewhere meanwhile is not the commands' doing.
            Some(_) if timeout.is_none() => {
                level.forget();
                return Ok(true);
            }
            Some(_) => {}
        }
    }
}

/// What the layer may have, which is more than the limit when it had more to begin with.
#[derive(Debug, PartialEq, Eq)]
struct Level {
    limit: u64,
    /// The least it had since commands run.
    least: Option<u64>,
}

impl Level {
    fn new(limit: u64) -> Self {
        Self { limit, least: None }
    }

    fn forget(&mut self) {
        self.least = None;
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
        let mut level = Level::new(100);
        assert!(!level.is_exceeded(10) && !level.is_exceeded(100) && level.is_exceeded(101));
        assert!(level.is_exceeded(102), "as long as it stays so");
        assert!(!level.is_exceeded(90));
    }

    #[test]
    fn what_was_too_large_may_shrink() {
        let mut level = Level::new(100);
        assert!(!level.is_exceeded(500) && !level.is_exceeded(300));
        assert!(level.is_exceeded(301), "but it may not grow again");
        level.forget();
        assert!(!level.is_exceeded(301), "with the next command it begins anew");
    }
}
