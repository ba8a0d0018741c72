//! `start` and `stop`: a shim that stays between calls.
#![forbid(unsafe_code)]

use clap::Args;
use vesselrt::Manager;

use super::batch::Batch;
use super::{Context, Outcome};

/// Arguments of `start`.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// Ids of vessels
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Background processes get SIGTERM, and SIGKILL two seconds later; commands of other calls are killed.")]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(super) struct Stop {
    /// Ids of vessels
    #[arg(value_name = "ID", group = "which")]
    ids: Vec<String>,
    /// All that run
    #[arg(long, group = "which")]
    all: bool,
}

pub(super) async fn start(args: Start, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let mut started = Batch::default();
    for id in args.ids {
        let kept = keep(&manager, &id).await;
        started.note(id, kept);
    }
    started.finish(context)
}

async fn keep(manager: &Manager, id: &str) -> Result<(), vesselrt::Error> {
    let vessel = manager.open_vessel(id).await?;
    let kept = vessel.keep(true).await;
    vessel.close().await.and(kept)
}

/// Prints the ids of those that ran.
pub(super) async fn stop(args: Stop, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    if args.all {
        return context.print_ids(&manager.stop_all().await?);
    }
    let mut stopped = Batch::default();
    for id in args.ids {
        match manager.stop_vessel(&id).await {
            Ok(false) => context.note(&format!("{id} did not run")),
            ended => stopped.note(id, ended.map(drop)),
        }
    }
    stopped.finish(context)
}

/// Arguments of `upkeep`.
#[derive(Debug, Args)]
pub(super) struct Upkeep {
    /// Ids of vessels
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// In a process of its own, whose streams nobody reads.
pub(super) async fn upkeep(args: &Upkeep, context: &Context) -> Outcome {
    let manager = context.manager_for_upkeep().await?;
    let mut failure = None;
    for id in &args.ids {
        failure = failure.or(manager.upkeep_vessel(id).await.err());
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}
