//! Detached processes: commands that belong to no connection.
//!
//! ```text
//! Spawn ──▶ starting ──started──▶ running ──ended──▶ drained ──▶ forgotten here, remembered on disk
//!                └── not started: never was                 (its logger writes the end and leaves)
//! ```
//!
//! The shim stays while there is one. It has the other ends of their inputs; what they write goes to their loggers.
#![forbid(unsafe_code)]

mod start;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::{Ready, Server, State, reap};
use crate::process::{self, Cause, End, Records};
use crate::shim::logger::{Logger, now_us};
use crate::shim::protocol::{Fault, FaultKind, Reply};

/// The detached processes that run, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Processes {
    live: BTreeMap<u64, Process>,
    /// Clients that wait until there is none.
    waiters: Vec<u64>,
}

/// What becomes of what a process writes.
#[derive(Debug)]
enum Log {
    /// It has not started yet.
    Pending,
    Running(Logger),
    /// The logger has ended.
    Over,
}

#[derive(Debug)]
struct Process {
    /// `None` when it has ended.
    command: Option<u64>,
    dir: OwnedFd,
    /// Who waits for its start.
    asker: Option<u64>,
    /// Its outputs, until the logger has them.
    streams: Vec<OwnedFd>,
    /// The other end of its input, or of its terminal.
    input: Option<OwnedFd>,
    terminal: bool,
    log_limit: u64,
    log: Log,
    /// When it is killed.
    deadline: Option<Instant>,
    cause: Option<Cause>,
    /// How it ended.
    end: Option<End>,
    /// Why it could not be kept although it had started.
    fault: Option<Fault>,
    /// Clients that wait for its end.
    waiters: Vec<u64>,
}

impl Processes {
    /// None runs yet: what an earlier shim left without an end is lost.
    pub(super) fn begin(vessel: &OwnedFd) -> Self {
        // A record that cannot be written must not keep the vessel from being used: whoever reads it asks us, too.
        let _ = Records::open(vessel).map(|records| records.map(|records| records.mark_lost(now_us())));
        Self::default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// What is to be waited for.
    pub(super) fn watch<'a>(&'a self, what: &mut Vec<Ready>, fds: &mut Vec<PollFd<'a>>) {
        for (number, process) in &self.live {
            let Log::Running(logger) = &process.log else { continue };
            if let Some(control) = &logger.control {
                what.push(Ready::Logged(*number));
                fds.push(PollFd::new(control, PollFlags::IN));
            }
            what.push(Ready::LoggerEnded(*number));
            fds.push(PollFd::new(&logger.pidfd, PollFlags::IN));
        }
    }

    /// How long until one is to be killed.
    pub(super) fn patience(&self) -> Option<Duration> {
        let first = self.live.values().filter_map(|process| process.deadline).min()?;
        // A timer that ends a moment early would be asked again at once.
        Some(first.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    /// The vessel is stopped: that is why they end.
    pub(super) fn are_stopped(&mut self) {
        for process in self.live.values_mut() {
            process.cause.get_or_insert(Cause::Stop);
        }
    }
}

impl Server {
    /// Kills those whose time is up. Not while they stand still: they would be missing in the middle of a copy.
    pub(super) fn end_late_processes(&mut self) {
        if self.capture.is_some() {
            return;
        }
        let now = Instant::now();
        for process in self.processes.live.values_mut() {
            if process.deadline.is_some_and(|deadline| deadline <= now) {
                process.deadline = None;
                process.cause.get_or_insert(Cause::Timeout);
                if let Some(command) = process.command.and_then(|number| self.commands.get(&number)) {
                    command.kill();
                }
            }
        }
    }

    /// The container of a process has ended, or was never whole.
    pub(super) fn process_ended(&mut self, number: u64, word: Reply) {
        let Some(process) = self.processes.live.get_mut(&number) else { return };
        (process.command, process.deadline, process.input) = (None, None, None);
        let status = match (&process.log, word) {
            (Log::Pending, Reply::Failed(fault)) => return self.never_was(number, fault),
            (Log::Pending, _) => {
                let fault = process.fault.take();
                let fault = fault.unwrap_or_else(|| Fault::new(FaultKind::Internal, "it was not logged"));
                return self.never_was(number, fault);
            }
            (_, Reply::Exited(status)) => Some(status),
            _ => None,
        };
        let cause = process.cause.unwrap_or(Cause::Itself);
        let end = End { status, cause, ended_us: now_us(), log_end: None, log_lost: 0 };
        process.end = Some(end.clone());
        match &process.log {
            Log::Running(logger) => logger.end(&end),
            Log::Pending | Log::Over => self.finish(number),
        }
    }

    /// Whoever asked for it hears why; nobody else ever hears of it.
    fn never_was(&mut self, number: u64, fault: Fault) {
        let Some(process) = self.processes.live.remove(&number) else { return };
        if let Ok(Some(records)) = Records::open(&self.dirs.vessel) {
            // What cannot be removed is lost when the next shim looks at it.
            let _ = records.remove(number);
        }
        if let Some(client) = process.asker {
            self.idle(client);
            self.fail(client, fault);
        }
        self.tell_waiters(process.waiters);
    }

    /// Its log is complete, and its end is on disk, though perhaps not yet synced.
    pub(super) fn process_logged(&mut self, number: u64) {
        let Some(process) = self.processes.live.get_mut(&number) else { return };
        if let Log::Running(logger) = &mut process.log {
            logger.control = None;
        }
        if matches!(End::read(&process.dir), Ok(Some(_))) {
            let waiters = std::mem::take(&mut process.waiters);
            self.tell_waiters(waiters);
        }
    }

    pub(super) fn logger_ended(&mut self, number: u64) {
        let Some(process) = self.processes.live.get_mut(&number) else { return };
        let Log::Running(logger) = std::mem::replace(&mut process.log, Log::Over) else { return };
        reap(logger.pid);
        match process.command {
            None => self.finish(number),
            // Somebody killed it. What the process writes could not be read any more.
            Some(command) => {
                process.cause = Some(Cause::Lost);
                if let Some(command) = self.commands.get(&command) {
                    command.kill();
                }
            }
        }
    }

    /// Process and logger have ended.
    fn finish(&mut self, number: u64) {
        let Some(process) = self.processes.live.remove(&number) else { return };
        if !matches!(End::read(&process.dir), Ok(Some(_))) {
            // Where this fails too, the process was forgotten meanwhile, or is lost when the next shim looks at it.
            let _ = process.end.unwrap_or_else(|| End::lost(now_us())).write(&process.dir);
        }
        self.tell_waiters(process.waiters);
    }

    fn tell_waiters(&mut self, mut waiters: Vec<u64>) {
        if self.processes.is_empty() {
            waiters.append(&mut self.processes.waiters);
        }
        for client in waiters {
            self.idle(client);
            self.reply(client, &Reply::Done, &[]);
        }
    }

    pub(super) fn running_processes(&self) -> Reply {
        let running = self.processes.live.iter().filter(|(_, process)| process.asker.is_none());
        Reply::Processes(running.map(|(number, _)| *number).collect())
    }

    pub(super) fn signal_process(&mut self, number: u64, signal: i32) -> Result<(), Fault> {
        let command = self.live(number)?.command.ok_or_else(|| not_running(number))?;
        let command = self.commands.get(&command).ok_or_else(|| not_running(number))?;
        command.signal(signal);
        Ok(())
    }

    /// True when the client hears of its end; false when that was before.
    pub(super) fn await_process(&mut self, client: u64, number: u64) -> bool {
        let Some(process) = self.processes.live.get_mut(&number) else { return false };
        if process.end.is_some() && matches!(&process.log, Log::Running(logger) if logger.control.is_none()) {
            return false;
        }
        process.waiters.push(client);
        self.busy(client);
        true
    }

    pub(super) fn open_input(&mut self, number: u64) -> Result<(Reply, OwnedFd), Fault> {
        let process = self.live(number)?;
        let input = process.input.as_ref().ok_or_else(|| {
            let message = format!("the input of process {} is closed", process::name(number));
            Fault::new(FaultKind::InvalidArgument, message)
                .with_remedy("start it with an input that stays open: -i")
        })?;
        let input = input.as_fd().try_clone_to_owned().map_err(|e| Fault::io("duplicate an input", &e))?;
        Ok((Reply::Input { terminal: process.terminal }, input))
    }

    pub(super) fn close_input(&mut self, number: u64) -> Result<(), Fault> {
        let process = self.live(number)?;
        if process.terminal {
            return Err(Fault::new(FaultKind::InvalidArgument, "a terminal ends with its process only")
                .with_remedy("send it the character that ends the input, Ctrl-D"));
        }
        process.input = None;
        Ok(())
    }

    /// False when none runs.
    pub(super) fn end_processes(&mut self, client: u64, grace: Duration) -> bool {
        if self.processes.is_empty() {
            return false;
        }
        let until = Instant::now().checked_add(grace);
        for process in self.processes.live.values_mut() {
            process.cause.get_or_insert(Cause::Stop);
            process.deadline = process.deadline.into_iter().chain(until).min();
            if let Some(command) = process.command.and_then(|number| self.commands.get(&number)) {
                command.signal(Signal::TERM.as_raw());
            } else {
                process.deadline = None;
            }
        }
        self.processes.waiters.push(client);
        self.busy(client);
        true
    }

    /// One whose command has not ended.
    fn live(&mut self, number: u64) -> Result<&mut Process, Fault> {
        let process = self.processes.live.get_mut(&number).filter(|process| process.command.is_some());
        process.ok_or_else(|| not_running(number))
    }

    fn busy(&mut self, client: u64) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.state = State::Working;
        }
    }
}

fn not_running(number: u64) -> Fault {
    Fault::new(FaultKind::NotFound, format!("process {} does not run", process::name(number)))
}
