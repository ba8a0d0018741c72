//! `vm stop` and `vm clean`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Args;
use vesselrt::vm::VmRecord;

use super::log::{Fields, fields};
use super::{Session, Targets};
use crate::cli::{Failure, Outcome};

/// Arguments of `vm stop`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Commands that run are killed. Nothing of the root file system is kept; the record and /persist are, and `vm run` makes the \
machine up again.")]
pub(super) struct Stop {
    #[command(flatten)]
    targets: Targets,
}

/// Arguments of `vm clean`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A volume that is kept is listed by `vm list --kept`; `vm create --adopt ID` gives it to a new machine, and `vm clean --kept ID` \
removes it.")]
pub(super) struct Clean {
    #[command(flatten)]
    targets: Targets,
    /// Keep what is in /persist
    #[arg(long)]
    keep_persist: bool,
    /// Remove the volume that was kept of this machine
    #[arg(long, value_name = "ID", conflicts_with_all = ["keep_persist", "vms", "all"])]
    kept: Vec<String>,
}

pub(super) async fn stop(args: Stop, session: &Session<'_>) -> Outcome<ExitCode> {
    let service = &session.service;
    let stopped = |record: &VmRecord| fields! {"vm": record.id, "language": record.language};
    each(
        &args.targets,
        session,
        "vm stop failed",
        "no matching VMs to stop",
        "vm stopped",
        stopped,
        async |id| service.stop(id).await,
    )
    .await
}

pub(super) async fn clean(args: Clean, session: &Session<'_>) -> Outcome<ExitCode> {
    if !args.kept.is_empty() {
        return clean_kept(args.kept, session).await;
    }
    let (service, keep) = (&session.service, args.keep_persist);
    let cleaned =
        |record: &VmRecord| fields! {"vm": record.id, "language": record.language, "keep_persist": keep};
    each(
        &args.targets,
        session,
        "vm clean failed",
        "no matching VMs to clean",
        "vm cleaned",
        cleaned,
        async |id| service.clean(id, keep).await,
    )
    .await
}

async fn clean_kept(ids: Vec<String>, session: &Session<'_>) -> Outcome<ExitCode> {
    for id in &ids {
        let volume = session.service.clean_kept(id).await?;
        if !session.context.json {
            session.log.info("volume removed", fields! {"vm": volume.id, "path": volume.path});
        }
    }
    if session.context.json {
        session.context.print_json(&ids)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Does something to all that are asked for, and tells each; the errors of all make one.
async fn each(
    targets: &Targets,
    session: &Session<'_>,
    failed: &str,
    none: &str,
    done: &str,
    line: impl Fn(&VmRecord) -> Fields,
    work: impl AsyncFn(&str) -> vesselrt::Result<VmRecord>,
) -> Outcome<ExitCode> {
    targets.check()?;
    let mut ids: Vec<String> = match targets.all {
        true => session.service.list().await?.into_iter().map(|record| record.id).collect(),
        false => Vec::new(),
    };
    for id in &targets.vms {
        if !ids.contains(id) {
            ids.push(id.clone());
        }
    }
    if ids.is_empty() {
        return Err(Failure::not_found(none));
    }
    let (mut finished, mut errors) = (Vec::new(), Vec::new());
    for id in ids {
        match work(&id).await {
            Ok(record) => {
                if !session.context.json {
                    session.log.info(done, line(&record));
                }
                finished.push(id);
            }
            Err(error) => {
                let message = error.chain();
                session.log.error(failed, fields! {"vm": id, "error": message});
                errors
                    .push((error, if message.contains(&id) { message } else { format!("{id}: {message}") }));
            }
        }
    }
    if errors.is_empty() {
        if session.context.json {
            session.context.print_json(&finished)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let kind = errors[0].0.kind();
    let messages: Vec<String> = errors.into_iter().map(|(_, message)| message).collect();
    Err(Failure::of_kind(&kind, messages.join("\n")))
}
