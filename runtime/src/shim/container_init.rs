//! Process 1 of a container: starts the one command it is told, reaps, reports, and takes everything with it.
//!
//! libcontainer builds the container and calls [`Init::exec`] where a runtime would exec the command. Being a parent
//! instead of the command has four uses: the command's exit by signal is told apart from an exit code, orphans are
//! reaped, the command is not exempt from default signal actions as process 1 is, and the container can be built before
//! its command is known. When this process ends the kernel kills every process of the pid namespace.
#![forbid(unsafe_code)]

mod command;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use super::protocol::{Confinement, ExitStatus, Fault};
use super::wire;
use crate::sys;

/// The command, as the shim tells it: everything resolved. Descriptors with it: standard input, output and error,
/// unless it has a terminal.
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

/// What the shim says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToInit {
    Start(Box<Start>),
    Signal(i32),
}

/// What this process says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromInit {
    /// The command was executed; with a terminal its other end is sent along.
    Started,
    /// It was not.
    NotStarted(Fault),
    /// It ended.
    Exited(ExitStatus),
}

/// The executor that libcontainer calls as process 1.
#[derive(Clone)]
pub(super) struct Init {
    control: Rc<UnixStream>,
    seccomp: &'static BpfProgram,
}

impl Init {
    pub(super) fn new(control: Rc<UnixStream>, seccomp: &'static BpfProgram) -> Self {
        Self { control, seccomp }
    }
}

impl Executor for Init {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let code = match serve(&self.control, self.seccomp) {
            Ok(()) => 0,
            Err(_) => 1, // The shim sees the socket close.
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

fn serve(control: &UnixStream, seccomp: &BpfProgram) -> io::Result<()> {
    let _ = rustix::thread::set_name(c"vesselrt-init"); // for ps; nothing depends on it
    // When the shim dies, however it dies, so does the container.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // What this process has open and mapped is not for the commands it starts: no ptrace, no /proc/1/fd.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let control = only_descriptor(control)?;
    let signals = block_sigchld()?;
    let Some((ToInit::Start(start), streams)) = wire::recv(&control)? else { return Ok(()) };
    match command::start(&start, streams, seccomp) {
        Ok(started) => {
            let terminal: Vec<_> = started.terminal.iter().map(AsFd::as_fd).collect();
            wire::send(&control, &FromInit::Started, &terminal)?;
            drop(terminal);
            let pid = started.pid;
            drop(started.terminal);
            supervise(&control, &signals, pid)
        }
        Err(fault) => wire::send(&control, &FromInit::NotStarted(fault), &[]),
    }
}

/// Closes every descriptor but the control socket, which becomes number 3: this process has copies of all of the
/// shim's, its lock and its connections among them.
fn only_descriptor(control: &UnixStream) -> io::Result<UnixStream> {
    const KEPT: i32 = 3;
    let high = rustix::io::fcntl_dupfd_cloexec(control, KEPT + 1)?;
    let socket = sys::keep_only(high, KEPT)?;
    Ok(UnixStream::from(socket))
}

fn block_sigchld() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Until the command ends or the shim hangs up.
fn supervise(control: &UnixStream, signals: &SignalFd, command: Pid) -> io::Result<()> {
    loop {
        let mut fds = [PollFd::new(control, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let [from_shim, child] = fds.map(|fd| !fd.revents().is_empty());
        if child {
            while signals.read_signal()?.is_some() {}
            if let Some(status) = reap(command) {
                return wire::send(control, &FromInit::Exited(status), &[]);
            }
        }
        if from_shim {
            match wire::recv(control)? {
                Some((ToInit::Signal(number), _)) => forward(command, number),
                Some((ToInit::Start(_), _)) | None => return Ok(()),
            }
        }
    }
}

fn forward(command: Pid, number: i32) {
    if let Ok(signal) = Signal::try_from(number) {
        // Its process group: a shell's foreground pipeline, as a terminal would. ESRCH: it has just ended.
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(command.as_raw_nonzero().get()), signal);
    }
}

/// Reaps everything that has ended; the status of the command, if it is among them.
fn reap(command: Pid) -> Option<ExitStatus> {
    let mut status = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == command.as_raw_nonzero().get() => {
                status = Some(ExitStatus::Code(code));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == command.as_raw_nonzero().get() => {
                status = Some(ExitStatus::Signal(signal as i32));
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return status,
            Ok(_) => {}
        }
    }
}

/// Takes the three streams that came with a [`Start`].
pub(super) fn three(fds: Vec<OwnedFd>) -> Option<[OwnedFd; 3]> {
    fds.try_into().ok()
}
