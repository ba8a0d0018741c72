//! How many lines differ. Pure.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use serde_json::{Value, json};
use vesselrt::{Change, ChangeKind, Content, Contents, Differences, FileType};

use super::listing::shown;
use super::text::{Lines, is_text};

/// The longest row of `+` and `-`.
const WIDTH: usize = 40;

/// What differs in one file.
pub(super) struct Row {
    path: String,
    sizes: (u64, u64),
    /// New lines and lines that are gone; `None` where they are not counted.
    lines: Option<(usize, usize)>,
}

/// The row of a change; `None` for what has no content, and where only the time or attributes differ.
pub(super) fn row(change: &Change, contents: &Contents) -> Option<Row> {
    let has_content = |file_type| matches!(file_type, FileType::File | FileType::Symlink);
    let mut files = change.old.iter().chain(&change.new);
    let told = Differences { mtime: false, attributes: false, owner: false, ..change.differences };
    if !files.any(|file| has_content(file.file_type)) || change.kind == ChangeKind::Modified && !told.any() {
        return None;
    }
    let bytes = |content: &Content| match content {
        Content::None => Some(Vec::new()),
        Content::Bytes(bytes) if is_text(bytes) => Some(bytes.clone()),
        _ => None,
    };
    let sides = bytes(&contents.old).zip(bytes(&contents.new));
    let size = |file: &Option<vesselrt::ChangedFile>| file.as_ref().map_or(0, |file| file.size);
    let mut path = shown(&change.path);
    if let Some(old) = &change.old_path {
        path = format!("{} -> {path}", shown(old));
    }
    let lines = sides.map(|(old, new)| Lines::compare(&old, &new).count());
    Some(Row { path, sizes: (size(&change.old), size(&change.new)), lines })
}

impl Row {
    /// Adds the figures to a change in JSON.
    pub(super) fn put(&self, value: &mut Value) {
        value["insertions"] = json!(self.lines.map(|(new, _)| new));
        value["deletions"] = json!(self.lines.map(|(_, gone)| gone));
    }
}

fn sums(rows: &[Row]) -> (usize, usize) {
    let lines = rows.iter().filter_map(|row| row.lines);
    lines.fold((0, 0), |(new, gone), (more, less)| (new + more, gone + less))
}

/// Adds the sums to the totals in JSON.
pub(super) fn put_totals(rows: &[Row], totals: &mut Value) {
    let (new, gone) = sums(rows);
    totals["insertions"] = json!(new);
    totals["deletions"] = json!(gone);
}

/// A line for each file, and one with the sums.
pub(super) fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        return text;
    }
    let name = rows.iter().map(|row| row.path.chars().count()).max().unwrap_or(0);
    let most = rows.iter().filter_map(|row| row.lines).map(|(new, gone)| new + gone).max().unwrap_or(0);
    let number = most.to_string().len().max(3);
    for Row { path, sizes: (before, after), lines } in rows {
        let figures = match lines {
            Some((new, gone)) => format!("{:>number$} {}", new + gone, bar(*new, *gone, most)),
            None => format!("{:>number$} {before} -> {after} bytes", "Bin"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, " {path:<name$} | {}", figures.trim_end());
    }
    let (new, gone) = sums(rows);
    let files = if rows.len() == 1 { "file" } else { "files" };
    let _ = writeln!(text, " {} {files} changed, {new} insertions(+), {gone} deletions(-)", rows.len());
    text
}

/// As long as there are lines, or in proportion to the file with the most of them; what there is shows.
fn bar(new: usize, gone: usize, most: usize) -> String {
    let scale = |count: usize| match count {
        0 => 0,
        count if most <= WIDTH => count,
        count => (count * WIDTH / most).max(1),
    };
    "+".repeat(scale(new)) + &"-".repeat(scale(gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_file_and_the_sums() {
        let row = |path: &str, sizes, lines| Row { path: path.into(), sizes, lines };
        let rows = [
            row("/a", (1, 2), Some((2, 1))),
            row("/long/name", (0, 9), None),
            row("/b", (3, 3), Some((0, 0))),
        ];
        let expected = " /a         |   3 ++-\n /long/name | Bin 0 -> 9 bytes\n /b         |   0\n \
                        3 files changed, 2 insertions(+), 1 deletions(-)\n";
        assert_eq!(text(&rows), expected);
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn bars_are_scaled_and_show_what_there_is() {
        assert_eq!(bar(1, 0, 40_000), "+");
        assert_eq!(bar(30_000, 10_000, 40_000), "+".repeat(30) + &"-".repeat(10));
        assert_eq!(bar(0, 0, 0), "");
    }
}
