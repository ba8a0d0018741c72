//! Commands: each in a slot of the vessel's container ([`super::sandbox`]).
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::process::Pid;

use super::container_init::{Start, ToInit};
use super::mounted::Scratch;
use super::protocol::{ExecRequest, ExitStatus, Fault, FaultKind};
use super::slots::Slot;
use super::wire;
use crate::root::Root;
use crate::user::{self, Identity};

/// What all commands of a vessel have in common.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) hostname: String,
    /// Ids `0..ids` exist.
    pub(super) ids: u32,
    pub(super) masked: Vec<String>,
    /// `/sys` is the shim's: a new one cannot be mounted in the host's network.
    pub(super) bind_sys: bool,
}

/// A command that runs, or whose end has not been told yet.
#[derive(Debug)]
pub(super) struct Command {
    /// Connection that asked for it, while it is there.
    pub(super) client: Option<u64>,
    /// Whether the client wants to be told that it runs.
    pub(super) announce: bool,
    /// The detached process that it is.
    pub(super) process: Option<u64>,
    /// Socket to its init; `None` when that has closed.
    pub(super) control: Option<UnixStream>,
    /// Socket to the process that becomes it; `None` when that has closed: it was executed, or it is gone.
    pub(super) start: Option<UnixStream>,
    pub(super) pidfd: OwnedFd,
    /// Its init.
    pub(super) pid: Pid,
    /// The other end of its terminal, until the client is told.
    pub(super) terminal: Vec<OwnedFd>,
    pub(super) status: Option<ExitStatus>,
    /// Why it could not be executed.
    pub(super) failure: Option<Fault>,
    /// What it is, for messages.
    pub(super) name: String,
    pub(super) scratch: Option<Scratch>,
}

impl Command {
    /// Starts what was resolved in a slot.
    pub(super) fn new(slot: Slot, start: &Start, streams: &[OwnedFd]) -> Result<Self, (Fault, Slot)> {
        if let Err(fault) = slot.start(start, streams) {
            return Err((fault, slot));
        }
        let name = start.argv.first().map(|a| a.escape_ascii().to_string()).unwrap_or_default();
        Ok(Self {
            client: None,
            announce: false,
            control: Some(slot.control),
            start: Some(slot.start),
            pidfd: slot.pidfd,
            pid: slot.pid,
            terminal: Vec::new(),
            process: None,
            status: None,
            failure: None,
            name,
            scratch: slot.scratch,
        })
    }

    /// What it writes stays in the vessel.
    pub(super) fn persists(&self) -> bool {
        self.scratch.is_none()
    }

    /// Kills it and everything that it started. Its end is told by the pidfd.
    pub(super) fn kill(&self) {
        // ESRCH: it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
    }

    /// Sends a signal to the command's process group.
    pub(super) fn signal(&self, number: i32) {
        if let Some(control) = &self.control {
            let _ = wire::send(control, &ToInit::Signal(number), &[]);
        }
    }
}

/// Users that were looked up, while the files that they were found in are as they were.
#[derive(Debug, Default)]
pub(super) struct Users {
    known: Vec<(String, user::Stamp, Identity)>,
}

impl Users {
    /// Users that are remembered.
    const MOST: usize = 8;

    fn resolve(&mut self, root: &Root, spec: &str, ids: u32) -> Result<Identity, Fault> {
        let now = user::stamp(root);
        if let Some((.., who)) =
            self.known.iter().find(|(name, then, _)| name == spec && Some(then) == now.as_ref())
        {
            return Ok(who.clone());
        }
        let who = user::resolve(root, spec, ids)
            .map_err(|e| Fault::new(FaultKind::InvalidArgument, super::fault::chain(&e)))?;
        self.known.retain(|(name, ..)| name != spec);
        if let Some(stamp) = now {
            self.known.truncate(Self::MOST - 1);
            self.known.push((spec.to_owned(), stamp, who.clone()));
        }
        Ok(who)
    }
}

/// Names become numbers, the environment is whole.
pub(super) fn resolve(
    request: &ExecRequest,
    root: &Root,
    ground: &Ground,
    users: &mut Users,
) -> Result<Start, Fault> {
    if request.argv.first().is_none_or(Vec::is_empty) {
        return Err(Fault::new(FaultKind::InvalidArgument, "command is required"));
    }
    let who = users.resolve(root, &request.user, ground.ids)?;
    let mut env = request.env.clone();
    let has = |env: &[Vec<u8>], key: &[u8]| env.iter().any(|e| e.starts_with(key));
    if !has(&env, b"HOME=") {
        env.push([b"HOME=", who.home.as_slice()].concat());
    }
    if request.terminal.is_some() && !has(&env, b"TERM=") {
        env.push(b"TERM=xterm".to_vec());
    }
    Ok(Start {
        argv: request.argv.clone(),
        env,
        cwd: request.cwd.clone(),
        uid: who.uid,
        gid: who.gid,
        groups: who.groups,
        terminal: request.terminal,
        single: ground.ids <= 1,
        confinement: request.confinement.clone(),
    })
}
