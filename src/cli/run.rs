//! `run`: a vessel and a command in one go.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use vesselrt::{Manager, Vessel};

use super::exec::{self, Ended, Interrupts, Prepared};
use super::{Context, Failure, Outcome, create};

const EXAMPLES: &str = "\
Without a command it is the Entrypoint and Cmd of the image. With --rm the vessel is removed at the end, whatever the end is; \
otherwise it stays, with what the command changed, unless the command could not be started at all.

Examples:
  vesselrt run --rm debian:12 -- cat /etc/os-release
  vesselrt run --rm -t debian:12 -- bash
  vesselrt run --id build -w /src debian:12 -- sh -c 'echo kept > file'";

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, override_usage = "vesselrt run [OPTIONS] <IMAGE> [-- <CMD>...]")]
pub(super) struct Run {
    /// Remove the vessel at the end; nothing is synced to disk meanwhile
    #[arg(long)]
    rm: bool,
    #[command(flatten)]
    vessel: create::Flags,
    #[command(flatten)]
    flags: exec::Flags,
    /// Reference of an image
    image: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

pub(super) async fn run(args: Run, context: &Context) -> Outcome<ExitCode> {
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

async fn command_in(
    manager: &Manager,
    vessel: &Vessel,
    command: Vec<OsString>,
    prepared: &Prepared,
    interrupts: &mut Interrupts,
) -> Outcome<Ended> {
    let command = if command.is_empty() { default_command(manager, vessel).await? } else { command };
    let options = prepared.options(command).persist_result(true);
    exec::drive(vessel, options, prepared, interrupts).await
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
