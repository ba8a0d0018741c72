//! `project create`.
#![forbid(unsafe_code)]

use clap::{Args, ValueEnum};
use vesselrt::projects::{DEFAULT_IMAGE, ProjectOptions, WORKSPACE};
use vesselrt::settings::network::{NetworkMode, Publish};

use super::Place;
use crate::cli::values;
use crate::cli::{Failure, Outcome};

/// Arguments of `project create`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Where vessels are not available the project is created without a container; `vesselrt doctor` says what is missing. A command \
runs as long as the container does; `project logs` shows what it writes.

Examples:
  vesselrt project create notes --image debian:12 --network none
  vesselrt project create shop --publish 3000:3000 -- node server.js")]
pub(super) struct Create {
    /// Name: letters, digits, `_`, `.`, `-`; 128 at most
    name: String,
    /// What it is about
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Reference of its image
    #[arg(long, value_name = "IMAGE", default_value = DEFAULT_IMAGE)]
    image: String,
    /// Set a variable of its commands
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::label)]
    env: Vec<(String, String)>,
    /// Let a port of this host lead to a server inside; on the loopback address unless ADDR says otherwise
    #[arg(short, long, value_name = "[ADDR:]HOST:GUEST[/udp]")]
    publish: Vec<Publish>,
    /// Its network, which no other project is in
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    network: Mode,
    /// If it is there, start its container
    #[arg(long)]
    if_missing: bool,
    /// What runs as long as its container does
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Mode {
    /// No way out
    None,
    /// This host's, with all that listens on its loopback interface
    Host,
    /// One with a way out, through pasta or slirp4netns
    #[default]
    Isolated,
}

impl From<Mode> for NetworkMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::None => Self::None,
            Mode::Host => Self::Host,
            Mode::Isolated => Self::Isolated,
        }
    }
}

pub(super) async fn create(args: Create, at: &Place<'_>) -> Outcome {
    let registry = at.registry().await?;
    let mut options = ProjectOptions::new().description(args.description).image(args.image);
    options.env = args.env.into_iter().collect();
    options.ports = args.publish;
    options = options.network(args.network.into()).command(args.command);
    let project = match args.if_missing {
        false => registry.create_project_with(&args.name, options).await?,
        true => {
            let obtained = registry.get_or_create_project(&args.name, options).await?;
            if let Some(error) = obtained.warning {
                let failure = Failure::from(error);
                at.context.warn(&format!(
                    "failed to start container of project {}: {}",
                    args.name,
                    failure.message()
                ));
            }
            obtained.project
        }
    };
    if let Some(vesselrt::projects::Availability::Unavailable { reason, .. }) =
        registry.containers().map(vesselrt::projects::ContainerManager::availability)
    {
        at.context.warn(&format!("vessels are not available, so nothing has {WORKSPACE}: {reason}"));
    }
    match at.context.json {
        true => at.context.print_json(&project),
        false => at.context.print_line(&project.name),
    }
}
