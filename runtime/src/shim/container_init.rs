//! Process 1 of a vessel's container, the sandbox: makes slots, each for one command, and takes everything with it when it ends.
//!
//! libcontainer builds the container and calls [`Init::exec`] where a runtime would exec the command. It goes on to have the one
//! capability that slots are made with, and is in a pid namespace that no command is in: none can see it.
//!
//! ```text
//! shim ── libcontainer ──▶ sandbox: root, /sys, /etc, host name, cgroup namespace
//!                            └── slot: pid, mount and ipc namespace, /proc and /dev of its own; capabilities dropped
//!                                  └── command: waits, filtered; executes what it is told
//! ```
//!
//! A slot is made before its command is known, so that the command only has to be executed. It is not used twice.
#![forbid(unsafe_code)]

mod command;
mod furnish;
mod slot;
mod supervise;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use super::protocol::{Confinement, ExitStatus, Fault};
use super::wire;
use crate::sys;

/// The command, as the shim tells it: everything resolved. Descriptors with it: standard input, output and error, or none
/// for a command that has a terminal or is to have `/dev/null` only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) argv: Vec<Vec<u8>>,
    pub(super) env: Vec<Vec<u8>>,
    pub(super) cwd: Vec<u8>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) terminal: Option<(u16, u16)>,
    /// Only one id is mapped: setgroups(2) is denied.
    pub(super) single: bool,
    /// Limits of its own. Its groups come after the streams.
    pub(super) confinement: Confinement,
}

/// What the shim says to the sandbox: make a slot. Descriptors with it: the sockets of its init and of its command, and the mount
/// that becomes its root instead of the vessel's, if there is a third.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ToSandbox;

/// What the shim says to the init of a slot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToInit {
    Signal(i32),
}

/// What the init of a slot says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromInit {
    /// The slot is made.
    Ready,
    /// It cannot be.
    Failed(Fault),
    /// The command ended, and with it everything that it had started.
    Exited(ExitStatus),
}

/// What the process that becomes the command says, on a socket that closes when it is executed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromCommand {
    /// It waits for [`Start`].
    Ready,
    /// The other end of its terminal, sent along.
    Terminal,
    /// It was not executed.
    NotStarted(Fault),
}

/// What slots of one sandbox have in common.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Holds the vessel's lock as long as a process is here that has its mount, should the shim be killed.
    pub(super) lock: Rc<OwnedFd>,
    /// Whether terminals may belong to gid 5.
    pub(super) tty_gid_mapped: bool,
    /// Where the generated files of `/etc` are bound.
    pub(super) etc_files: Vec<PathBuf>,
    /// Where else something is mounted.
    pub(super) mounts: Vec<PathBuf>,
    pub(super) seccomp: &'static BpfProgram,
}

/// The executor that libcontainer calls as process 1.
#[derive(Clone)]
pub(super) struct Init {
    control: Rc<UnixStream>,
    facts: Rc<Facts>,
}

impl Init {
    pub(super) fn new(control: Rc<UnixStream>, facts: Facts) -> Self {
        Self { control, facts: Rc::new(facts) }
    }
}

impl Executor for Init {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let code = match serve(&self.control, &self.facts) {
            Ok(()) => 0,
            Err(_) => 1, // The shim sees the process end.
        };
        sys::exit_now(code)
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    /// The environment goes to the command, not to this process.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

/// Makes slots until the shim hangs up.
fn serve(control: &UnixStream, facts: &Facts) -> io::Result<()> {
    let _ = rustix::thread::set_name(c"vesselrt-sbox"); // for ps; nothing depends on it
    // When the shim dies, however it dies, so does the container.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // What this process has open and mapped is not for the commands it starts: no ptrace, no /proc/1/fd. Slots inherit it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    // Copies of all descriptors of the shim are here, its lock and its connections among them.
    let [control, lock] = sys::keep_only([control.as_fd(), facts.lock.as_fd()], 3)?;
    let facts = &Facts { lock: Rc::new(lock), ..facts.clone() };
    let (control, signals) = (UnixStream::from(control), watch_children()?);
    loop {
        let [asked, ended] = wait(&control, &signals)?;
        if ended {
            reap(&signals)?;
        }
        if asked {
            let Some((ToSandbox, fds)) = wire::recv(&control)? else { return Ok(()) };
            // The shim sees the sockets of one that could not be made close.
            let _ = make_slot(fds, facts);
        }
    }
}

fn make_slot(fds: Vec<OwnedFd>, facts: &Facts) -> io::Result<()> {
    let namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    sys::fork_into(namespaces, || i32::from(slot::live(fds, facts).is_err())).map(drop)
}

fn watch_children() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Whether there is something to hear on the socket, and whether a child ended.
fn wait(control: &UnixStream, signals: &SignalFd) -> io::Result<[bool; 2]> {
    loop {
        let mut fds = [PollFd::new(control, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(fds.map(|fd| !fd.revents().is_empty())),
        }
    }
}

/// Slots that have ended.
fn reap(signals: &SignalFd) -> io::Result<()> {
    while signals.read_signal()?.is_some() {}
    let any = Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL);
    while !matches!(waitpid(None, any), Ok(WaitStatus::StillAlive) | Err(_)) {}
    Ok(())
}
