//! The command itself: forked, stripped of what it must not have, executed.
#![forbid(unsafe_code)]

mod confine;

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Pid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use seccompiler::BpfProgram;

use super::{Start, three};
use crate::shim::protocol::{Fault, FaultKind};
use crate::{spec, sys};

/// A running command.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: Pid,
    /// The other end of its terminal.
    pub(super) terminal: Option<OwnedFd>,
}

/// Where a start failed: what the child tells through its pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Session = 1,
    Streams,
    Limits,
    Directory,
    Identity,
    Filter,
    Execute,
}

/// Starts the command.
pub(super) fn start(start: &Start, mut fds: Vec<OwnedFd>, seccomp: &BpfProgram) -> Result<Started, Fault> {
    let groups = confine::groups(&start.confinement, &mut fds);
    let (terminal, streams) = streams(start, fds)?;
    let (mut ours, theirs) = UnixStream::pair().map_err(|e| Fault::io("socketpair", &e))?;
    let pid = sys::fork(|| {
        let (step, error) = become_command(start, &streams, &groups, seccomp);
        let errno = error.raw_os_error().unwrap_or(0).to_ne_bytes();
        let _ = (&theirs).write_all(&[step as u8, errno[0], errno[1], errno[2], errno[3]]);
        127
    })
    .map_err(|e| Fault::io("fork the command", &e))?;
    drop(theirs);
    let mut report = Vec::new();
    // The child's end closes when the command is executed: nothing to read is success.
    ours.read_to_end(&mut report).map_err(|e| Fault::io("wait for the command to start", &e))?;
    match report.as_slice() {
        [] => Ok(Started { pid, terminal }),
        [step, errno @ ..] => Err(explain(start, *step, errno)),
    }
}

/// The terminal's other end, if there is one, and the standard streams.
fn streams(start: &Start, fds: Vec<OwnedFd>) -> Result<(Option<OwnedFd>, [OwnedFd; 3]), Fault> {
    let Some((rows, columns)) = start.terminal else {
        let streams = three(fds).ok_or_else(|| {
            Fault::new(FaultKind::InvalidArgument, "a command needs three standard streams")
        })?;
        return Ok((None, streams));
    };
    let opened = open_terminal(rows, columns).map_err(|e| Fault::io("open a terminal of the vessel", &e))?;
    Ok(opened)
}

/// A terminal of the container's own devpts: `/dev` is a fresh mount that no command has touched yet.
fn open_terminal(rows: u16, columns: u16) -> io::Result<(Option<OwnedFd>, [OwnedFd; 3])> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ptmx = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&ptmx)?;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&ptmx, size)?;
    let open = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&ptmx, open)?;
    let streams = [terminal.try_clone()?, terminal.try_clone()?, terminal];
    Ok((Some(ptmx), streams))
}

/// In the child; returns only when it failed.
fn become_command(
    start: &Start,
    streams: &[OwnedFd; 3],
    groups: &[OwnedFd],
    seccomp: &BpfProgram,
) -> (Step, io::Error) {
    match prepare(start, streams, groups, seccomp) {
        Err(failed) => failed,
        Ok(()) => (Step::Execute, execute(start)),
    }
}

fn prepare(
    start: &Start,
    streams: &[OwnedFd; 3],
    groups: &[OwnedFd],
    seccomp: &BpfProgram,
) -> Result<(), (Step, io::Error)> {
    let at = |step: Step| move |error: io::Error| (step, error);
    reset_signals().map_err(at(Step::Session))?;
    session(start.terminal.is_some(), streams).map_err(at(Step::Session))?;
    connect(streams).map_err(at(Step::Streams))?;
    limit().map_err(at(Step::Limits))?;
    confine::confine(&start.confinement, groups).map_err(at(Step::Limits))?;
    identify(start).map_err(at(Step::Identity))?;
    // After the change of user: the command must not enter what its user may not.
    let cwd = Path::new(std::ffi::OsStr::from_bytes(&start.cwd));
    nix::unistd::chdir(cwd).map_err(|e| (Step::Directory, e.into()))?;
    rustix::thread::set_no_new_privs(true).map_err(|e| (Step::Filter, e.into()))?;
    seccompiler::apply_filter(seccomp).map_err(|e| (Step::Filter, io::Error::other(e)))
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

fn session(terminal: bool, streams: &[OwnedFd; 3]) -> io::Result<()> {
    rustix::process::setsid()?;
    if terminal {
        rustix::process::ioctl_tiocsctty(&streams[0])?;
    }
    Ok(())
}

fn connect(streams: &[OwnedFd; 3]) -> io::Result<()> {
    rustix::stdio::dup2_stdin(&streams[0])?;
    rustix::stdio::dup2_stdout(&streams[1])?;
    rustix::stdio::dup2_stderr(&streams[2])?;
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

fn explain(start: &Start, step: u8, errno: &[u8]) -> Fault {
    let errno = errno.try_into().map_or(0, i32::from_ne_bytes);
    let error = io::Error::from_raw_os_error(errno);
    let program = start.argv.first().map(|p| p.escape_ascii().to_string()).unwrap_or_default();
    if step == Step::Execute as u8 {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => FaultKind::CommandNotFound,
            _ => FaultKind::CommandNotExecutable,
        };
        return Fault { kind, errno: Some(errno), ..Fault::io(format!("execute {program:?}"), &error) };
    }
    let doing = match step {
        s if s == Step::Session as u8 => "start a session".to_owned(),
        s if s == Step::Streams as u8 => "connect the standard streams".to_owned(),
        s if s == Step::Limits as u8 => "set resource limits".to_owned(),
        s if s == Step::Directory as u8 => format!("enter {:?}", start.cwd.escape_ascii().to_string()),
        s if s == Step::Identity as u8 => format!("become user {}:{}", start.uid, start.gid),
        _ => "install the system call filter".to_owned(),
    };
    Fault::io(format!("{doing} for {program:?}"), &error)
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
