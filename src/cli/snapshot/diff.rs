//! `snapshot diff`: what differs between two states of a vessel.
#![forbid(unsafe_code)]

mod listing;
mod patch;
mod stat;
mod text;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use vesselrt::{Change, Contents, Diff as Changes, DiffOptions, DiffPoint, Vessel};

use crate::cli::{Context, Outcome};

/// The largest file whose lines are compared, in bytes.
const TEXT_LIMIT: u64 = 1 << 20;
/// What is held of files at once, in bytes and in number.
const AT_ONCE: (u64, usize) = (16 << 20, 1000);

/// Arguments of `snapshot diff`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A and B are ids of snapshots, or @image for the vessel's image (also: base), @now for the vessel as it is, @last for the snapshot \
that it is based on. Without B it is what changed since A, without both what changed since the last snapshot.

A path has A before it if it is new, D if it is gone, M if it is something else, R if it is a deleted file under a new \
name. Times of directories do not count. Lines of files over 1 MiB are not compared.

Exit codes: 0, and with --exit-code 1 if something differs; 125 an error.

Examples:
  vesselrt snapshot diff ID
  vesselrt snapshot diff ID @image -- /etc
  vesselrt snapshot diff ID SNAP1 SNAP2 --patch | git apply")]
#[command(group = clap::ArgGroup::new("output"))]
pub(in crate::cli) struct Diff {
    /// Id of the vessel
    id: String,
    /// The older side [default: the last snapshot]
    #[arg(value_name = "A")]
    from: Option<String>,
    /// The newer side [default: the vessel as it is now]
    #[arg(value_name = "B")]
    to: Option<String>,
    /// Only these paths and what is below; relative ones begin at the vessel's working directory
    #[arg(value_name = "PATH", last = true)]
    paths: Vec<PathBuf>,
    /// Show the lines that differ, for `git apply` and `patch -p1`
    #[arg(short, long, group = "output")]
    patch: bool,
    /// Count the lines that differ
    #[arg(long, group = "output")]
    stat: bool,
    /// Show nothing but paths
    #[arg(long, group = "output")]
    name_only: bool,
    /// With --name-only: paths as they are, each ended by a NUL
    #[arg(short = 'z', long, requires = "name_only", conflicts_with = "json")]
    null: bool,
    /// With --patch: lines around what differs
    #[arg(short = 'U', long, value_name = "N", default_value_t = 3)]
    unified: usize,
    /// Do not look for renamed files
    #[arg(long)]
    no_renames: bool,
    /// Exit with 1 if something differs
    #[arg(long)]
    exit_code: bool,
}

pub(in crate::cli) async fn run(args: Diff, context: &Context) -> Outcome<ExitCode> {
    let differs = context.with_vessel(&args.id, async |vessel| show(vessel, &args, context).await).await?;
    Ok(if args.exit_code && differs { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Whether something differs.
async fn show(vessel: &Vessel, args: &Diff, context: &Context) -> Outcome<bool> {
    let manifest = vessel.manifest();
    let known = |name: &str| manifest.snapshot(name).is_some();
    let mut options = DiffOptions::new().renames(!args.no_renames);
    options = args.from.iter().fold(options, |options, name| options.from(point(name, known)));
    options = args.to.iter().fold(options, |options, name| options.to(point(name, known)));
    options = args.paths.iter().fold(options, DiffOptions::path);
    let diff = vessel.diff(options).await?;
    if diff.renames_limited {
        context.warn("there was too much to look for all renamed files");
    }
    match (args.patch, args.stat) {
        (true, _) if !context.json => patch_as_text(vessel, &diff, args, context).await?,
        (_, true) if !context.json => stat_as_text(vessel, &diff, context).await?,
        (false, false) if args.name_only => names(&diff, args, context)?,
        (false, false) if !context.json => context.print(&listing::text(&diff.changes))?,
        _ => document(vessel, &diff, args, context).await?,
    }
    Ok(!diff.changes.is_empty())
}

/// What a name stands for. A snapshot may be called `base`.
fn point(name: &str, is_snapshot: impl Fn(&str) -> bool) -> DiffPoint {
    match name {
        name if is_snapshot(name) => DiffPoint::Snapshot(name.to_owned()),
        "@image" | "base" => DiffPoint::Base,
        "@last" => DiffPoint::Last,
        "@now" | "now" => DiffPoint::Now,
        other => DiffPoint::Snapshot(other.to_owned()),
    }
}

/// The name of a side, as [`point`] takes it.
fn name(side: Option<&String>) -> &str {
    match side {
        None => "@now",
        Some(id) if id.is_empty() => "@image",
        Some(id) => id,
    }
}

fn names(diff: &Changes, args: &Diff, context: &Context) -> Outcome {
    match (context.json, args.null) {
        (true, _) => context.print_json(&listing::lossy_names(&diff.changes)),
        (false, true) => context.print_bytes(&listing::raw_names(&diff.changes)),
        (false, false) => context.print(&listing::names(&diff.changes)),
    }
}

/// Changes in parts whose content may be held at once.
fn parts(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    let size = |change: &Change| {
        let sides = change.old.iter().chain(&change.new);
        sides.map(|file| file.size).filter(|size| *size <= TEXT_LIMIT).sum::<u64>()
    };
    let mut rest = changes;
    std::iter::from_fn(move || {
        let (mut bytes, mut count) = (0, 0);
        while count < rest.len().min(AT_ONCE.1) && (count == 0 || bytes + size(&rest[count]) <= AT_ONCE.0) {
            bytes += size(&rest[count]);
            count += 1;
        }
        let (part, others) = rest.split_at(count);
        rest = others;
        Some(part).filter(|part| !part.is_empty())
    })
}

/// Calls `each` with every change and what is in it.
async fn with_contents(
    vessel: &Vessel,
    diff: &Changes,
    mut each: impl FnMut(&Change, &Contents) -> Outcome,
) -> Outcome {
    for part in parts(&diff.changes) {
        let contents = vessel.read_changes(diff, part, TEXT_LIMIT).await?;
        part.iter().zip(&contents).try_for_each(|(change, contents)| each(change, contents))?;
    }
    Ok(())
}

async fn patch_as_text(vessel: &Vessel, diff: &Changes, args: &Diff, context: &Context) -> Outcome {
    let raw = !std::io::stdout().is_terminal();
    with_contents(vessel, diff, |change, contents| {
        let text = patch::of(change, contents, args.unified);
        match raw {
            true => context.print_bytes(&text),
            // Whatever is in the files, it must not command the terminal.
            false => context.print(&text::harmless(&text)),
        }
    })
    .await
}

async fn stat_as_text(vessel: &Vessel, diff: &Changes, context: &Context) -> Outcome {
    let mut rows = Vec::new();
    with_contents(vessel, diff, |change, contents| {
        rows.extend(stat::row(change, contents));
        Ok(())
    })
    .await?;
    context.print(&stat::text(&rows))
}

/// All of it as one JSON document.
async fn document(vessel: &Vessel, diff: &Changes, args: &Diff, context: &Context) -> Outcome {
    let mut changes: Vec<Value> = Vec::with_capacity(diff.changes.len());
    let mut totals = listing::totals(&diff.changes);
    if args.patch || args.stat {
        let mut rows = Vec::new();
        with_contents(vessel, diff, |change, contents| {
            let mut value = listing::json(change);
            if let Some(row) = stat::row(change, contents) {
                row.put(&mut value);
                rows.push(row);
            }
            if args.patch {
                let text = patch::of(change, contents, args.unified);
                value["patch"] = json!(String::from_utf8_lossy(&text));
            }
            changes.push(value);
            Ok(())
        })
        .await?;
        stat::put_totals(&rows, &mut totals);
    } else {
        changes.extend(diff.changes.iter().map(listing::json));
    }
    context.print_json(&json!({
        "vessel": vessel.id(),
        "from": name(diff.from.as_ref()),
        "to": name(diff.to.as_ref()),
        "changes": changes,
        "totals": totals,
        "renamesLimited": diff.renames_limited,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_have_names_and_a_snapshot_may_be_called_like_one() {
        let none = |_: &str| false;
        assert_eq!(point("@image", none), DiffPoint::Base);
        assert_eq!(point("base", none), DiffPoint::Base);
        assert_eq!(point("base", |name| name == "base"), DiffPoint::Snapshot("base".into()));
        assert_eq!(point("@now", none), DiffPoint::Now);
        assert_eq!(point("@last", none), DiffPoint::Last);
        assert_eq!(point("ab12", none), DiffPoint::Snapshot("ab12".into()));
        assert_eq!(
            (name(None), name(Some(&String::new())), name(Some(&"s".into()))),
            ("@now", "@image", "s")
        );
    }
}
