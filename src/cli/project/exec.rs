//! `project exec`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Args, ValueHint};
use vesselrt::projects::{ExecOutput, LocalFallback, ProjectRegistry};

use super::Place;
use crate::cli::{Failure, Interrupts, Outcome, exec};

/// Arguments of `project exec`.
#[derive(Debug, Args)]
#[command(override_usage = "vesselrt project exec [OPTIONS] <NAME> -- <CMD>...")]
#[command(after_long_help = "\
The command gets the variables of the project. Exit codes are those of `vesselrt exec`. With --json it is run to its end, and \
then {exitCode,stdout,stderr,truncated} is printed.

Examples:
  vesselrt project exec shop -- npm install
  vesselrt project exec shop -t -- bash
  vesselrt project exec shop --json -- npm test")]
pub(super) struct Exec {
    /// Directory to run in; a relative one begins at /workspace, which is the default
    #[arg(short = 'w', long = "workdir", value_name = "DIR", default_value = "", hide_default_value = true)]
    work_dir: String,
    #[command(flatten)]
    flags: exec::Flags,
    /// Where vessels are not available, run it on this host itself, without any isolation
    #[arg(long)]
    local_fallback: bool,
    /// Name of the project
    name: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<String>,
}

pub(super) async fn exec(args: Exec, at: &Place<'_>) -> Outcome<ExitCode> {
    let registry = at.registry().await?;
    let available = registry.containers().is_some_and(vesselrt::projects::ContainerManager::is_available);
    if !available && args.local_fallback {
        return locally(&args, &registry, at).await;
    }
    let prepared = args.flags.prepare()?;
    let mut interrupts = Interrupts::new()?;
    let (vessel, options) = registry.command(&args.name, &args.command, &args.work_dir).await?;
    let options = prepared.apply(options);
    if at.context.json {
        let output = ProjectRegistry::run(&vessel, options).await.map_err(Failure::of_command)?;
        return tell(&output, at);
    }
    let ended = exec::drive(&vessel, options, &prepared, &mut interrupts).await;
    vessel.close().await?;
    let ended = ended?;
    ended.tell(at.context);
    Ok(ended.exit_code())
}

async fn locally(args: &Exec, registry: &ProjectRegistry, at: &Place<'_>) -> Outcome<ExitCode> {
    at.context.warn("vessels are not available: the command runs on this host itself");
    let project = registry.get_project(&args.name).await?;
    let local = LocalFallback::new(&at.base)?;
    let output = local.exec(&args.name, &args.command, &args.work_dir, &project.env).await;
    let output = output.map_err(Failure::of_command)?;
    if !at.context.json {
        at.context.print(&output.stdout)?;
        at.context.print_error_bytes(output.stderr.as_bytes())?;
        return Ok(code(&output));
    }
    tell(&output, at)
}

fn tell(output: &ExecOutput, at: &Place<'_>) -> Outcome<ExitCode> {
    at.context.print_json(output)?;
    Ok(code(output))
}

fn code(output: &ExecOutput) -> ExitCode {
    ExitCode::from(u8::try_from(output.exit_code & 0xff).unwrap_or(u8::MAX))
}
