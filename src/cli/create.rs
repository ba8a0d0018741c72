//! `create`, `ls`, `inspect`, `rm`.
#![forbid(unsafe_code)]

pub(super) mod limits;
pub(super) mod mounts;
pub(super) mod network;

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;
use vesselrt::{CreateOptions, ErrorKind, Manager, OverlayDriver, Vessel, VesselManifest, VesselStatus};

use super::batch::Batch;
use super::registry::{Transfers, When};
use super::tables::{Table, ago, short};
use super::values::{self, printable};
use super::{Context, Failure, Outcome, update};

/// Flags of what creates a vessel.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Flags {
    /// Id of the vessel: lower-case letters, digits, `_`, `.`, `-`; 64 at most [default: 16 random hexadecimal digits]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Where relative paths and commands begin, created if missing [default: the image's own]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Label of the vessel
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
    /// When to pull the image from its registry
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pull: When,
    #[command(flatten)]
    limits: limits::VesselLimits,
    #[command(flatten)]
    network: network::NetworkFlags,
    #[command(flatten)]
    mounts: mounts::MountFlags,
}

impl Flags {
    /// The options for a vessel of `image`.
    pub(super) fn options(self, image: &str) -> CreateOptions {
        let mut options =
            CreateOptions::new(image).work_dir(self.workdir.unwrap_or_default()).pull(self.pull.into());
        options = options.limits(self.limits.limits());
        if let Some(id) = self.id {
            options = options.id(id);
        }
        options.settings.network = self.network.into();
        options.settings.mounts = self.mounts.into();
        self.labels.into_iter().fold(options, |options, (key, value)| options.label(key, value))
    }
}

/// Arguments of `create`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vesselrt create debian:12
  vesselrt create debian:12 --id build --workdir /src --label team=infra
  vesselrt create debian:12 --cpus 1.5 --memory 512m --pids 256 --disk 2g --timeout 10m
  vesselrt create debian:12 --allow deb.debian.org --allow '*.npmjs.org:443'
  vesselrt create debian:12 --network isolated --publish 8080:80
  vesselrt create debian:12 -v ./src:/src -v cache:/root/.cache --mount type=tmpfs,dst=/tmp,size=64m

A limit that this host cannot enforce is refused, unless --best-effort is given: see `vesselrt doctor`.")]
pub(super) struct Create {
    #[command(flatten)]
    flags: Flags,
    /// How long a command may take that has no --timeout of its own, such as 500ms, 30s, 5m
    #[arg(help_heading = "Limits", long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Reference of an image
    image: String,
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
#[command(after_long_help = "With --quiet only the ids are printed.")]
pub(super) struct Ls {}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Id of the vessel
    id: String,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A vessel that runs is stopped first, commands and all, with --force or without.

Examples:
  vesselrt rm build
  vesselrt ls -q | xargs vesselrt rm --force")]
pub(super) struct Rm {
    /// A vessel that is not there is no error
    #[arg(short, long)]
    force: bool,
    /// Ids of vessels
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// The id is the last thing on standard output.
pub(super) async fn create(args: Create, context: &Context) -> Outcome {
    let mut options = args.flags.options(&args.image);
    if let Some(timeout) = args.timeout {
        options.settings.limits = options.settings.limits.timeout(timeout);
    }
    let vessel = pulling(&context.manager().await?, options, context).await?;
    let manifest = vessel.manifest();
    vessel.close().await?;
    match context.json {
        true => context.print_json(&manifest),
        false => context.print_line(&manifest.id),
    }
}

/// Creates a vessel, and shows how far the pull is if there is one.
pub(super) async fn pulling(manager: &Manager, options: CreateOptions, context: &Context) -> Outcome<Vessel> {
    let transfers = Transfers::bars(context);
    let shown = transfers.clone();
    let vessel = manager.create_vessel_telling(options, move |at| shown.pull(&at)).await;
    transfers.end();
    Ok(vessel?)
}

pub(super) async fn ls(_: &Ls, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let manifests = manager.list_vessels().await?;
    if context.quiet && !context.json {
        let ids: Vec<String> = manifests.into_iter().map(|manifest| manifest.id).collect();
        return context.print_ids(&ids);
    }
    let mut vessels = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        let status = status(&manager, &manifest.id).await?;
        vessels.push((manifest, status));
    }
    if context.json {
        let values: Vec<Value> = vessels
            .iter()
            .map(|(manifest, status)| to_json(manifest, status.as_ref()))
            .collect::<Outcome<_>>()?;
        return context.print_json(&values);
    }
    let now = OffsetDateTime::now_utc();
    let mut table = Table::new(&["ID", "IMAGE", "STATUS", "SNAPSHOTS", "CREATED"]);
    for (manifest, status) in &vessels {
        table.row([
            manifest.id.clone(),
            printable(manifest.base_image_ref.as_bytes()),
            state(status.as_ref()),
            manifest.named_snapshots().len().to_string(),
            ago(manifest.create_time, now),
        ]);
    }
    context.print(&table.render())
}

/// One that was deleted meanwhile has none.
async fn status(manager: &Manager, id: &str) -> Outcome<Option<VesselStatus>> {
    match manager.vessel_status(id).await {
        Ok(status) => Ok(Some(status)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) async fn inspect(args: &Inspect, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let manifest = manager.vessel_manifest(&args.id).await?;
    let status = status(&manager, &args.id).await?;
    let limits = manager.vessel_limits(&args.id).await?;
    let settings = manager.vessel_settings(&args.id).await?;
    if context.json {
        let mut value = to_json(&manifest, status.as_ref())?;
        let shown = update::to_json(&limits);
        (value["limits"], value["enforcement"]) = (shown["limits"].clone(), shown["enforcement"].clone());
        value["network"] = network::to_json(&settings.network);
        value["mounts"] = mounts::to_json(&settings.mounts);
        return context.print_json(&value);
    }
    let now = OffsetDateTime::now_utc();
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text.as_bytes()) };
    let mut table = Table::bare();
    table.row(["id", &manifest.id]);
    table.row(["image", &or_none(&manifest.base_image_ref)]);
    table.row(["digest", &or_none(short(&manifest.base_image_digest))]);
    table.row(["workdir", &or_none(&manifest.work_dir)]);
    table.row(["status", &state(status.as_ref())]);
    table.row(["snapshot", &or_none(&manifest.current_snapshot_id)]);
    table.row(["snapshots", &manifest.named_snapshots().len().to_string()]);
    table.row(["created", &ago(manifest.create_time, now)]);
    table.row(["updated", &ago(manifest.update_time, now)]);
    update::rows(&limits, &mut table);
    network::rows(&settings.network).into_iter().for_each(|row| table.row(row));
    mounts::rows(&settings.mounts).into_iter().for_each(|row| table.row(row));
    for (key, value) in &manifest.labels {
        table.row(["label", &printable(format!("{key}={value}").as_bytes())]);
    }
    context.print(&table.render())
}

pub(super) async fn rm(args: Rm, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let mut removed = Batch::default();
    for id in args.ids {
        match manager.delete_vessel(&id).await {
            Err(e) if args.force && e.kind() == ErrorKind::NotFound => {}
            deleted => removed.note(id, deleted),
        }
    }
    // The space is free when this ends, and not some time later.
    manager.close().await?;
    removed.finish(context)
}

/// The manifest with its stored field names, and what is only known now beside them.
fn to_json(manifest: &VesselManifest, status: Option<&VesselStatus>) -> Outcome<Value> {
    let mut value = serde_json::to_value(manifest)
        .map_err(|e| Failure::internal(format!("failed to write a manifest as JSON: {e}")))?;
    // What has lost its name is none of the user's.
    value["snapshots"] = serde_json::to_value(manifest.named_snapshots())
        .map_err(|e| Failure::internal(format!("failed to write a manifest as JSON: {e}")))?;
    value["status"] = status.map_or(Value::Null, |status| {
        json!({
            "running": status.running,
            "commands": status.commands,
            "kept": status.kept,
            "connections": status.connections,
            "driver": status.driver.map(driver_name),
        })
    });
    Ok(value)
}

fn driver_name(driver: OverlayDriver) -> &'static str {
    match driver {
        OverlayDriver::Auto => "auto",
        OverlayDriver::Kernel => "kernel",
        OverlayDriver::Fuse => "fuse",
    }
}

fn state(status: Option<&VesselStatus>) -> String {
    match status {
        None => "gone".to_owned(),
        Some(status) if !status.running => "stopped".to_owned(),
        Some(status) => match (status.commands, status.kept) {
            (0, true) => "started".to_owned(),
            (0, false) if status.connections == 0 => "idle".to_owned(),
            (0, false) => "open".to_owned(),
            (1, _) => "1 command".to_owned(),
            (n, _) => format!("{n} commands"),
        },
    }
}
