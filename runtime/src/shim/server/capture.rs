//! The copy of the writable layer of a vessel in which commands run.
//!
//! They stand still from before the copy until after it, whatever ends it: the copy, the time that it may take, the end of
//! the client. When the shim itself is killed, so are they.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::time::Timespec;

use super::{Server, State, not_mounted, wire};
use crate::shim::freeze::Frozen;
use crate::shim::jobs::{Job, Task};
use crate::shim::protocol::{Fault, FaultKind, Reply, Request};

/// How long processes may take to stand still.
const PATIENCE: Duration = Duration::from_secs(5);

/// A copy that is being made.
#[derive(Debug)]
pub(super) struct Capture {
    client: u64,
    job: u64,
    /// Where the job says how it went.
    report: UnixStream,
    /// `None` once they go on.
    frozen: Option<Frozen>,
    /// The mount was made read-only instead, as nothing runs that writes to it.
    read_only: bool,
    since: Instant,
    until: Instant,
    /// Signals for commands that stand still, with the clients that sent them.
    pub(super) signals: Vec<(u64, i32)>,
}

impl Capture {
    /// The time that is left, for poll(2).
    pub(super) fn left(&self) -> Timespec {
        let left = self.until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).unwrap_or_default()
    }
}

impl Server {
    pub(super) fn capture(&mut self, id: u64, longest: Duration, fds: Vec<OwnedFd>) -> Result<(), Fault> {
        if self.commands.is_empty() {
            return Err(Fault::new(FaultKind::InvalidArgument, "nothing runs in the vessel"));
        }
        self.await_answered_jobs();
        if self.quiesced_by.is_some() || self.jobs.values().any(|job| job.writes) {
            return Err(Fault::new(FaultKind::Busy, "files are being copied into the vessel"));
        }
        let inits: Vec<_> =
            self.commands.values().filter(|command| command.persists()).map(|c| c.pid).collect();
        let read_only = inits.is_empty();
        if read_only {
            self.mounted.as_ref().ok_or_else(not_mounted)?.set_read_only(true)?;
        }
        let begun = self.begin_capture(id, longest, fds, inits);
        if begun.is_err()
            && read_only
            && let Some(mounted) = &self.mounted
        {
            let _ = mounted.set_read_only(false);
        }
        self.capture = Some(Capture { read_only, ..begun? });
        Ok(())
    }

    fn begin_capture(
        &mut self,
        id: u64,
        longest: Duration,
        fds: Vec<OwnedFd>,
        inits: Vec<rustix::process::Pid>,
    ) -> Result<Capture, Fault> {
        let (report, theirs) = UnixStream::pair().map_err(|e| Fault::io("socketpair", &e))?;
        let since = Instant::now();
        let until = since
            .checked_add(longest)
            .ok_or_else(|| Fault::new(FaultKind::InvalidArgument, "no pause can be that long"))?;
        let frozen = Frozen::new(inits, PATIENCE.min(longest))?;
        let job = self.number();
        let mounted = self.mounted.as_ref().ok_or_else(not_mounted)?;
        let started = Job::start(id, &Task::CopyUpper, fds, &theirs, mounted, self.ground.ids)?;
        if let Some(client) = self.clients.get_mut(&id) {
            client.state = State::Working;
        }
        self.jobs.insert(job, started);
        let frozen = Some(frozen);
        Ok(Capture { client: id, job, report, frozen, read_only: false, since, until, signals: Vec::new() })
    }

    /// The job has ended; false if it was another one.
    pub(super) fn end_capture(&mut self, id: u64, job: &Job) -> bool {
        let Some(mut capture) = self.capture.take_if(|capture| capture.job == id) else { return false };
        let stood = match &mut capture.frozen {
            None => {
                Err(Fault::new(FaultKind::LimitExceeded, "the commands would have stood still for too long")
                    .with_remedy("allow a longer pause, or make the snapshot when nothing runs"))
            }
            Some(frozen) => frozen.still_stands(),
        };
        let pause = capture.since.elapsed();
        self.thaw(&mut capture);
        let reply = match (stood, wire::recv::<Reply>(&capture.report)) {
            (Err(fault), _) => Reply::Failed(fault),
            (Ok(false), _) => Reply::Failed(Fault::new(FaultKind::Busy, "a process of the vessel was woken")),
            (Ok(true), Ok(Some((Reply::Captured { reflinked, .. }, _)))) => {
                let pause_us = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
                Reply::Captured { reflinked, pause_us }
            }
            (Ok(true), Ok(Some((failed @ Reply::Failed(_), _)))) => failed,
            (Ok(true), _) => Reply::Failed(Fault::new(FaultKind::Internal, "the worker process died")),
        };
        self.idle(job.client);
        self.reply(job.client, &reply, &[]);
        self.catch_up(capture.signals);
        true
    }

    /// The commands go on.
    fn thaw(&self, capture: &mut Capture) {
        capture.frozen = None;
        if std::mem::take(&mut capture.read_only)
            && let Some(mounted) = &self.mounted
        {
            let _ = mounted.set_read_only(false);
        }
    }

    /// What waited meanwhile.
    fn catch_up(&mut self, signals: Vec<(u64, i32)>) {
        for (id, number) in signals {
            self.take(id, Request::Signal(number), Vec::new());
        }
        for (id, request, fds) in std::mem::take(&mut self.deferred) {
            self.idle(id);
            self.take(id, request, fds);
        }
    }

    /// The time is up: they go on at once, and the client hears when the job is gone.
    pub(super) fn end_late_capture(&mut self) {
        if let Some(mut capture) = self.capture.take_if(|c| c.frozen.is_some() && c.until <= Instant::now()) {
            self.kill_job(capture.job);
            self.thaw(&mut capture);
            // Not again before the job's end, which is near.
            capture.until = Instant::now() + PATIENCE;
            self.capture = Some(capture);
        }
    }

    /// The client is gone.
    pub(super) fn give_up_capture(&mut self, client: u64) {
        if let Some(mut capture) = self.capture.take_if(|capture| capture.client == client) {
            self.kill_job(capture.job);
            self.thaw(&mut capture);
            self.catch_up(capture.signals);
        }
    }

    fn kill_job(&self, job: u64) {
        if let Some(job) = self.jobs.get(&job) {
            // ESRCH: it has just ended.
            let _ = rustix::process::pidfd_send_signal(&job.pidfd, Signal::KILL);
        }
    }
}
