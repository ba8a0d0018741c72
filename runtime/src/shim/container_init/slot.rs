//! A slot: process 1 of a pid namespace, which holds everything ready for one command.
//!
//! Being a parent instead of the command has three uses: the command's exit by signal is told apart from an exit code, orphans
//! are reaped, and the command is not exempt from default signal actions as process 1 is. When this process ends the kernel
//! kills every process of the pid namespace.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sched::CloneFlags;
use nix::sys::signalfd::SignalFd;
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::supervise::supervise;
use super::{Facts, FromInit, command, furnish, watch_children};
use crate::shim::protocol::Fault;
use crate::shim::wire;
use crate::{spec, sys};

/// Prepares everything, and goes on until the command ends or the shim hangs up.
pub(super) fn live(fds: Vec<OwnedFd>, facts: &Facts) -> io::Result<()> {
    let _ = rustix::thread::set_name(c"vesselrt-init"); // for ps; nothing depends on it
    let Given { control, start, root, _lock } = take(fds, facts)?;
    match prepare(&control, start, root, facts) {
        Ok((signals, command)) => supervise(&control, &signals, command),
        Err(fault) => wire::send(&control, &FromInit::Failed(fault), &[]),
    }
}

struct Given {
    control: UnixStream,
    start: UnixStream,
    root: Option<OwnedFd>,
    _lock: OwnedFd,
}

/// What came with the order, and nothing else: the descriptors of the sandbox are here too.
fn take(fds: Vec<OwnedFd>, facts: &Facts) -> io::Result<Given> {
    let lock = facts.lock.as_fd();
    let (control, start, lock, root) = match fds.as_slice() {
        [control, start] => {
            let [control, start, lock] = sys::keep_only([control.as_fd(), start.as_fd(), lock], 3)?;
            (control, start, lock, None)
        }
        [control, start, root] => {
            let kept = [control.as_fd(), start.as_fd(), lock, root.as_fd()];
            let [control, start, lock, root] = sys::keep_only(kept, 3)?;
            (control, start, lock, Some(root))
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    std::mem::forget(fds); // closed just now
    Ok(Given { control: control.into(), start: start.into(), root, _lock: lock })
}

fn prepare(
    control: &UnixStream,
    start: UnixStream,
    root: Option<OwnedFd>,
    facts: &Facts,
) -> Result<(SignalFd, Pid), Fault> {
    furnish::furnish(root, facts).map_err(|e| Fault::io(e.step, &e.source))?;
    drop_capabilities().map_err(|e| Fault::io("drop capabilities", &e))?;
    let signals = watch_children().map_err(|e| Fault::io("signalfd", &e))?;
    // The shim takes its process id from the credentials of this message.
    wire::send(control, &FromInit::Ready, &[]).map_err(|e| Fault::io("report readiness", &e))?;
    let command = sys::fork_into(CloneFlags::empty(), || {
        let _ = command::serve(&start, facts.seccomp);
        127
    })
    .map_err(|e| Fault::io("fork the command", &e))?;
    drop(start);
    Ok((signals, command))
}

/// Leaves what a command may have, for good: what slots are made with goes.
fn drop_capabilities() -> io::Result<()> {
    rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN)?;
    let kept = rustix::thread::capabilities(None)?.permitted & spec::capability_set();
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}
