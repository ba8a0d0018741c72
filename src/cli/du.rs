//! `du` and `gc`.
#![forbid(unsafe_code)]

use clap::Args;
use serde_json::{Value, json};
use vesselrt::{DiskUsage, SnapshotUsage, UsageTotal, VesselUsage};

use super::tables::{Table, size};
use super::{Context, Outcome};

/// Arguments of `du`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Blocks on disk are counted, not lengths, and what is kept once counts once: the totals are less than the sums of what vessels share.

  OWN      layers that only this vessel has: what was written, and its snapshots
  SHARED   layers of snapshots that forks have too
  ARCHIVE  archives of its snapshots, compressed
  IMAGE    unpacked layers of its image

Examples:
  vesselrt du
  vesselrt du build --json")]
pub(super) struct Du {
    /// Id of a vessel, to show its snapshots [default: all vessels]
    id: Option<String>,
}

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
It can be run at any time, whatever else is going on; most of what it does is done in the background anyway. Images that are not used are \
removed by `vesselrt image prune`.")]
pub(super) struct Gc {}

pub(super) async fn du(args: &Du, context: &Context) -> Outcome {
    let usage = context.manager().await?.disk_usage(args.id.as_deref()).await?;
    if context.json {
        return context.print_json(&to_json(&usage));
    }
    match (&args.id, usage.vessels.as_slice()) {
        (Some(_), [vessel]) => context.print(&of_vessel(vessel).render()),
        _ => context.print(&(of_all(&usage).render() + &of_total(&usage.total))),
    }
}

pub(super) async fn gc(_: &Gc, context: &Context) -> Outcome {
    context.manager().await?.collect_garbage().await?;
    match context.json {
        true => context.print_json(&json!({})),
        false => Ok(()),
    }
}

fn of_all(usage: &DiskUsage) -> Table {
    let mut table = Table::new(&["ID", "OWN", "SHARED", "ARCHIVE", "IMAGE", "SNAPSHOTS"]);
    for vessel in &usage.vessels {
        let snapshots = vessel.snapshots.iter().filter(|snapshot| snapshot.named).count();
        let sizes = [vessel.own, vessel.shared, vessel.archive, vessel.image].map(size);
        table.row([vec![vessel.id.clone()], sizes.into(), vec![snapshots.to_string()]].concat());
    }
    table
}

/// All together, what is shared once.
fn of_total(total: &UsageTotal) -> String {
    let [writable, layers, archives, images] =
        [total.writable, total.layers, total.archives, total.images].map(size);
    let text = format!(
        "together: {writable} writable, {layers} in snapshots, {archives} in archives, {images} of images\n"
    );
    let text = match total.volumes {
        0 => text,
        bytes => format!("{text}volumes: {}\n", size(bytes)),
    };
    match total.unreferenced {
        0 => text,
        bytes => format!("{text}nobody's: {}, which `vesselrt gc` removes\n", size(bytes)),
    }
}

fn of_vessel(vessel: &VesselUsage) -> Table {
    let mut table = Table::new(&["SNAPSHOT", "LAYER", "ARCHIVE", ""]);
    for snapshot in &vessel.snapshots {
        let note = match (snapshot.named, snapshot.shared) {
            (true, true) => "shared",
            (true, false) => "",
            (false, true) => "shared, squashed",
            (false, false) => "squashed",
        };
        let archive = snapshot.archive.map_or_else(|| "-".to_owned(), size);
        table.row([snapshot.id.clone(), size(snapshot.layer), archive, note.to_owned()]);
    }
    table.row(["(now)".to_owned(), size(vessel.writable), "-".to_owned()]);
    table.row(["(image)".to_owned(), size(vessel.image), "-".to_owned(), "shared".to_owned()]);
    let all = vessel.own.saturating_add(vessel.shared).saturating_add(vessel.image);
    table.row(["(all)".to_owned(), size(all), size(vessel.archive)]);
    table
}

fn to_json(usage: &DiskUsage) -> Value {
    let total = &usage.total;
    json!({
        "vessels": usage.vessels.iter().map(vessel_json).collect::<Vec<_>>(),
        "total": {
            "writable": total.writable,
            "layers": total.layers,
            "archives": total.archives,
            "images": total.images,
            "volumes": total.volumes,
            "unreferenced": total.unreferenced,
        },
    })
}

fn vessel_json(vessel: &VesselUsage) -> Value {
    let snapshot = |snapshot: &SnapshotUsage| {
        json!({
            "id": snapshot.id,
            "layer": snapshot.layer,
            "archive": snapshot.archive,
            "shared": snapshot.shared,
            "named": snapshot.named,
        })
    };
    json!({
        "id": vessel.id,
        "writable": vessel.writable,
        "own": vessel.own,
        "shared": vessel.shared,
        "archive": vessel.archive,
        "image": vessel.image,
        "snapshots": vessel.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
    })
}
