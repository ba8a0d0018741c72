//! `snapshot label`, and choosing snapshots by label.
#![forbid(unsafe_code)]

use clap::Args;
use vesselrt::SnapshotManifest;

use crate::cli::values::{self, printable};
use crate::cli::{Context, Failure, Outcome};

/// Arguments of `snapshot label`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Without labels, prints those that the snapshot has.

Examples:
  vesselrt snapshot label build \"$snap\" tests=passed step=3
  vesselrt snapshot label build \"$snap\" step-
  vesselrt snapshot ls build --label tests=passed")]
pub(crate) struct Label {
    /// Id of the vessel
    id: String,
    /// Id of the snapshot
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// Labels to set, and with a dash at the end the keys of those to remove
    #[arg(value_name = "KEY=VALUE|KEY-", value_parser = Change::parse)]
    changes: Vec<Change>,
}

/// What to do with a label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Set(String, String),
    Remove(String),
}

impl Change {
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_suffix('-') {
            Some(key) if !key.contains('=') && !key.is_empty() => Ok(Self::Remove(key.to_owned())),
            _ => values::label(text).map(|(key, value)| Self::Set(key, value)),
        }
    }
}

/// A label for a new snapshot.
///
/// # Errors
/// A text for the user.
pub(crate) fn given(text: &str) -> Result<(String, String), String> {
    match values::label(text)? {
        (key, _) if key.starts_with("vesselrt.") => {
            Err("labels that begin with vesselrt. are ours".to_owned())
        }
        label => Ok(label),
    }
}

/// A label to look for: `KEY` or `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted(String, Option<String>);

impl Wanted {
    /// Splits at the first `=`.
    ///
    /// # Errors
    /// A text for the user.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = values::label(text)?;
        Ok(Self(key, text.contains('=').then_some(value)))
    }

    /// Whether the snapshot has it.
    pub(crate) fn is_of(&self, snapshot: &SnapshotManifest) -> bool {
        let found = snapshot.labels.get(&self.0);
        found.is_some_and(|value| self.1.as_ref().is_none_or(|wanted| wanted == value))
    }
}

/// All labels of a snapshot, for a table.
pub(crate) fn shown(snapshot: &SnapshotManifest) -> String {
    let labels: Vec<String> =
        snapshot.labels.iter().map(|(key, value)| printable(format!("{key}={value}").as_bytes())).collect();
    labels.join(",")
}

pub(crate) async fn label(args: Label, context: &Context) -> Outcome {
    let changed = if args.changes.is_empty() {
        let manifest = context.manager().await?.vessel_manifest(&args.id).await?;
        let found = manifest.named(&args.snapshot).cloned();
        found.ok_or_else(|| Failure::not_found(format!("snapshot not found: {}", args.snapshot)))?
    } else {
        change(&args, context).await?
    };
    if context.json {
        return context.print_json(&changed);
    }
    let line =
        |(key, value): (&String, &String)| format!("{}\n", printable(format!("{key}={value}").as_bytes()));
    context.print(&changed.labels.iter().map(line).collect::<String>())
}

async fn change(args: &Label, context: &Context) -> Outcome<SnapshotManifest> {
    context
        .with_vessel(&args.id, async |vessel| {
            let listed = vessel.list_snapshots().await?;
            let found = listed.into_iter().find(|snapshot| snapshot.id == args.snapshot);
            let mut labels = found.map(|snapshot| snapshot.labels).unwrap_or_default();
            labels.retain(|key, _| !key.starts_with("vesselrt."));
            for change in &args.changes {
                match change {
                    Change::Set(key, value) => labels.insert(key.clone(), value.clone()),
                    Change::Remove(key) => labels.remove(key),
                };
            }
            Ok(vessel.set_snapshot_labels(&args.snapshot, labels).await?)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed() {
        let set = |key: &str, value: &str| Ok(Change::Set(key.into(), value.into()));
        assert_eq!(Change::parse("a=b"), set("a", "b"));
        assert_eq!(Change::parse("a=b-"), set("a", "b-"));
        assert_eq!(Change::parse("a"), set("a", ""));
        assert_eq!(Change::parse("a-"), Ok(Change::Remove("a".into())));
        assert_eq!(Change::parse("-"), set("-", ""));
        Change::parse("=b").unwrap_err();
    }

    #[test]
    fn a_key_alone_is_found_whatever_its_value() {
        let mut snapshot = crate::cli::snapshot::tests::snapshot("s", "");
        snapshot.labels.insert("a".into(), "b".into());
        for (text, found) in [("a", true), ("a=b", true), ("a=", false), ("a=c", false), ("b", false)] {
            assert_eq!(Wanted::parse(text).unwrap().is_of(&snapshot), found, "{text}");
        }
    }
}
