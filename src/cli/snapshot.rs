//! `snapshot create|ls|restore|rm`.
#![forbid(unsafe_code)]

use clap::{Args, Subcommand};
use time::OffsetDateTime;
use vesselrt::SnapshotManifest;

use super::tables::{Table, ago, size};
use super::values::printable;
use super::{Context, Outcome};

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Seal what changed since the last snapshot and print the new one's id
    Create(Create),
    /// List the snapshots of a vessel
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Go back to a snapshot; what changed since is thrown away
    Restore(Which),
    /// Remove a snapshot that no other is based on
    Rm(Which),
}

/// Arguments of `snapshot create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Id of the vessel
    id: String,
    /// What to say about it
    #[arg(short, long, value_name = "MSG", default_value = "")]
    message: String,
}

/// Arguments of `snapshot ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Id of the vessel
    id: String,
}

/// A snapshot of a vessel.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Id of the vessel
    id: String,
    /// Id of the snapshot
    #[arg(value_name = "SNAP")]
    snapshot: String,
}

pub(super) async fn run(verb: Verb, context: &Context) -> Outcome {
    match verb {
        Verb::Create(args) => create(&args, context).await,
        Verb::Ls(args) => ls(&args, context).await,
        Verb::Restore(args) => restore(args, context).await,
        Verb::Rm(args) => rm(args, context).await,
    }
}

async fn create(args: &Create, context: &Context) -> Outcome {
    let snapshot = context
        .with_vessel(&args.id, async |vessel| Ok(vessel.create_snapshot(&args.message).await?))
        .await?;
    match context.json {
        true => context.print_json(&snapshot),
        false => context.print_line(&snapshot.id),
    }
}

/// Reads the manifest only: nothing is mounted for a list.
async fn ls(args: &Ls, context: &Context) -> Outcome {
    let manifest = context.manager().await?.vessel_manifest(&args.id).await?;
    match context.json {
        true => context.print_json(&manifest.snapshots),
        false => {
            let now = OffsetDateTime::now_utc();
            context.print(&table(&manifest.snapshots, &manifest.current_snapshot_id, now).render())
        }
    }
}

/// The current one has a star.
fn table(snapshots: &[SnapshotManifest], current: &str, now: OffsetDateTime) -> Table {
    let mut table = Table::new(&["", "ID", "PARENT", "CREATED", "SIZE", "MESSAGE"]);
    for snapshot in snapshots {
        let mark = if snapshot.id == current { "*" } else { "" };
        let parent = if snapshot.parent_id.is_empty() { "-" } else { &snapshot.parent_id };
        table.row([
            mark.to_owned(),
            snapshot.id.clone(),
            parent.to_owned(),
            ago(snapshot.create_time, now),
            size(snapshot.size),
            printable(snapshot.message.as_bytes()),
        ]);
    }
    table
}

async fn restore(args: Which, context: &Context) -> Outcome {
    context.with_vessel(&args.id, async |vessel| Ok(vessel.restore_snapshot(&args.snapshot).await?)).await?;
    context.print_ids(&[args.snapshot])
}

async fn rm(args: Which, context: &Context) -> Outcome {
    context.with_vessel(&args.id, async |vessel| Ok(vessel.delete_snapshot(&args.snapshot).await?)).await?;
    context.print_ids(&[args.snapshot])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, parent: &str) -> SnapshotManifest {
        SnapshotManifest {
            id: id.into(),
            vessel_id: "v".into(),
            parent_id: parent.into(),
            message: "red\x1b[31m".into(),
            checksum: String::new(),
            size: 1_500,
            create_time: OffsetDateTime::UNIX_EPOCH,
            labels: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn the_current_snapshot_is_marked_and_messages_are_harmless() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(5);
        let text = table(&[snapshot("s1", ""), snapshot("s2", "s1")], "s2", now).render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "   s1  -       5 minutes ago  1.5 kB  red\\u{1b}[31m");
        assert!(lines[2].starts_with("*  s2  s1"), "{text}");
    }
}
