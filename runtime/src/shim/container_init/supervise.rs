//! While a command runs, and its end.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::process::Pid;

use super::{FromInit, ToInit, wait};
use crate::shim::protocol::ExitStatus;
use crate::shim::wire;

/// Until the command ends or the shim hangs up.
pub(super) fn supervise(control: &UnixStream, signals: &SignalFd, command: Pid) -> io::Result<()> {
    loop {
        let [from_shim, child] = wait(control, signals)?;
        if child {
            while signals.read_signal()?.is_some() {}
            if let Some(status) = reap(command, WaitPidFlag::WNOHANG) {
                end_all();
                return wire::send(control, &FromInit::Exited(status), &[]);
            }
        }
        if from_shim {
            match wire::recv(control)? {
                Some((ToInit::Signal(number), _)) => forward(command, number),
                None => return Ok(()),
            }
        }
    }
}

fn forward(command: Pid, number: i32) {
    let Ok(signal) = Signal::try_from(number) else { return };
    // Its process group: a shell's foreground pipeline, as a terminal would. ESRCH: it has just ended.
    let _ = nix::sys::signal::killpg(raw(command), signal);
}

/// What the command left behind dies before its end is told: whoever hears of it finds a vessel in which it is quiet.
fn end_all() {
    // Everything in the pid namespace but this process: kill(2). A fork that is under way sees the signal and fails.
    // ESRCH: nothing is left.
    if nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), Signal::SIGKILL).is_ok() {
        while !matches!(waitpid(None, Some(WaitPidFlag::__WALL)), Err(Errno::ECHILD)) {}
    }
}

fn raw(pid: Pid) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get())
}

/// Reaps everything that has ended; the status of the command, if it is among them.
fn reap(command: Pid, how: WaitPidFlag) -> Option<ExitStatus> {
    let mut status = None;
    loop {
        match waitpid(None, Some(how | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == raw(command) => status = Some(ExitStatus::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == raw(command) => {
                status = Some(ExitStatus::Signal(signal as i32));
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return status,
            Ok(_) => {}
        }
    }
}
