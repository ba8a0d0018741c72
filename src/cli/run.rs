//! `run`: a vessel and a command in one go.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use serde_json::json;
use vesselrt::{Manager, Vessel};

use super::exec::{self, Ended, Interrupts, Prepared};
use super::{Context, Failure, Outcome, create, process};

const EXAMPLES: &str = "\
Without a command it is the Entrypoint and Cmd of the image. With --rm the vessel is removed at the end, whatever the end is; \
otherwise it stays, with what the command changed, unless the command could not be started at all. With -d the command goes on \
in the background as process p1 of the vessel, whose id is printed: see `vesselrt logs`, attach, wait and rm.

Examples:
  vesselrt run --rm debian:12 -- cat /etc/os-release
  vesselrt run --rm -t debian:12 -- bash
  id=$(vesselrt run -d -p 8080:80 web:1); vesselrt logs -f $id p1
  vesselrt run --id build -w /src debian:12 -- sh -c 'echo kept > file'";

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, override_usage = "vesselrt run [OPTIONS] <IMAGE> [-- <CMD>...]")]
pub(super) struct Run {
    /// Remove the vessel at the end; nothing is synced to disk meanwhile
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    #[command(flatten)]
    vessel: create::Flags,
    #[command(flatten)]
    flags: exec::Flags,
    #[command(flatten)]
    detach: exec::detach::Flags,
    /// Reference of an image
    image: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

pub(super) async fn run(args: Run, context: &Context) -> Outcome<ExitCode> {
    if args.detach.is_asked_for() {
        return detached(args, context).await;
    }
    let prepared = args.flags.prepare()?;
    let manager = context.manager().await?;
    // From here on a signal does not end us: the vessel must be removed.
    let mut interrupts = Interrupts::new()?;
    let options = args.vessel.options(&args.image).volatile(args.rm);
    let vessel = create::pulling(&manager, options, context).await?;
    context.note(&format!("vessel {}", vessel.id()));
    let outcome = command_in(&manager, &vessel, args.command, &prepared, &mut interrupts).await;
    let keep = !args.rm && matches!(outcome, Ok(Ended::Command(_)));
    // Deleted while it is open: the shim, which is on the spot, removes what was written before it leaves.
    let removed = if keep { Ok(()) } else { manager.delete_vessel(vessel.id()).await };
    let closed = vessel.close().await;
    let ended = outcome?;
    removed?;
    closed?;
    ended.tell(context);
    Ok(ended.exit_code())
}

/// Leaves the command in the background and prints the id of its vessel.
async fn detached(args: Run, context: &Context) -> Outcome<ExitCode> {
    let prepared = args.flags.prepare_apart()?;
    let manager = context.manager().await?;
    let vessel = create::pulling(&manager, args.vessel.options(&args.image), context).await?;
    let started = async {
        let command = command_or_default(&manager, &vessel, args.command).await?;
        let options = prepared.options(command).persist_result(true);
        args.detach.spawn(&vessel, options, &prepared).await
    };
    let started = started.await;
    let removed = if started.is_ok() { Ok(()) } else { manager.delete_vessel(vessel.id()).await };
    let id = vessel.id().to_owned();
    let closed = vessel.close().await;
    let process = started?;
    removed?;
    closed?;
    match context.json {
        true => {
            let process = process::to_json(&process.info().await?);
            context.print_json(&json!({ "vessel": id, "process": process }))?;
        }
        false => context.print_line(&id)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn command_in(
    manager: &Manager,
    vessel: &Vessel,
    command: Vec<OsString>,
    prepared: &Prepared,
    interrupts: &mut Interrupts,
) -> Outcome<Ended> {
    let command = command_or_default(manager, vessel, command).await?;
    let options = prepared.options(command).persist_result(true);
    exec::drive(vessel, options, prepared, interrupts).await
}

async fn command_or_default(
    manager: &Manager,
    vessel: &Vessel,
    command: Vec<OsString>,
) -> Outcome<Vec<OsString>> {
    if command.is_empty() { default_command(manager, vessel).await } else { Ok(command) }
}

/// Entrypoint and Cmd of the image (image-spec config.md).
async fn default_command(manager: &Manager, vessel: &Vessel) -> Outcome<Vec<OsString>> {
    let manifest = vessel.manifest();
    let image = manager.inspect_image(&manifest.base_image_ref).await?;
    let config = image.config.config().clone().unwrap_or_default();
    let parts = [config.entrypoint().clone(), config.cmd().clone()];
    let command: Vec<OsString> = parts.into_iter().flatten().flatten().map(OsString::from).collect();
    if command.is_empty() {
        return Err(Failure::invalid(format!("the image {} names no command", manifest.base_image_ref))
            .remedy("give one: vesselrt run IMAGE -- CMD"));
    }
    Ok(command)
}
