//! Starting a detached process.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;

use super::{Log, Process};
use crate::process::{Meta, Records};
use crate::shim::logger::{Logger, now_us};
use crate::shim::protocol::{Fault, FaultKind, Reply, SpawnRequest};
use crate::shim::server::Server;

/// Processes that one vessel may have at once: each has a process of ours and some descriptors.
const MOST: usize = 256;

/// The streams of a process: its ends and ours.
#[derive(Default)]
struct Streams {
    theirs: Vec<OwnedFd>,
    outputs: Vec<OwnedFd>,
    input: Option<OwnedFd>,
}

impl Streams {
    fn new(request: &SpawnRequest) -> Result<Self, Fault> {
        let mut streams = Self::default();
        if request.command.terminal.is_some() {
            return Ok(streams); // Its terminal comes when it has started.
        }
        if request.input {
            let (read, write) = pipe()?;
            streams.theirs.push(read);
            streams.input = Some(write);
        } else {
            let null = File::open("/dev/null").map_err(|e| Fault::io("open /dev/null", &e))?;
            streams.theirs.push(null.into());
        }
        for _ in ["output", "error"] {
            let (read, write) = pipe()?;
            streams.theirs.push(write);
            streams.outputs.push(read);
        }
        Ok(streams)
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Fault> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Fault::io("make a pipe", &e.into()))
}

fn meta(request: &SpawnRequest) -> Meta {
    let command = &request.command;
    Meta {
        argv: Meta::shown(&command.argv),
        user: command.user.clone(),
        cwd: String::from_utf8_lossy(&command.cwd).into_owned(),
        started_us: now_us(),
        terminal: command.terminal.is_some(),
        input: request.input || command.terminal.is_some(),
        ephemeral: command.ephemeral,
        timeout_ms: request.timeout_ms,
        log_limit: request.log_limit,
    }
}

impl Server {
    /// The client hears when the process has started, or that it has not. `groups` is what its limits come with.
    pub(in crate::shim::server) fn spawn(
        &mut self,
        client: u64,
        request: &SpawnRequest,
        groups: Vec<OwnedFd>,
    ) -> Result<(), Fault> {
        if self.leaving {
            return Err(Fault::new(FaultKind::Busy, "the vessel is being stopped"));
        }
        if self.processes.live.len() >= MOST {
            let message = format!("{MOST} processes run in the vessel");
            return Err(Fault::new(FaultKind::LimitExceeded, message).with_remedy("wait for some to end"));
        }
        let failed = |e| Fault::io("begin the record of a process", &e);
        let streams = Streams::new(request)?;
        let records = Records::create(&self.dirs.vessel).map_err(failed)?;
        let process = records.take_number().map_err(failed)?;
        let dir = records.begin(process, &meta(request)).map_err(failed)?;
        let theirs = streams.theirs.into_iter().chain(groups).collect();
        let begun = self.begin_command(request.command.clone(), theirs);
        let number = begun.inspect_err(|_| {
            // What cannot be removed is lost when the next shim looks at it.
            let _ = records.remove(process);
        })?;
        if let Some(command) = self.commands.get_mut(&number) {
            command.process = Some(process);
        }
        let timeout = request.timeout_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        let started = Process {
            command: Some(number),
            dir,
            asker: Some(client),
            streams: streams.outputs,
            input: streams.input,
            terminal: request.command.terminal.is_some(),
            log_limit: request.log_limit,
            log: Log::Pending,
            deadline: timeout,
            cause: None,
            end: None,
            fault: None,
            waiters: Vec::new(),
        };
        self.processes.live.insert(process, started);
        self.busy(client);
        Ok(())
    }

    /// It runs; with a terminal, its other end is in `fds`.
    pub(in crate::shim::server) fn process_started(&mut self, number: u64, mut fds: Vec<OwnedFd>) {
        let Some(process) = self.processes.live.get_mut(&number) else { return };
        let synced = self.mounted.as_ref().is_none_or(|mounted| !mounted.spec.volatile);
        let logged = process.log_it(fds.pop(), &self.dirs.vessel, synced);
        let asker = process.asker.take();
        match logged {
            Ok(()) => {
                if let Some(client) = asker {
                    self.idle(client);
                    self.reply(client, &Reply::Spawned(number), &[]);
                }
            }
            Err(fault) => {
                (process.fault, process.asker) = (Some(fault), asker);
                if let Some(command) = process.command.and_then(|command| self.commands.get(&command)) {
                    command.kill();
                }
            }
        }
    }
}

impl Process {
    fn log_it(&mut self, terminal: Option<OwnedFd>, vessel: &OwnedFd, synced: bool) -> Result<(), Fault> {
        let failed = |e| Fault::io("begin a log", &e);
        if let Some(terminal) = terminal.filter(|_| self.terminal) {
            self.input = Some(terminal.try_clone().map_err(failed)?);
            self.streams = vec![terminal];
        }
        let records = Records::open(vessel).map_err(failed)?;
        let records = records.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        self.log = Log::Running(Logger::start(self.log_limit, synced, &records, &self.dir, &self.streams)?);
        self.streams.clear();
        Ok(())
    }
}
