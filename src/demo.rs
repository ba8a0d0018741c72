//! demo
#![forbid(unsafe_code)]
mod elf;
use std::process::ExitCode;
use clap::Args;
use crate::cli::{Context, Outcome};
/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {}
pub(crate) async fn run(_: Demo, context: &Context) -> Outcome<ExitCode> {
    context.print_line("ok")?;
    Ok(ExitCode::SUCCESS)
}
