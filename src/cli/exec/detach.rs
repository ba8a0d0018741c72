//! `exec -d`: a command that goes on in the background.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Args;
use vesselrt::{ExecOptions, Process, SpawnOptions, Vessel};

use super::{Exec, Prepared, terminal};
use crate::cli::process::{self, values};
use crate::cli::{Context, Failure, Outcome};

/// Flags of a command in the background.
#[derive(Debug, Args)]
#[group(skip)]
pub(in crate::cli) struct Flags {
    /// Leave it in the background and print its id
    #[arg(short, long)]
    detach: bool,
    /// How much of what it writes is kept, such as 512k or 64m; 16m without this
    #[arg(long, value_name = "SIZE", requires = "detach", value_parser = values::log_size)]
    log_size: Option<u64>,
}

impl Flags {
    pub(in crate::cli) fn is_asked_for(&self) -> bool {
        self.detach
    }

    /// Starts it in the background.
    pub(in crate::cli) async fn spawn(
        &self,
        vessel: &Vessel,
        mut exec: ExecOptions,
        prepared: &Prepared,
    ) -> Outcome<Process> {
        if prepared.terminal {
            let (rows, columns) = terminal::size();
            exec = exec.terminal(rows, columns);
        }
        let mut options = SpawnOptions::new(exec).input(prepared.interactive);
        if let Some(bytes) = self.log_size {
            options = options.log_limit(bytes);
        }
        vessel.spawn_detached(options).await.map_err(Failure::of_command)
    }
}

pub(super) async fn run(args: Exec, context: &Context) -> Outcome<ExitCode> {
    let prepared = args.flags.prepare_apart()?;
    let mut exec =
        prepared.options(args.command).persist_result(!args.ephemeral).limits(args.limits.limits());
    if let Some(dir) = args.work_dir {
        exec = exec.work_dir(dir);
    }
    let work = context.with_vessel(&args.id, async |vessel| {
        let started = args.detach.spawn(vessel, exec, &prepared).await;
        if !args.idle.is_zero() {
            // A vessel that is being stopped takes no orders.
            let _ = vessel.linger(args.idle).await;
        }
        started
    });
    let started = work.await?;
    match context.json {
        true => context.print_json(&process::to_json(&started.info().await?))?,
        false => context.print_line(&started.id())?,
    }
    Ok(ExitCode::SUCCESS)
}
