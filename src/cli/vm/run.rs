//! `vm run`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Args;
use vesselrt::vm::RunResult;

use super::script::Script;
use super::{FAILED, Session, code_of, seconds};
use crate::cli::{Failure, Interrupts, Outcome};

/// Arguments of `vm run`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
What the command writes is printed when it has ended, and kept in files that are named in the log; stdout.log and stderr.log in \
/out are those of the last run. Any exit code but 0 makes it 1, unless --exit-code is given; then 124 is that its time was up.

Examples:
  vesselrt vm run --vm ID --cmd 'python3 -V'
  AGENT_ENABLE_GUEST_VOLUMES=1 vesselrt vm run --vm ID --file job.py --cmd 'python3 /in/job.py' --timeout 60 --exit-code")]
pub(super) struct Run {
    /// Id of the machine
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    vm: String,
    #[command(flatten)]
    script: Script,
    /// How many seconds it may take [default: as many as it wants]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

pub(super) async fn run(args: Run, session: &Session<'_>) -> Outcome<ExitCode> {
    if args.vm.is_empty() {
        return Err(Failure::invalid("--vm is required"));
    }
    args.script.check()?;
    let mut options = args.script.on(&args.vm);
    options.timeout = args.timeout.map(seconds).transpose()?;
    let record = session.service.get(&args.vm).await?;
    let result = interruptibly(&mut Interrupts::new()?, session.service.run(options)).await?;
    let error = session.tell("vm run", &record, &result)?;
    if session.context.json {
        session.context.print_json(&session.json_of(&record, &result)?)?;
    }
    ended(error, &[result], args.script.exit_code, session)
}

/// What `work` gives, unless a signal ends us first, which kills what runs.
pub(super) async fn interruptibly<T>(
    interrupts: &mut Interrupts,
    work: impl Future<Output = vesselrt::Result<T>>,
) -> Outcome<T> {
    tokio::select! {
        biased;
        done = work => Ok(done?),
        signal = interrupts.next() => Err(Failure::conflict(format!("ended by signal {signal}"))),
    }
}

/// The exit code of a verb after runs, the first of which that failed counts.
pub(super) fn ended(
    error: Option<String>,
    results: &[RunResult],
    exit_code: bool,
    session: &Session<'_>,
) -> Outcome<ExitCode> {
    let failed = results.iter().find(|result| result.exit_code != 0);
    match (failed, error) {
        (Some(result), _) if exit_code => Ok(code_of(result.exit_code)),
        (_, None) => Ok(ExitCode::SUCCESS),
        // The documents that say it are printed already.
        (_, Some(_)) if session.context.json => Ok(ExitCode::from(FAILED)),
        (_, Some(error)) => Err(Failure::conflict(error)),
    }
}
