//! The command itself: forked and stripped of what it must not have before it is known; then told, and executed.
#![forbid(unsafe_code)]

mod confine;

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use seccompiler::BpfProgram;

use super::{FromCommand, Start};
use crate::root::Root;
use crate::shim::protocol::{Fault, FaultKind};
use crate::shim::wire;
use crate::{files, spec, sys};

/// Where a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Streams,
    Terminal,
    Limits,
    Identity,
    Directory,
    Execute,
}

/// Waits for the command and becomes it; returns when it is not to be, or cannot. The socket closes when it is executed.
pub(super) fn serve(shim: &UnixStream, seccomp: &BpfProgram) -> io::Result<()> {
    if let Err(error) = strip(seccomp) {
        let fault = Fault::io("prepare a process for the command", &error);
        return wire::send(shim, &FromCommand::NotStarted(fault), &[]);
    }
    // The shim takes its process id from the credentials of this message.
    wire::send(shim, &FromCommand::Ready, &[])?;
    let Some((start, mut streams)) = wire::recv::<Start>(shim)? else { return Ok(()) };
    let groups = confine::groups(&start.confinement, &mut streams);
    let fault = match become_command(shim, &start, &streams, &groups) {
        Ok(never) => match never {},
        // The shim reads it when this process has ended: it must fit into the buffer of a socket.
        Err(fault) => fault.short(),
    };
    wire::send(shim, &FromCommand::NotStarted(fault), &[])
}

/// All that does not depend on the command. The system calls that come after it are among those that a command may make.
fn strip(seccomp: &BpfProgram) -> io::Result<()> {
    let _ = rustix::thread::set_name(c"vesselrt-wait"); // for ps; nothing depends on it
    reset_signals()?;
    rustix::process::setsid()?;
    limit()?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
    connect([&null, &null, &null])?;
    rustix::thread::set_no_new_privs(true)?;
    seccompiler::apply_filter(seccomp).map_err(io::Error::other)
}

/// Returns only when it failed.
fn become_command(
    shim: &UnixStream,
    start: &Start,
    streams: &[OwnedFd],
    groups: &[OwnedFd],
) -> Result<std::convert::Infallible, Fault> {
    let at = |step: Step| move |error: io::Error| explain(start, step, &error);
    confine::confine(&start.confinement, groups).map_err(at(Step::Limits))?;
    match (start.terminal, streams) {
        (Some((rows, columns)), _) => {
            let (outer, inner) =
                open_terminal(rows, columns).map_err(|e| Fault::io("open a terminal of the vessel", &e))?;
            rustix::process::ioctl_tiocsctty(&inner).map_err(|e| at(Step::Terminal)(e.into()))?;
            connect([&inner, &inner, &inner]).map_err(at(Step::Streams))?;
            wire::send(shim, &FromCommand::Terminal, &[outer.as_fd()]).map_err(at(Step::Terminal))?;
        }
        (None, []) => {}
        (None, [input, output, errors]) => {
            connect([input, output, errors]).map_err(at(Step::Streams))?;
        }
        (None, _) => {
            return Err(Fault::new(
                FaultKind::InvalidArgument,
                "a command needs three standard streams, or none",
            ));
        }
    }
    let cwd = Path::new(OsStr::from_bytes(&start.cwd));
    make_directory(cwd)?;
    identify(start).map_err(at(Step::Identity))?;
    // After the change of user: the command must not enter what its user may not.
    nix::unistd::chdir(cwd).map_err(|e| at(Step::Directory)(e.into()))?;
    Err(explain(start, Step::Execute, &execute(start)))
}

/// In the container, where every path is one of the vessel.
fn make_directory(cwd: &Path) -> Result<(), Fault> {
    let found = rustix::fs::stat(cwd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if found == Ok(FileType::Directory) {
        return Ok(());
    }
    let root = Root::open_path(Path::new("/")).map_err(|e| Fault::io("open the root of the vessel", &e))?;
    files::make_dir(&root, cwd.as_os_str().as_bytes(), 0o755, true)
}

/// A terminal of the slot's own devpts: its other end, and the end of the command.
fn open_terminal(rows: u16, columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ptmx = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&ptmx)?;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&ptmx, size)?;
    let open = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&ptmx, open)?;
    Ok((ptmx, terminal))
}

fn reset_signals() -> io::Result<()> {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            sys::reset_signal(signal)?;
        }
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

fn connect([input, output, errors]: [&OwnedFd; 3]) -> io::Result<()> {
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(errors)?;
    Ok(())
}

fn limit() -> io::Result<()> {
    for limit in spec::default_rlimits() {
        let hard = rustix::process::getrlimit(limit.resource).maximum;
        rustix::process::setrlimit(limit.resource, limit.clamped(hard))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// Root keeps the capabilities that the container was built with; anybody else loses them all by the change of user.
fn identify(start: &Start) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(start.uid), Gid::from_raw(start.gid));
    if !start.single {
        let groups: Vec<Gid> = start.groups.iter().map(|&g| Gid::from_raw(g)).collect();
        rustix::thread::set_thread_groups(&groups)?;
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// execvpe(3) with the command's own `PATH`.
fn execute(start: &Start) -> io::Error {
    let strings =
        |list: &[Vec<u8>]| list.iter().map(|s| CString::new(s.as_slice())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(env)) = (strings(&start.argv), strings(&start.env)) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let mut denied = None;
    let candidates = candidates(start);
    // Last: it holds for what this process still does, too.
    if let Err(error) = confine::limit_address_space(&start.confinement) {
        return error;
    }
    for program in candidates {
        let Ok(program) = CString::new(program) else { return io::ErrorKind::InvalidInput.into() };
        match nix::unistd::execve(&program, &argv, &env) {
            Ok(never) => match never {},
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
            Err(nix::Error::EACCES) => denied = Some(nix::Error::EACCES),
            Err(error) => return error.into(),
        }
    }
    denied.unwrap_or(nix::Error::ENOENT).into()
}

/// The files that a program name may mean, in order.
fn candidates(start: &Start) -> Vec<Vec<u8>> {
    let name = start.argv.first().cloned().unwrap_or_default();
    if name.is_empty() || name.contains(&b'/') {
        return vec![name];
    }
    let path =
        start.env.iter().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    path.split(|&b| b == b':')
        .map(|dir| {
            let dir = if dir.is_empty() { b".".as_slice() } else { dir };
            [dir, b"/", name.as_slice()].concat()
        })
        .collect()
}

fn explain(start: &Start, step: Step, error: &io::Error) -> Fault {
    let program = start.argv.first().map(|p| p.escape_ascii().to_string()).unwrap_or_default();
    let doing = match step {
        Step::Streams => "connect the standard streams".to_owned(),
        Step::Terminal => "take the terminal".to_owned(),
        Step::Limits => "set its limits".to_owned(),
        Step::Identity => format!("become user {}:{}", start.uid, start.gid),
        Step::Directory => format!("enter {:?}", start.cwd.escape_ascii().to_string()),
        Step::Execute => {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => FaultKind::CommandNotFound,
                io::ErrorKind::ArgumentListTooLong => {
                    let fault = Fault {
                        kind: FaultKind::InvalidArgument,
                        ..Fault::io(format!("execute {program:?}"), error)
                    };
                    return fault.with_remedy("pass what is long by standard input or in a file: arguments and variables may have 128 KiB each");
                }
                _ => FaultKind::CommandNotExecutable,
            };
            return Fault { kind, ..Fault::io(format!("execute {program:?}"), error) };
        }
    };
    Fault::io(format!("{doing} for {program:?}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::protocol::Confinement;

    fn with(argv0: &str, env: &[&str]) -> Start {
        Start {
            argv: vec![argv0.into()],
            env: env.iter().map(|e| e.as_bytes().to_vec()).collect(),
            cwd: b"/".to_vec(),
            uid: 0,
            gid: 0,
            groups: vec![],
            terminal: None,
            single: false,
            confinement: Confinement::default(),
        }
    }

    #[test]
    fn a_name_is_searched_in_the_commands_own_path() {
        let found = candidates(&with("ls", &["A=b", "PATH=/x::/y"]));
        assert_eq!(found, [b"/x/ls".to_vec(), b"./ls".to_vec(), b"/y/ls".to_vec()]);
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        assert_eq!(candidates(&with("./a", &["PATH=/x"])), [b"./a".to_vec()]);
        assert_eq!(candidates(&with("", &["PATH=/x"])), [b"".to_vec()]);
    }
}
