//! `ps`, `logs`, `attach`, `kill`, `wait`: processes in the background. None of them opens the vessel.
#![forbid(unsafe_code)]

mod attach;
mod keys;
mod logs;
pub(super) mod values;

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vesselrt::{EndCause, ProcessEnd, ProcessInfo};

use super::batch::Batch;
use super::failure::OURS;
use super::tables::{Table, ago};
use super::values::printable;
use super::{Context, Failure, Outcome};
pub(super) use attach::{Attach, attach};
pub(super) use logs::{Logs, logs};

/// Longest command in a table, in characters.
const SHOWN: usize = 60;

/// Arguments of `ps`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Those that run are listed, and the last hundred that have ended. With --quiet only the ids are printed.")]
pub(super) struct Ps {
    /// Forget those that have ended, logs and all, and print their ids
    #[arg(long)]
    prune: bool,
    /// Id of the vessel
    id: String,
}

/// Arguments of `kill`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The signal goes to the process group that the command began with; KILL takes everything that it started along.

Examples:
  vesselrt kill ID p1
  vesselrt kill ID p1 p2 -s INT")]
pub(super) struct Kill {
    /// Name or number of the signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM", value_parser = values::signal)]
    signal: i32,
    /// Id of the vessel
    id: String,
    /// Ids of processes
    #[arg(value_name = "PROC", required = true)]
    processes: Vec<String>,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Exit codes: the command's own; 124 its time was up; 125 an error of vesselrt, or nobody knows; 128+n signal n ended it.")]
pub(super) struct Wait {
    /// Id of the vessel
    id: String,
    /// Id of the process
    #[arg(value_name = "PROC")]
    process: String,
}

pub(super) async fn ps(args: &Ps, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    if args.prune {
        return context.print_ids(&manager.prune_processes(&args.id).await?);
    }
    let processes = manager.processes(&args.id).await?;
    if context.json {
        return context.print_json(&processes.iter().map(to_json).collect::<Vec<_>>());
    }
    if context.quiet {
        return context.print_ids(&processes.into_iter().map(|process| process.id).collect::<Vec<_>>());
    }
    let now = OffsetDateTime::now_utc();
    let mut table = Table::new(&["ID", "STATUS", "AGE", "COMMAND"]);
    for process in &processes {
        let age = ago(process.started, now).trim_end_matches(" ago").to_owned();
        table.row([process.id.clone(), status(process), age, command(process)]);
    }
    context.print(&table.render())
}

/// Prints the ids of those that got it.
pub(super) async fn kill(args: Kill, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let mut signalled = Batch::default();
    for id in args.processes {
        let sent = match manager.process(&args.id, &id).await {
            Ok(process) => process.signal(args.signal).await,
            Err(error) => Err(error),
        };
        signalled.note(id, sent);
    }
    signalled.finish(context)
}

pub(super) async fn wait(args: &Wait, context: &Context) -> Outcome<ExitCode> {
    let process = context.manager().await?.process(&args.id, &args.process).await?;
    let end = process.wait().await?;
    if context.json {
        context.print_json(&to_json(&process.info().await?))?;
        return Ok(exit_code(&end).unwrap_or(ExitCode::from(OURS)));
    }
    exit_code(&end).ok_or_else(|| lost(&args.process))
}

/// The exit code that tells how a process ended; `None` when nobody knows.
fn exit_code(end: &ProcessEnd) -> Option<ExitCode> {
    // Codes above 255 do not exist on Linux (exit(3)).
    end.result.map(|result| ExitCode::from(u8::try_from(result.exit_code & 0xff).unwrap_or(u8::MAX)))
}

fn lost(process: &str) -> Failure {
    Failure::of_kind(
        &vesselrt::ErrorKind::Unavailable,
        format!("process {process} was lost: what it ran in was killed, and nobody saw how it ended"),
    )
}

/// What is known of a process, as programs read it.
pub(super) fn to_json(process: &ProcessInfo) -> Value {
    let time = |time: OffsetDateTime| time.format(&Rfc3339).ok();
    let end = process.end.as_ref();
    let result = end.and_then(|end| end.result);
    json!({
        "id": process.id,
        "status": status_name(process),
        "argv": process.argv,
        "user": process.user,
        "workDir": process.work_dir,
        "startTime": time(process.started),
        "endTime": end.and_then(|end| end.ended).and_then(time),
        "exitCode": result.map(|result| result.exit_code),
        "signal": result.and_then(|result| result.signal),
        "cause": end.map(|end| end.cause.as_str()),
        "terminal": process.terminal,
        "input": process.input,
        "persists": process.persists,
        "timeoutMs": process.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        "logLimit": process.log_limit,
        "logEnd": end.and_then(|end| end.log_end),
        "logLost": end.map_or(0, |end| end.log_lost),
    })
}

fn status_name(process: &ProcessInfo) -> &'static str {
    match &process.end {
        None => "running",
        Some(ProcessEnd { cause: EndCause::Lost, .. }) => "lost",
        Some(ProcessEnd { cause: EndCause::Timeout, .. }) => "timeout",
        Some(ProcessEnd { result: Some(result), .. }) if result.signal.is_some() => "killed",
        Some(_) => "exited",
    }
}

fn status(process: &ProcessInfo) -> String {
    let name = status_name(process);
    match process.end.as_ref().and_then(|end| end.result) {
        Some(result) if result.timed_out => "timed out".to_owned(),
        Some(result) => match result.signal {
            Some(signal) => format!("{name} ({})", values::signal_name(signal)),
            None => format!("{name} ({})", result.exit_code),
        },
        None => name.to_owned(),
    }
}

fn command(process: &ProcessInfo) -> String {
    let text = printable(process.argv.join(" ").as_bytes());
    if text.chars().count() <= SHOWN {
        return text;
    }
    text.chars().take(SHOWN - 1).chain(['…']).collect()
}
