//! `completions SHELL`.
#![forbid(unsafe_code)]

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Context, Outcome};

const EXAMPLES: &str = "\
Examples:
  vesselrt completions bash > ~/.local/share/bash-completion/completions/vesselrt
  vesselrt completions zsh > ~/.zfunc/_vesselrt
  vesselrt completions fish > ~/.config/fish/completions/vesselrt.fish";

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Completions {
    /// Whose completions
    shell: Shell,
}

pub(super) fn run(args: &Completions, context: &Context) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vesselrt", &mut script);
    context.print_bytes(&script)
}
