//! `project …`: projects and their registry.
#![forbid(unsafe_code)]

mod create;
mod exec;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use vesselrt::projects::{ContainerManager, ContainerManagerConfig, ProjectRegistry};

use super::{Context, Failure, Outcome};

const EXAMPLES: &str = "\
A project is a directory, DIR/vega.work/projects/NAME, and a vessel in which it is /workspace. The registry of all of them is \
DIR/vega.work/projects.json.

Examples:
  vesselrt project create shop --image node:20-slim --publish 3000:3000 --env NODE_ENV=development -- node server.js
  vesselrt project exec shop -- npm install
  vesselrt project logs shop --tail 20
  vesselrt project stop shop
  vesselrt project archive-stale";

/// Arguments of `project`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Project {
    /// The directory that has vega.work [default: the working directory]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "VESSELRT_PROJECTS",
        hide_env_values = true,
        default_value = ".",
        hide_default_value = true
    )]
    base: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a project, start its container, and print its name
    Create(create::Create),
    /// Show a project
    Get(Name),
    /// List projects
    #[command(visible_alias = "list")]
    Ls(show::Ls),
    /// Start the containers of projects
    Start(Names),
    /// Stop the containers of projects; what runs in them has ten seconds to end
    Stop(Names),
    /// Run a command in the container of a project, which is started if it does not run
    Exec(exec::Exec),
    /// Show what the container of a project is doing
    Status(Name),
    /// Show what the command of a project wrote
    Logs(show::Logs),
    /// Remove projects with their containers; their directories stay
    Rm(Names),
    /// Archive projects that are older than 30 days and were not changed since, and print their names
    ArchiveStale(ArchiveStale),
    /// Look which containers run, and have the registry say so
    Reconcile,
    /// Print the directory of a project
    Path(Name),
}

/// One project.
#[derive(Debug, Args)]
struct Name {
    /// Name of the project
    name: String,
}

/// Projects.
#[derive(Debug, Args)]
struct Names {
    /// Names of projects
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Arguments of `archive-stale`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A project is stale when it was created so long ago, and its directory was not changed since. The directory is moved to \
vega.work/archive/projects/NAME-YYYY-MM-DD; the container and the entry of the registry are removed.")]
struct ArchiveStale {
    /// How many days make it stale
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    days: u32,
}

pub(super) async fn run(args: Project, context: &Context) -> Outcome<ExitCode> {
    let at = Place { base: args.base, context };
    match args.verb {
        Verb::Create(args) => create::create(args, &at).await?,
        Verb::Get(args) => show::get(&args.name, &at).await?,
        Verb::Ls(_) => show::ls(&at).await?,
        Verb::Start(args) => {
            each(args, &at, async |registry, name| registry.start_project(name).await).await?;
        }
        Verb::Stop(args) => each(args, &at, async |registry, name| registry.stop_project(name).await).await?,
        Verb::Exec(args) => return exec::exec(args, &at).await,
        Verb::Status(args) => show::status(&args.name, &at).await?,
        Verb::Logs(args) => show::logs(&args, &at).await?,
        Verb::Rm(args) => each(args, &at, async |registry, name| registry.delete_project(name).await).await?,
        Verb::ArchiveStale(args) => archive(&args, &at).await?,
        Verb::Reconcile => {
            at.registry().await?.reconcile().await?;
            show::ls(&at).await?;
        }
        Verb::Path(args) => show::path(&args.name, &at).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the projects are, and where their vessels.
struct Place<'a> {
    base: PathBuf,
    context: &'a Context,
}

impl Place<'_> {
    /// The registry, to look at only.
    async fn list(&self) -> Outcome<ProjectRegistry> {
        Ok(ProjectRegistry::new(&self.base, None).await?)
    }

    /// The registry with its containers.
    async fn registry(&self) -> Outcome<ProjectRegistry> {
        let root = std::path::absolute(self.context.root()).map_err(|e| Failure::io("find the store", e))?;
        let config = ContainerManagerConfig::new(&self.base, self.context.config_at(&root));
        let containers = ContainerManager::new(config).await?;
        Ok(ProjectRegistry::new(&self.base, Some(containers)).await?)
    }
}

/// Prints the names of those that it was done to.
async fn each(
    args: Names,
    at: &Place<'_>,
    work: impl AsyncFn(&ProjectRegistry, &str) -> vesselrt::Result<()>,
) -> Outcome {
    let registry = at.registry().await?;
    let (mut done, mut failure) = (Vec::new(), None);
    for name in args.names {
        match work(&registry, &name).await {
            Ok(()) => done.push(name),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    at.context.finish_ids(&done, failure)
}

async fn archive(args: &ArchiveStale, at: &Place<'_>) -> Outcome {
    let age = Duration::from_secs(u64::from(args.days) * 24 * 60 * 60);
    let names = at.registry().await?.archive_older_than(age).await?;
    at.context.print_ids(&names)
}
