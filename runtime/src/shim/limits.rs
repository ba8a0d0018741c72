//! The limits of a vessel as its shim keeps them: which groups containers join, what commands are told of limits that they
//! met, and the watch over the writable layer.
#![forbid(unsafe_code)]

mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use rustix::io::Errno;

use self::disk::DiskWatch;
use super::commands::Command;
use super::mounted::Dirs;
use super::protocol::{Confinement, ExitStatus, Fault, FaultKind, LimitMet, Reply};
use crate::cgroup;
use crate::settings::Limits;

/// Whoever waits for a signal number gets this one of a command that was killed.
const KILLED: i32 = 9;

/// Processes of ours that `RLIMIT_NPROC` counts too, as they have the user id that is root inside: the shim, those that hold the
/// container, and those that wait for commands.
const OURS: u64 = 12;

/// The limits of a vessel, and the commands that may meet them.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    /// Entrances of the vessel's control group, if it has one ([`cgroup::Group::entrance`]).
    groups: Vec<OwnedFd>,
    counter: Option<Rc<OwnedFd>>,
    watched: BTreeMap<u64, Watched>,
    /// Commands that were killed because the writable layer is too large.
    over_disk: BTreeSet<u64>,
    disk: Option<DiskWatch>,
}

/// What a command's processes are counted by when they are killed for want of memory.
#[derive(Debug)]
pub(super) struct Watched {
    counter: Rc<OwnedFd>,
    before: u64,
}

impl Limiter {
    /// `fds` are `groups` entrances and then the counter, if there is one.
    pub(super) fn new(limits: Limits, fds: Vec<OwnedFd>, groups: u32) -> Result<Self, Fault> {
        let mut limiter = Self {
            limits: Limits::default(),
            groups: Vec::new(),
            counter: None,
            watched: BTreeMap::new(),
            over_disk: BTreeSet::new(),
            disk: None,
        };
        limiter.change(limits, fds, groups)?;
        Ok(limiter)
    }

    /// Other limits for the commands that begin from now on.
    pub(super) fn change(&mut self, limits: Limits, mut fds: Vec<OwnedFd>, groups: u32) -> Result<(), Fault> {
        if groups > 0 {
            let counter = take_counter(&mut fds, groups)?;
            (self.counter, self.groups) = (counter.map(Rc::new), fds);
        }
        if self.limits.disk != limits.disk {
            self.disk = None;
        }
        self.limits = limits;
        Ok(())
    }

    /// Completes what a command gets, and takes its counter out of what came with it. One that has no groups of its own joins
    /// the vessel's. Where there is no control group the
    /// limits of the vessel are those of each process.
    pub(super) fn prepare(
        &self,
        confinement: &mut Confinement,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<Option<Watched>, Fault> {
        confinement.nofile = least(confinement.nofile, self.limits.nofile);
        if self.groups.is_empty() && self.limits.best_effort {
            let processors = self.limits.milli_cpus.map(|cpus| cpus.div_ceil(1000));
            confinement.address_space = least(confinement.address_space, self.limits.memory);
            let processes = self.limits.pids.map(|pids| u64::from(pids) + OURS);
            confinement.processes = least(confinement.processes, processes);
            confinement.processors = least(confinement.processors, processors);
        }
        let counter = match confinement.counter {
            true => Some(Rc::new(fds.pop().ok_or_else(too_few)?)),
            false => self.counter.clone(),
        };
        if confinement.groups == 0 {
            for group in &self.groups {
                fds.push(group.try_clone().map_err(|e| Fault::io("dup", &e))?);
                confinement.groups += 1;
            }
        }
        Ok(counter.map(|counter| Watched { before: cgroup::oom_kills(&*counter).unwrap_or(0), counter }))
    }

    /// What runs already is in the group from now on.
    pub(super) fn adopt(&mut self, commands: &BTreeMap<u64, Command>) {
        let Some(counter) = &self.counter else { return };
        let before = cgroup::oom_kills(&**counter).unwrap_or(0);
        for number in commands.keys() {
            self.watched.entry(*number).or_insert_with(|| Watched { counter: Rc::clone(counter), before });
        }
    }

    /// A command has begun.
    pub(super) fn begin(&mut self, number: u64, watched: Option<Watched>) {
        self.watched.extend(watched.map(|watched| (number, watched)));
    }

    /// What the client of a command that has ended hears, when it met a limit.
    pub(super) fn judge(&mut self, number: u64, reply: Reply) -> Reply {
        let starved = self.watched.remove(&number).is_some_and(|watched| watched.is_starved());
        let too_much = self.over_disk.remove(&number);
        match reply {
            Reply::Exited(status) if too_much => Reply::Exited(over(LimitMet::Disk, status)),
            // What ended well had no need of what was killed.
            Reply::Exited(status) if starved && status != ExitStatus::Code(0) => {
                Reply::Exited(over(LimitMet::Memory, status))
            }
            Reply::Failed(fault) if starved => {
                let fault = Fault { kind: FaultKind::LimitExceeded, ..fault };
                Reply::Failed(fault.with_remedy("the command needs more memory to begin: raise --memory"))
            }
            Reply::Failed(fault) if fault.errno == Some(Errno::AGAIN.raw_os_error()) => {
                Reply::Failed(self.no_process_left(fault))
            }
            reply => reply,
        }
    }

    fn no_process_left(&self, fault: Fault) -> Fault {
        match self.limits.pids {
            Some(pids) => Fault { kind: FaultKind::LimitExceeded, ..fault }.with_remedy(format!(
                "the vessel has {pids} processes at most: end some, or raise the limit with `vesselrt update --pids`"
            )),
            None => fault,
        }
    }

    /// Watches the writable layer, if it is limited: commands run from now on.
    pub(super) fn watch(&mut self, dirs: &Dirs) -> Result<(), Fault> {
        let Some(limit) = self.limits.disk else { return Ok(()) };
        if !self.disk.as_mut().is_some_and(DiskWatch::look) {
            let watch = DiskWatch::start(limit, &dirs.vessel)
                .map_err(|e| Fault::io("watch the writable layer", &e))?;
            self.disk = Some(watch);
        }
        Ok(())
    }

    /// No command runs any more.
    pub(super) fn rest(&mut self) {
        if let Some(watch) = &mut self.disk {
            watch.rest();
        }
    }

    /// What becomes readable when the writable layer is too large.
    pub(super) fn disk_watch(&self) -> Option<&UnixStream> {
        self.disk.as_ref().map(DiskWatch::socket)
    }

    /// Kills what runs when the watch says so.
    pub(super) fn disk_full(&mut self, commands: &BTreeMap<u64, Command>) {
        match self.disk.as_ref().and_then(DiskWatch::says_too_large) {
            Some(true) => {}
            Some(false) => return,
            // The next command starts another; those that run are not left to themselves.
            None => self.disk = None,
        }
        for (number, command) in commands {
            command.kill();
            self.over_disk.insert(*number);
        }
    }
}

impl Watched {
    fn is_starved(&self) -> bool {
        cgroup::oom_kills(&*self.counter).is_some_and(|now| now > self.before)
    }
}

/// What comes after the groups, if anything does.
fn take_counter(fds: &mut Vec<OwnedFd>, groups: u32) -> Result<Option<OwnedFd>, Fault> {
    let groups = usize::try_from(groups).unwrap_or(usize::MAX);
    if fds.len() < groups {
        return Err(too_few());
    }
    Ok(fds.split_off(groups).into_iter().next())
}

fn too_few() -> Fault {
    Fault::new(FaultKind::InvalidArgument, "the descriptors of a control group must come with it")
}

fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn over(limit: LimitMet, status: ExitStatus) -> ExitStatus {
    match status {
        ExitStatus::Code(code) => ExitStatus::OverLimit { limit, code, signal: None },
        ExitStatus::Signal(signal) => {
            ExitStatus::OverLimit { limit, code: signal.saturating_add(128), signal: Some(signal) }
        }
        ExitStatus::OverLimit { .. } => {
            ExitStatus::OverLimit { limit, code: 128 + KILLED, signal: Some(KILLED) }
        }
    }
}
