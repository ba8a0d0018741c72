//! What `vm run`, `vm exec` and `vm temp` have in common: the script, and what is made of its end.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Args;
use vesselrt::vm::RunOptions;

use crate::cli::{Failure, Outcome};

/// A script and how to run it.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Script {
    /// A script for the shell of the image
    #[arg(
        long,
        value_name = "SCRIPT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub(super) cmd: String,
    /// Copy a file to /in first
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Exit as the command does, the first that fails if there are many
    #[arg(long)]
    pub(super) exit_code: bool,
}

impl Script {
    /// The error of one that is missing.
    pub(super) fn check(&self) -> Outcome {
        match self.cmd.is_empty() {
            true => Err(Failure::invalid("--cmd is required")),
            false => Ok(()),
        }
    }

    /// To be run in a machine.
    pub(super) fn on(&self, vm: &str) -> RunOptions {
        self.with(RunOptions::new(vm, &self.cmd))
    }

    /// What is asked for besides the script.
    pub(super) fn with(&self, mut options: RunOptions) -> RunOptions {
        options.file.clone_from(&self.file);
        options
    }
}
