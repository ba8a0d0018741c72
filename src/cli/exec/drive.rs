//! A command from its start to its end, with our signals and our terminal.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use vesselrt::{ExecOptions, ExecResult, Running, Vessel};

use super::interrupts::Interrupts;
use super::streams::Trouble;
use super::terminal::{self, Raw, Resizes};
use super::{Prepared, streams};
use crate::cli::{Context, Failure, Outcome};

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
    let ended = attend(&mut running, interrupts, &mut resizes).await;
    match trouble.take() {
        Some(failure) => Err(failure),
        None => ended.map(Ended::Command),
    }
}

async fn attend(
    running: &mut Running,
    interrupts: &mut Interrupts,
    resizes: &mut Resizes,
) -> Outcome<ExecResult> {
    loop {
        tokio::select! {
            ended = running.wait() => return Ok(ended?),
            signal = interrupts.next() => {
                if let Some(signal) = interrupts.pass_on(signal) {
                    running.signal(signal)?;
                }
            }
            () = resizes.next() => {
                let (rows, columns) = terminal::size();
                running.resize(rows, columns)?;
            }
        }
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
