//! A command from its start to its end, with our signals and our terminal.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;
use vesselrt::{ExecOptions, ExecResult, Running, Vessel};

use super::interrupts::{Interrupts, SIGHUP, SIGKILL, SIGTERM};
use super::streams::Trouble;
use super::terminal::{self, Raw, Resizes};
use super::{Prepared, streams};
use crate::cli::{Context, Failure, Outcome};

/// What a command with a terminal has to end in when we are told to: that of `stop`.
const GRACE: Duration = Duration::from_secs(2);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The command, as the library tells it.
    Command(ExecResult),
    /// We were told to end before it had started.
    Interrupted(i32),
}

impl Ended {
    /// Says what the exit code does not.
    pub(crate) fn tell(self, context: &Context) {
        let Self::Command(result) = self else { return };
        if result.oom_killed {
            context.warn(
                "the memory that the command may use was used up, and a process of it was killed (--memory)",
            );
        }
        if result.disk_full {
            context.warn("the command was killed: the vessel takes more on disk than it may (--disk)");
        }
    }

    /// The exit code that tells it.
    pub(crate) fn exit_code(self) -> ExitCode {
        // Codes above 255 do not exist on Linux (exit(3)).
        ExitCode::from(u8::try_from(self.code() & 0xff).unwrap_or(u8::MAX))
    }

    /// The same as a number.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Command(result) => result.exit_code,
            Self::Interrupted(signal) => signal.saturating_add(128),
        }
    }
}

/// Runs the command in `vessel` to its end.
pub(crate) async fn drive(
    vessel: &Vessel,
    options: ExecOptions,
    prepared: &Prepared,
    interrupts: &mut Interrupts,
) -> Outcome<Ended> {
    let &Prepared { interactive, terminal, .. } = prepared;
    let mut resizes = Resizes::new(terminal)?;
    let trouble = Trouble::default();
    let options = match terminal {
        true => {
            let (rows, columns) = terminal::size();
            streams::join_terminal(options.terminal(rows, columns), &trouble)?
        }
        false => streams::join(options, interactive, &trouble)?,
    };
    let mut running = tokio::select! {
        biased;
        running = vessel.spawn(options) => running.map_err(Failure::of_command)?,
        signal = interrupts.next() => return Ok(Ended::Interrupted(signal)),
    };
    let _raw = terminal.then(Raw::enter).transpose()?;
    let ended = attend(&mut running, interrupts, &mut resizes, terminal).await;
    match trouble.take() {
        Some(failure) => Err(failure),
        None => ended.map(Ended::Command),
    }
}

async fn attend(
    running: &mut Running,
    interrupts: &mut Interrupts,
    resizes: &mut Resizes,
    terminal: bool,
) -> Outcome<ExecResult> {
    let mut last = Last(None);
    loop {
        tokio::select! {
            ended = running.wait() => return Ok(ended?),
            signal = interrupts.next() => {
                // An interactive shell ignores SIGTERM, and nobody sees its terminal any more.
                if terminal && matches!(signal, SIGHUP | SIGTERM) {
                    last.begin();
                }
                if let Some(signal) = interrupts.pass_on(signal) {
                    running.signal(signal)?;
                }
            }
            () = last.over() => running.signal(SIGKILL)?,
            () = resizes.next() => {
                let (rows, columns) = terminal::size();
                running.resize(rows, columns)?;
            }
        }
    }
}

/// The time that a command has left once we were told to end.
struct Last(Option<Instant>);

impl Last {
    fn begin(&mut self) {
        self.0.get_or_insert_with(|| Instant::now() + GRACE);
    }

    /// Once; a command that is killed needs no more.
    async fn over(&mut self) {
        let Some(end) = self.0 else { return std::future::pending().await };
        tokio::time::sleep_until(end).await;
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(Ended::Interrupted(2).exit_code(), ExitCode::from(130));
    }
}
