//! `exec` in a vessel that is up, without command line parser and async runtime: most of the time of a short command is
//! theirs.
//!
//! Only what is plain is done here, and as the long way would do it. Whatever is not understood, or not as usual, is left to
//! that, which also has the better complaints.
//!
//! A terminal is among that: somebody may stop its output, and must be able to end the command all the same.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use vesselrt::quick::{self, Command};
use vesselrt::{ExecOptions, ManagerConfig};

use super::copied::Copied;
use super::interrupts::Passed;
use super::{Ended, streams};
use crate::cli::values::{self, Variable};
use crate::cli::{Failure, Outcome, output};

/// What was typed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Typed {
    root: Option<PathBuf>,
    ephemeral: bool,
    work_dir: Option<PathBuf>,
    user: Option<String>,
    variables: Vec<(OsString, OsString)>,
    id: String,
    command: Vec<OsString>,
}

/// Runs the command that was typed, if it is one for here; the exit code then.
pub(in crate::cli) fn attempt() -> Option<ExitCode> {
    let here = |key: &str| std::env::var_os(key);
    let typed = parse(std::env::args_os().skip(1), here)?;
    let idle = match here("VESSELRT_IDLE") {
        Some(text) => values::idle(text.to_str()?).ok()?,
        None => values::idle("").ok()?,
    };
    let root =
        typed.root.clone().or_else(|| here("VESSELRT_ROOT").filter(|root| !root.is_empty()).map(Into::into));
    let root = root.unwrap_or_else(|| ManagerConfig::default().root);
    let signals = catch()?;
    let outcome = run(typed, &root, idle, &signals);
    if !matches!(outcome, Ok(Some(_)) | Err(_)) {
        // The long way catches them in its own way.
        let _ = SigSet::empty().thread_set_mask();
    }
    match outcome {
        Ok(ended) => ended.map(Ended::exit_code),
        Err(failure) => Some(output::failed(false, &failure)),
    }
}

/// `exec [OPTIONS] ID [--] CMD...`, with options that are known here.
fn parse(
    arguments: impl Iterator<Item = OsString>,
    here: impl Fn(&str) -> Option<OsString>,
) -> Option<Typed> {
    let mut typed = Typed::default();
    let mut arguments = arguments.peekable();
    let mut verb = false;
    loop {
        let argument = arguments.next()?;
        let mut value =
            || arguments.next().filter(|value| !value.is_empty() && !value.as_bytes().starts_with(b"-"));
        match argument.to_str()? {
            "--" if verb && !typed.id.is_empty() => break,
            "exec" if !verb => verb = true,
            "--root" => typed.root = Some(value()?.into()),
            "--ephemeral" if verb => typed.ephemeral = true,
            "-w" | "--workdir" if verb => typed.work_dir = Some(value()?.into()),
            "-u" | "--user" if verb => typed.user = Some(value()?.into_string().ok()?),
            "-e" | "--env" if verb => {
                let variable = Variable::parse(&value()?).ok()?;
                typed.variables.extend(variable.resolve(|key| here(key.to_str()?)));
            }
            text if !verb || text.starts_with('-') => return None,
            id if typed.id.is_empty() => id.clone_into(&mut typed.id),
            _ => {
                typed.command.push(argument);
                break;
            }
        }
    }
    typed.command.extend(arguments);
    (!typed.command.is_empty()).then_some(typed)
}

/// The signals that are passed on: none of them ends this process any more.
fn catch() -> Option<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        mask.add(signal);
    }
    // One that is blocked already is for somebody else to understand.
    (SigSet::thread_get_mask().ok()? == SigSet::empty()).then_some(())?;
    mask.thread_block().ok()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()
}

fn run(typed: Typed, root: &Path, idle: Duration, signals: &SignalFd) -> Outcome<Option<Ended>> {
    let mut options = ExecOptions::new(typed.command).envs(typed.variables).persist_result(!typed.ephemeral);
    if let Some(dir) = typed.work_dir {
        options = options.work_dir(dir);
    }
    if let Some(user) = typed.user {
        options = options.user(user);
    }
    let Some((options, mut copied)) = streams::hand_over(options) else { return Ok(None) };
    let Some(command) = quick::exec(root, &typed.id, options, idle)? else { return Ok(None) };
    attend(&command, signals, &mut copied)?;
    // What could not be started is all that is reported here.
    let ended = command.wait().map(|result| Some(Ended::Command(result))).map_err(Failure::of_command);
    let written: Vec<Outcome> = copied.into_iter().map(Copied::end).collect();
    match written.into_iter().find_map(|written| written.err().filter(|failure| !failure.is_quiet())) {
        Some(failure) => Err(failure),
        None => ended,
    }
}

/// Passes signals and output on until there is something to hear.
fn attend(command: &Command, signals: &SignalFd, copied: &mut [Copied]) -> Outcome {
    let failed = |e: std::io::Error| Failure::io("wait for the command", e);
    let mut passed = Passed::default();
    loop {
        let mut fds = vec![PollFd::new(command, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let open = copied.iter().filter_map(Copied::watched);
        fds.extend(open.map(|from| PollFd::from_borrowed_fd(from, PollFlags::IN)));
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(|e| failed(e.into()))?,
        };
        let (ended, caught) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        while caught && let Some(signal) = signals.read_signal().map_err(|e| failed(e.into()))? {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            if let Some(number) = passed.on(number) {
                command.signal(number)?;
            }
        }
        if ended {
            return Ok(());
        }
        for stream in &mut *copied {
            stream.copy();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Typed> {
        parse(line.split_whitespace().map(OsString::from), |key| (key == "HERE").then(|| "x".into()))
    }

    #[test]
    fn what_is_plain_is_understood() {
        let typed =
            parsed("--root /r exec -e A=b --env HERE -e NONE -w d v -u me --ephemeral -- ls -l --").unwrap();
        let variables = vec![("A".into(), "b".into()), ("HERE".into(), "x".into())];
        let command = ["ls", "-l", "--"].map(OsString::from).into();
        let root = Some("/r".into());
        let (work_dir, user) = (Some("d".into()), Some("me".into()));
        let id = "v".to_owned();
        assert_eq!(typed, Typed { root, ephemeral: true, work_dir, user, variables, id, command });
    }

    #[test]
    fn the_command_begins_where_it_is_named() {
        let typed = parsed("exec v -e A=b ls -e C=d -- --json").unwrap();
        assert_eq!(typed.command, ["ls", "-e", "C=d", "--", "--json"].map(OsString::from));
        assert_eq!((typed.id.as_str(), typed.variables.len()), ("v", 1));
    }

    #[test]
    fn everything_else_goes_the_long_way() {
        for line in [
            "",
            "exec",
            "exec v",
            "exec v --",
            "exec -- v ls",
            "exec -i v -- cat",
            "exec -t v -- sh",
            "exec --json v -- ls",
            "exec --timeout 1s v -- ls",
            "exec -eA=b v -- ls",
            "exec --root= v -- ls",
            "exec -w -- ls",
            "run v -- ls",
            "-- exec v -- ls",
            "--ephemeral exec v -- ls",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
