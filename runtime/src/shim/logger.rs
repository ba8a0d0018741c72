//! What writes the log of a detached process: a fork of the shim that reads the pipes, or the terminal, of the process.
//!
//! It has no copy of the shim's descriptors, waits for the disk so that the process has to, and dies with the shim.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::protocol::Fault;
use super::wire;
use crate::log::{LogWriter, Stream};
use crate::process::{End, Records};
use crate::sys;

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;
/// How long a stream may be silent after the process has ended, before whoever still holds it is no longer listened to.
const IDLE: Duration = Duration::from_millis(100);
/// How long in all is waited for such a one, and how much is taken of it.
const LINGER: Duration = Duration::from_secs(2);
const MOST: usize = 2 << 20;

/// What the shim says.
#[derive(Debug, Serialize, Deserialize)]
enum ToLogger {
    /// With the directory of all processes, that of this one, and its streams: the terminal, or output and error.
    /// `synced`: the end is to survive a power cut.
    Begin { limit: u64, synced: bool },
    /// The process has ended; all that it wrote can be read.
    Ended(End),
}

/// The process that writes a log.
#[derive(Debug)]
pub(super) struct Logger {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// Closed by it when the log is complete.
    pub(super) control: Option<UnixStream>,
}

impl Logger {
    /// Starts one for the process with the directory `dir`.
    pub(super) fn start(
        limit: u64,
        synced: bool,
        records: &Records,
        dir: &OwnedFd,
        streams: &[OwnedFd],
    ) -> Result<Self, Fault> {
        let (control, theirs) = UnixStream::pair().map_err(|e| Fault::io("socketpair", &e))?;
        let pid = sys::fork(|| i32::from(run(&theirs).is_err()))
            .map_err(|e| Fault::io("fork the writer of a log", &e))?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| Fault::io("pidfd_open", &e.into()))?;
        let fds: Vec<_> = [records.dir(), dir].into_iter().chain(streams).map(AsFd::as_fd).collect();
        wire::send(&control, &ToLogger::Begin { limit, synced }, &fds)
            .map_err(|e| Fault::io("begin a log", &e))?;
        Ok(Self { pid, pidfd, control: Some(control) })
    }

    /// Tells that the process has ended.
    pub(super) fn end(&self, end: &End) {
        if let Some(control) = &self.control {
            // Where it is dead already, that is told by its descriptor.
            let _ = wire::send(control, &ToLogger::Ended(end.clone()), &[]);
        }
    }
}

/// Microseconds since 1970.
pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// One stream of the process.
struct Source {
    fd: OwnedFd,
    stream: Stream,
}

/// In the child.
fn run(control: &UnixStream) -> io::Result<()> {
    let _ = rustix::thread::set_name(c"vesselrt-log"); // for ps; nothing depends on it
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let [control] = sys::keep_only([control.as_fd()], 3)?;
    let control = UnixStream::from(control);
    // Nothing came: the shim is gone.
    let Some((ToLogger::Begin { limit, synced }, fds)) = wire::recv(&control)? else { return Ok(()) };
    let mut fds = fds.into_iter();
    let (Some(records), Some(dir)) = (fds.next(), fds.next()) else { return Ok(()) };
    let mut sources = Vec::new();
    for (fd, stream) in fds.zip([Stream::Stdout, Stream::Stderr]) {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        sources.push(Source { fd, stream });
    }
    // What cannot be forgotten now is forgotten by the next one.
    let _ = Records::of(records).prune();
    let mut log = LogWriter::new(dir.try_clone()?, limit);
    let Some(end) = listen(&control, &mut sources, &mut log)? else { return Ok(()) };
    drain(&mut sources, &mut log)?;
    End { log_end: Some(log.offset()), log_lost: log.lost(), ..end }.write(&dir)?;
    drop(control);
    // Nobody waits for these.
    if synced {
        log.sync()?;
        End::sync(&dir)?;
    }
    Ok(())
}

/// Writes down what the process writes, until it has ended; `None` when the shim is gone.
fn listen(control: &UnixStream, sources: &mut Vec<Source>, log: &mut LogWriter) -> io::Result<Option<End>> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut fds = vec![PollFd::new(control, PollFlags::IN)];
        fds.extend(sources.iter().map(|source| PollFd::new(&source.fd, PollFlags::IN)));
        poll(&mut fds, None)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return match wire::recv(control)? {
                Some((ToLogger::Ended(end), _)) => Ok(Some(end)),
                _ => Ok(None),
            };
        }
        take(sources, &ready[1..], log, &mut buffer);
    }
}

/// Everything that wrote to the streams has ended, unless one of them was passed to another command.
fn drain(sources: &mut Vec<Source>, log: &mut LogWriter) -> io::Result<()> {
    let (mut buffer, until, mut taken) = (vec![0; BUFFER], Instant::now() + LINGER, 0);
    while !sources.is_empty() && Instant::now() < until && taken < MOST {
        let mut fds: Vec<_> = sources.iter().map(|source| PollFd::new(&source.fd, PollFlags::IN)).collect();
        if poll(&mut fds, Some(IDLE))? == 0 {
            break;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        taken += take(sources, &ready, log, &mut buffer);
    }
    Ok(())
}

fn poll(fds: &mut [PollFd<'_>], patience: Option<Duration>) -> io::Result<usize> {
    let patience = patience.and_then(|patience| rustix::time::Timespec::try_from(patience).ok());
    loop {
        match rustix::event::poll(fds, patience.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Reads once from each stream that is ready; those that have ended are dropped. How much it was.
fn take(sources: &mut Vec<Source>, ready: &[bool], log: &mut LogWriter, buffer: &mut [u8]) -> usize {
    let (mut taken, mut ready) = (0, ready.iter());
    sources.retain(|source| {
        if !ready.next().is_some_and(|ready| *ready) {
            return true;
        }
        match rustix::io::read(&source.fd, &mut *buffer) {
            // A terminal says EIO when nobody has its other end.
            Ok(0) | Err(rustix::io::Errno::IO) => false,
            Ok(n) => {
                log.append(source.stream, now_us(), &buffer[..n]);
                taken += n;
                true
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => true,
            Err(_) => false,
        }
    });
    taken
}
