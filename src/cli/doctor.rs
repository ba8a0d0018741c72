//! `doctor`.
#![forbid(unsafe_code)]
use std::process::ExitCode;
use clap::Args;
use super::{Context, Outcome};
/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct Doctor {}
pub(super) async fn run(_: &Doctor, context: &Context) -> Outcome<ExitCode> {
    context.print_line("ok")?;
    Ok(ExitCode::SUCCESS)
}
