//! Starting the [gateway](crate::gateway) of a vessel, beside what is going to be its shim.
//!
//! ```text
//! shim ── fork ──▶ keeper ── unshare(pid), fork ──▶ gateway, process 1 of its pid namespace ──▶ pasta, …
//! ```
//!
//! It is in the user namespace of the vessel, and so may work on its network; and in the host's network and mount
//! namespaces. Each dies with the one before, by its death signal, and with process 1 dies all that it has started: a
//! program such as pasta loses a death signal of its own when it changes its credentials.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::AtFlags;
use nix::sched::CloneFlags;
use rustix::process::{Pid, Signal};

use super::{become_root, fault, no_namespaces, seal};
use crate::shim::protocol::Fault;
use crate::shim::wire;
use crate::{gateway, sys};

/// How the argument begins that names the socket and the keeper.
const ARGUMENT: &str = "gateway=";

/// A gateway that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// The socket to it.
    pub(crate) socket: OwnedFd,
    /// The process that ends when it has.
    pub(crate) keeper: Pid,
}

impl Started {
    /// Names it to the program that this process is about to become.
    pub(super) fn argument(&self) -> String {
        format!("{ARGUMENT}{},{}", self.socket.as_raw_fd(), self.keeper.as_raw_nonzero())
    }
}

pub(super) fn is_argument(text: &str) -> bool {
    text.starts_with(ARGUMENT)
}

/// The gateway that this process was told of.
pub(super) fn take() -> io::Result<Option<Started>> {
    let Some(argument) = std::env::args().find(|argument| is_argument(argument)) else { return Ok(None) };
    let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
    let (socket, keeper) = argument[ARGUMENT.len()..].split_once(',').ok_or_else(wrong)?;
    let keeper = keeper.parse().ok().and_then(Pid::from_raw).ok_or_else(wrong)?;
    Ok(Some(Started { socket: sys::inherited(socket.parse().map_err(|_| wrong())?)?, keeper }))
}

pub(super) fn start(single: bool) -> Result<Started, Fault> {
    let failed = |e: io::Error| fault("start the gateway of the vessel", &e);
    let exe = seal::plain_executable().map_err(failed)?;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    // One that stays open across an exec.
    let socket = rustix::io::dup(&ours).map_err(|e| failed(e.into()))?;
    let keeper = sys::fork(|| {
        let kept = rustix::stdio::dup2_stdin(&theirs).map_err(|e| failed(e.into()));
        match kept.and_then(|()| keep(single, exe)) {
            Ok(()) => 0,
            Err(fault) => tell(fault),
        }
    })
    .map_err(failed)?;
    Ok(Started { socket, keeper })
}

/// Says it where the gateway would have answered.
fn tell(fault: Fault) -> i32 {
    if let Ok(socket) = super::take_socket() {
        let _ = wire::send(&socket, &gateway::Answer::Failed(fault), &[]);
    }
    1
}

/// In the keeper, until the gateway has ended. The socket to the shim is its standard input.
fn keep(single: bool, exe: OwnedFd) -> Result<(), Fault> {
    let failed = |e: io::Error| fault("start the gateway of the vessel", &e);
    let _ = rustix::thread::set_name(c"vesselrt-keeper"); // for ps; nothing depends on it
    become_root(single).map_err(failed)?;
    // After the change of user, which resets it.
    let tie = || rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    tie().map_err(|e| failed(e.into()))?;
    nix::sched::unshare(CloneFlags::CLONE_NEWPID).map_err(no_namespaces)?;
    // The conversation with whoever starts the shim is not ours to keep open.
    let [kept] = sys::keep_only([exe.as_fd()], 3).map_err(failed)?;
    std::mem::forget(exe); // closed with the others
    let exe = kept;
    let pid =
        sys::fork(|| tell(failed(tie().map_or_else(io::Error::from, |()| execute(&exe))))).map_err(failed)?;
    drop(exe);
    let pid = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
    // It fails only when there is nothing to wait for.
    let _ = nix::sys::wait::waitpid(pid, None);
    Ok(())
}

fn execute(exe: &OwnedFd) -> io::Error {
    let environment: [CString; 0] = [];
    let name = gateway::NAME.to_owned();
    match nix::unistd::execveat(Some(exe.as_raw_fd()), c"", &[name], &environment, AtFlags::AT_EMPTY_PATH) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}
