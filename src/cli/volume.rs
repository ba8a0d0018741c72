//! `volume`: directories of the store that are mounted in vessels and outlive them.
#![forbid(unsafe_code)]

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vesselrt::Volume;

use super::batch::Batch;
use super::tables::{Table, ago, size};
use super::{Context, Failure, Outcome};

/// Verbs about volumes.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make an empty volume and print its name
    Create(Create),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show a volume
    Inspect(Inspect),
    /// Remove volumes with everything in them
    Rm(Rm),
}

/// Arguments of `volume create`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A volume that a vessel mounts is made by itself when it is missing. It begins empty, whatever the image has where it is mounted.

Examples:
  vesselrt volume create cache
  vesselrt create debian:12 --volume cache:/root/.cache")]
pub(super) struct Create {
    /// Name: letters, digits, `_`, `.`, `-`; 64 at most [default: 16 random hexadecimal digits]
    name: Option<String>,
}

/// Arguments of `volume ls`.
#[derive(Debug, Args)]
#[command(after_long_help = "With --quiet only the names are printed.")]
pub(super) struct Ls {}

/// Arguments of `volume inspect`.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Name of the volume
    name: String,
}

/// Arguments of `volume rm`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "A volume that is in the settings of a vessel stays, whether that one runs or not."
)]
pub(super) struct Rm {
    /// Names of volumes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

pub(super) async fn run(verb: Verb, context: &Context) -> Outcome {
    match verb {
        Verb::Create(args) => create(&args, context).await,
        Verb::Ls(args) => ls(&args, context).await,
        Verb::Inspect(args) => inspect(&args, context).await,
        Verb::Rm(args) => rm(args, context).await,
    }
}

async fn create(args: &Create, context: &Context) -> Outcome {
    let volume = context.manager().await?.create_volume(args.name.as_deref()).await?;
    match context.json {
        true => context.print_json(&to_json(&volume)?),
        false => context.print_line(&volume.name),
    }
}

async fn ls(_: &Ls, context: &Context) -> Outcome {
    let volumes = context.manager().await?.list_volumes().await?;
    if context.json {
        let values = volumes.iter().map(to_json).collect::<Outcome<Vec<_>>>()?;
        return context.print_json(&values);
    }
    if context.quiet {
        let names: Vec<String> = volumes.into_iter().map(|volume| volume.name).collect();
        return context.print_ids(&names);
    }
    let now = OffsetDateTime::now_utc();
    let mut table = Table::new(&["NAME", "VESSELS", "CREATED"]);
    for volume in volumes {
        let created = ago(volume.create_time, now);
        table.row([volume.name, volume.vessels.len().to_string(), created]);
    }
    context.print(&table.render())
}

async fn inspect(args: &Inspect, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let volume = manager.volume(&args.name).await?;
    let bytes = manager.volume_usage(&args.name).await?;
    if context.json {
        let mut value = to_json(&volume)?;
        value["size"] = bytes.into();
        return context.print_json(&value);
    }
    let mut table = Table::bare();
    table.row(["name", &volume.name]);
    table.row(["created", &ago(volume.create_time, OffsetDateTime::now_utc())]);
    table.row(["size", &size(bytes)]);
    volume.vessels.iter().for_each(|id| table.row(["vessel", id]));
    context.print(&table.render())
}

async fn rm(args: Rm, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let mut removed = Batch::default();
    for name in args.names {
        let outcome = manager.remove_volume(&name).await;
        removed.note(name, outcome);
    }
    // The space is free when this ends, and not some time later.
    manager.close().await?;
    removed.finish(context)
}

fn to_json(volume: &Volume) -> Outcome<Value> {
    let created = volume.create_time.format(&Rfc3339);
    let created = created.map_err(|e| Failure::internal(format!("failed to write a time as JSON: {e}")))?;
    Ok(json!({ "name": volume.name, "createTime": created, "vessels": volume.vessels }))
}
