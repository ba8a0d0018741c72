//! `snapshot rm`.
#![forbid(unsafe_code)]

use clap::Args;
use serde_json::json;
use vesselrt::{SnapshotDeletion, SnapshotsDeleted};

use crate::cli::{Context, Outcome};

/// Arguments of `snapshot rm`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
One that others are based on goes with them, or gives up its name: its data is kept for as long as one of them needs it, and it can be \
neither listed nor restored any more.

Removing the current snapshot goes back to the one below; what was written since is lost. With --recursive that has to be allowed \
by --force.

Examples:
  vesselrt snapshot rm build \"$snap\"
  vesselrt snapshot rm build \"$snap\" --recursive
  vesselrt snapshot rm build \"$snap\" --squash")]
pub(crate) struct Rm {
    /// Id of the vessel
    id: String,
    /// Id of the snapshot
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// Remove those that are based on it too
    #[arg(short, long, conflicts_with = "squash")]
    recursive: bool,
    /// Remove its name only if others are based on it, and keep its data for them
    #[arg(long)]
    squash: bool,
    /// Go back to the snapshot below when the vessel lies on one of those
    #[arg(short, long, requires = "recursive")]
    force: bool,
}

pub(crate) async fn rm(args: Rm, context: &Context) -> Outcome {
    let how = SnapshotDeletion::new().recursive(args.recursive).squash(args.squash).force(args.force);
    let done = context
        .with_vessel(&args.id, async |vessel| Ok(vessel.delete_snapshot_with(&args.snapshot, how).await?))
        .await?;
    // A name that is gone is gone, whatever became of the data.
    let mut ids = done.deleted;
    ids.extend(done.squashed);
    context.print_ids(&ids)
}

/// What became of snapshots, for those who have to tell one from the other.
pub(crate) fn told(done: &SnapshotsDeleted, context: &Context) -> Outcome {
    if context.json {
        return context.print_json(&json!({ "deleted": done.deleted, "squashed": done.squashed }));
    }
    if !done.squashed.is_empty() {
        context.note(&format!("{} of them are kept for others, without a name", done.squashed.len()));
    }
    let mut ids = done.deleted.clone();
    ids.extend_from_slice(&done.squashed);
    context.print_ids(&ids)
}
