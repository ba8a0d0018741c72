//! Snapshots as the tree that they are. Pure.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use time::OffsetDateTime;
use vesselrt::SnapshotManifest;

use super::label;
use crate::cli::tables::{Table, ago, size};
use crate::cli::values::printable;

/// What is drawn before a snapshot, and before what is based on it.
struct Branch<'a> {
    snapshot: &'a SnapshotManifest,
    before: String,
    below: String,
}

/// The tree; the current one has a star. What a filter left out is left out here too: what was based on it stands where it
/// would.
pub(crate) fn tree(snapshots: &[SnapshotManifest], current: &str, now: OffsetDateTime) -> Table {
    let labels = snapshots.iter().any(|snapshot| !snapshot.labels.is_empty());
    let mut headings = vec!["SNAPSHOT", "CREATED", "SIZE", "MESSAGE"];
    headings.extend(labels.then_some("LABELS"));
    let mut table = Table::new(&headings);
    for Branch { snapshot, before, .. } in branches(snapshots) {
        let mark = if snapshot.id == current { " *" } else { "" };
        let mut row = vec![
            format!("{before}{}{mark}", snapshot.id),
            ago(snapshot.create_time, now),
            size(snapshot.size),
            printable(snapshot.message.as_bytes()),
        ];
        row.extend(labels.then(|| label::shown(snapshot)));
        table.row(row);
    }
    table
}

/// Depth first, siblings in order of creation. A line, as long as it does not branch, goes straight down.
fn branches(snapshots: &[SnapshotManifest]) -> Vec<Branch<'_>> {
    let ids: HashSet<&str> = snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect();
    let mut children: HashMap<&str, Vec<&SnapshotManifest>> = HashMap::new();
    for snapshot in snapshots {
        let parent = snapshot.parent_id.as_str();
        children.entry(if ids.contains(parent) { parent } else { "" }).or_default().push(snapshot);
    }
    let mut todo: Vec<Branch<'_>> = Vec::new();
    let mut done = Vec::with_capacity(snapshots.len());
    if let Some(roots) = children.get("") {
        let root = |&snapshot| Branch { snapshot, before: String::new(), below: String::new() };
        todo.extend(roots.iter().rev().map(root));
    }
    while let Some(branch) = todo.pop() {
        let list = children.get(branch.snapshot.id.as_str()).map_or(&[][..], Vec::as_slice);
        for (place, &snapshot) in list.iter().enumerate().rev() {
            let (before, below) = match (list.len(), place + 1 == list.len()) {
                (1, _) => ("", ""),
                (_, false) => ("├─ ", "│  "),
                (_, true) => ("└─ ", "   "),
            };
            let indent = &branch.below;
            todo.push(Branch {
                snapshot,
                before: format!("{indent}{before}"),
                below: format!("{indent}{below}"),
            });
        }
        done.push(branch);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::snapshot::tests::snapshot;

    #[test]
    fn branches_are_drawn_and_lines_go_straight_down() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(5);
        let list = [
            ("a", ""),
            ("b", "a"),
            ("c", "b"),
            ("d", "b"),
            ("e", "c"),
            ("f", "d"),
            ("x", ""),
            ("g", "a"),
            ("h", "d"),
        ];
        let snapshots: Vec<SnapshotManifest> = list.iter().map(|(id, parent)| snapshot(id, parent)).collect();
        let text = tree(&snapshots, "f", now).render();
        let names: Vec<&str> =
            text.lines().skip(1).map(|line| line.split("  5 min").next().unwrap().trim_end()).collect();
        let expected =
            ["a", "├─ b", "│  ├─ c", "│  │  e", "│  └─ d", "│     ├─ f *", "│     └─ h", "└─ g", "x"];
        assert_eq!(names, expected, "{text}");
        // Without b, what was based on it begins anew.
        let filtered: Vec<SnapshotManifest> = snapshots.into_iter().filter(|s| s.id != "b").collect();
        let text = tree(&filtered, "", now).render();
        assert_eq!(text.lines().filter(|line| line.starts_with(['a', 'c', 'd', 'x'])).count(), 4, "{text}");
        assert_eq!(text.lines().count(), 9);
    }
}
