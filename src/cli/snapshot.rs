//! The verbs of snapshots.
#![forbid(unsafe_code)]

mod label;
mod prune;
mod rm;
mod tree;

mod cat;

pub(super) mod diff;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use vesselrt::{PullProgress, PushProgress, SnapshotManifest, SnapshotOptions};

use super::registry::Transfers;
use super::tables::{Table, ago, size};
use super::values::printable;
use super::{Context, Outcome};

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Seal what changed since the last snapshot and print the new one's id
    Create(Create),
    /// Wait until snapshots made with `--fast` are stored
    Wait(Wait),
    /// List the snapshots of a vessel
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show what differs between snapshots, or since the last one
    Diff(diff::Diff),
    /// Go back to a snapshot; what changed since is thrown away
    Restore(Which),
    /// Remove a snapshot, with those that are based on it or without
    Rm(rm::Rm),
    /// Remove old snapshots and print their ids
    Prune(prune::Prune),
    /// Set, remove or print the labels of a snapshot
    Label(label::Label),
    /// Print a file of a snapshot, which is not restored
    Cat(cat::Cat),
    /// Push a vessel's whole history to a registry
    Push(Push),
    /// Make a vessel of a history that was pushed, and print its id
    Pull(Pull),
}

/// Arguments of `snapshot create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Id of the vessel
    id: String,
    /// What to say about it
    #[arg(short, long, value_name = "MSG", default_value = "")]
    message: String,
    /// How much to compress the archive: 1 is fastest, 19 smallest [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=19))]
    level: Option<i32>,
    /// Label of the snapshot; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label::given)]
    labels: Vec<(String, String)>,
    /// Return when the layer is sealed and on disk; the archive is packed in the background
    #[arg(long)]
    fast: bool,
}

/// Arguments of `snapshot wait`.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Id of the vessel
    id: String,
    /// Id of the snapshot [default: all]
    #[arg(value_name = "SNAP")]
    snapshot: Option<String>,
}

/// Arguments of `snapshot ls`.
#[derive(Debug, Args)]
#[command(after_long_help = "With --quiet only the ids are printed.")]
pub(super) struct Ls {
    /// Id of the vessel
    id: String,
    /// Show which is based on which
    #[arg(long)]
    tree: bool,
    /// Only those with this label; may be repeated
    #[arg(long = "label", value_name = "KEY[=VALUE]", value_parser = label::Wanted::parse)]
    labels: Vec<label::Wanted>,
}

/// Arguments of `snapshot push`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
All snapshots go, each as an OCI artifact of its own, with an index over them; what is in no snapshot does not. Only what the \
registry lacks is sent.

Example:
  vesselrt snapshot push build registry.example.org/team/build:history")]
pub(super) struct Push {
    /// Id of the vessel
    id: String,
    /// Where to push it, with a tag
    #[arg(value_name = "REF")]
    reference: String,
    /// Push the vessel's image too
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    with_base: bool,
}

/// Arguments of `snapshot pull`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Every archive is verified before the vessel exists. Snapshots whose ids are taken here get new ones.

Example:
  vesselrt snapshot pull registry.example.org/team/build:history --id build-2")]
pub(super) struct Pull {
    /// What `snapshot push` pushed
    #[arg(value_name = "REF")]
    reference: String,
    /// Id of the vessel [default: its own]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
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
        Verb::Wait(args) => wait(&args, context).await,
        Verb::Ls(args) => ls(&args, context).await,
        Verb::Diff(args) => diff::run(args, context).await.map(drop),
        Verb::Restore(args) => restore(args, context).await,
        Verb::Rm(args) => rm::rm(args, context).await,
        Verb::Prune(args) => prune::prune(args, context).await,
        Verb::Label(args) => label::label(args, context).await,
        Verb::Cat(args) => cat::run(&args, context).await,
        Verb::Push(args) => push(&args, context).await,
        Verb::Pull(args) => pull(&args, context).await,
    }
}

async fn create(args: &Create, context: &Context) -> Outcome {
    let mut options = SnapshotOptions::new(&args.message).labels(args.labels.iter().cloned().collect());
    if args.fast {
        options = options.sealed();
    }
    options.level = args.level;
    let snapshot =
        context.with_vessel(&args.id, async |vessel| Ok(vessel.create_snapshot_with(options).await?)).await?;
    if let Some(pause) = snapshot.pause_ms {
        context.note(&format!("commands stood still for {pause} ms"));
    }
    match context.json {
        true => context.print_json(&described(&snapshot)),
        false => context.print_line(&snapshot.id),
    }
}

/// The manifest of a snapshot, and whether its archive is stored.
#[derive(Debug, Serialize)]
struct Described<'a> {
    #[serde(flatten)]
    snapshot: &'a SnapshotManifest,
    status: &'static str,
}

fn described(snapshot: &SnapshotManifest) -> Described<'_> {
    Described { snapshot, status: status(snapshot) }
}

fn status(snapshot: &SnapshotManifest) -> &'static str {
    if snapshot.is_stored() { "stored" } else { "packing" }
}

async fn wait(args: &Wait, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let stored = manager.wait_snapshot(&args.id, args.snapshot.as_deref()).await?;
    context.print_ids(&stored.into_iter().map(|snapshot| snapshot.id).collect::<Vec<_>>())
}

/// Reads the manifest only: nothing is mounted for a list.
async fn ls(args: &Ls, context: &Context) -> Outcome {
    let manifest = context.manager().await?.vessel_manifest(&args.id).await?;
    let mut snapshots = manifest.named_snapshots();
    snapshots.retain(|snapshot| args.labels.iter().all(|label| label.is_of(snapshot)));
    if context.json {
        return context.print_json(&snapshots.iter().map(described).collect::<Vec<_>>());
    }
    if context.quiet {
        return context.print_ids(&snapshots.into_iter().map(|snapshot| snapshot.id).collect::<Vec<_>>());
    }
    let (now, current) = (OffsetDateTime::now_utc(), &manifest.current_snapshot_id);
    match args.tree {
        true => context.print(&tree::tree(&snapshots, current, now).render()),
        false => context.print(&table(&snapshots, current, now).render()),
    }
}

/// The current one has a star.
fn table(snapshots: &[SnapshotManifest], current: &str, now: OffsetDateTime) -> Table {
    let labels = snapshots.iter().any(|snapshot| !snapshot.labels.is_empty());
    let mut headings = vec!["", "ID", "PARENT", "CREATED", "SIZE", "STATUS", "MESSAGE"];
    headings.extend(labels.then_some("LABELS"));
    let mut table = Table::new(&headings);
    for snapshot in snapshots {
        let mark = if snapshot.id == current { "*" } else { "" };
        let parent = if snapshot.parent_id.is_empty() { "-" } else { &snapshot.parent_id };
        let mut row = vec![
            mark.to_owned(),
            snapshot.id.clone(),
            parent.to_owned(),
            ago(snapshot.create_time, now),
            if snapshot.is_stored() { size(snapshot.size) } else { "-".to_owned() },
            status(snapshot).to_owned(),
            printable(snapshot.message.as_bytes()),
        ];
        row.extend(labels.then(|| label::shown(snapshot)));
        table.row(row);
    }
    table
}

async fn restore(args: Which, context: &Context) -> Outcome {
    context.with_vessel(&args.id, async |vessel| Ok(vessel.restore_snapshot(&args.snapshot).await?)).await?;
    context.print_ids(&[args.snapshot])
}

async fn push(args: &Push, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let transfers = Transfers::new(context);
    let shown = transfers.clone();
    let tell = move |at: PushProgress| shown.push(&at);
    let report = manager.push_snapshots(&args.id, &args.reference, args.with_base, tell).await?;
    transfers.end();
    super::registry::pushed(&report, context)
}

async fn pull(args: &Pull, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let transfers = Transfers::new(context);
    let shown = transfers.clone();
    let tell = move |at: PullProgress| shown.pull(&at);
    let manifest = manager.pull_snapshots(&args.reference, args.id.as_deref(), tell).await?;
    transfers.end();
    match context.json {
        true => context.print_line(&json!({ "event": "done", "vessel": manifest }).to_string()),
        false => context.print_line(&manifest.id),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn snapshot(id: &str, parent: &str) -> SnapshotManifest {
        SnapshotManifest {
            id: id.into(),
            vessel_id: "v".into(),
            parent_id: parent.into(),
            message: "red\x1b[31m".into(),
            checksum: "sha256:00".into(),
            size: 1_500,
            create_time: OffsetDateTime::UNIX_EPOCH,
            labels: std::collections::BTreeMap::new(),
            mode: None,
            pause_ms: None,
        }
    }

    #[test]
    fn the_current_snapshot_is_marked_and_messages_are_harmless() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(5);
        let text = table(&[snapshot("s1", ""), snapshot("s2", "s1")], "s2", now).render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "   s1  -       5 minutes ago  1.5 kB  stored  red\\u{1b}[31m");
        assert!(lines[2].starts_with("*  s2  s1"), "{text}");
        let packing = SnapshotManifest { checksum: String::new(), ..snapshot("s3", "s2") };
        assert!(
            table(&[packing], "", now).render().contains("-     packing"),
            "what has no archive has no size"
        );
    }
}
