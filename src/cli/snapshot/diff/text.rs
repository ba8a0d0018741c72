//! The lines in which two texts differ. Pure.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, DiffTag};

use crate::cli::values::printable;

/// How much of the beginning tells a text from something else, as git has it.
const LOOKED_AT: usize = 8000;
/// After that long the rest of a file is told as replaced.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether it is a text: without a NUL byte near its beginning.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    !bytes[..bytes.len().min(LOOKED_AT)].contains(&0)
}

/// Two texts, line by line.
pub(super) struct Lines<'a> {
    old: Vec<&'a [u8]>,
    new: Vec<&'a [u8]>,
    ops: Vec<DiffOp>,
}

impl<'a> Lines<'a> {
    pub(super) fn compare(old: &'a [u8], new: &'a [u8]) -> Self {
        let lines = |text: &'a [u8]| text.split_inclusive(|&b| b == b'\n').collect::<Vec<_>>();
        let (old, new) = (lines(old), lines(new));
        // Equal lines get equal numbers, which are faster to compare.
        let mut known: HashMap<&[u8], usize> = HashMap::new();
        let mut number = |line: &&'a [u8]| {
            let next = known.len();
            *known.entry(line).or_insert(next)
        };
        let a: Vec<usize> = old.iter().map(&mut number).collect();
        let b: Vec<usize> = new.iter().map(&mut number).collect();
        let deadline = Instant::now() + PATIENCE;
        let ops = similar::capture_diff_slices_deadline(Algorithm::Myers, &a, &b, Some(deadline));
        Self { old, new, ops }
    }

    /// How many lines are new, and how many are gone.
    pub(super) fn count(&self) -> (usize, usize) {
        self.ops
            .iter()
            .filter(|op| op.tag() != DiffTag::Equal)
            .fold((0, 0), |(new, gone), op| (new + op.new_range().len(), gone + op.old_range().len()))
    }

    /// The hunks of a unified diff with `context` lines around each.
    pub(super) fn hunks(self, context: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for ops in similar::group_diff_ops(self.ops, context) {
            let (Some(first), Some(last)) = (ops.first(), ops.last()) else { continue };
            let old = range(first.old_range().start, last.old_range().end);
            let new = range(first.new_range().start, last.new_range().end);
            out.extend_from_slice(format!("@@ -{old} +{new} @@\n").as_bytes());
            for op in &ops {
                if op.tag() == DiffTag::Equal {
                    self.old[op.old_range()].iter().for_each(|line| push(&mut out, b' ', line));
                    continue;
                }
                self.old[op.old_range()].iter().for_each(|line| push(&mut out, b'-', line));
                self.new[op.new_range()].iter().for_each(|line| push(&mut out, b'+', line));
            }
        }
        out
    }
}

/// As diff(1) has it: the first line from 1 on, and how many if not one; of none, the line before.
fn range(start: usize, end: usize) -> String {
    match end - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        len => format!("{},{len}", start + 1),
    }
}

fn push(out: &mut Vec<u8>, mark: u8, line: &[u8]) {
    out.push(mark);
    out.extend_from_slice(line);
    if !line.ends_with(b"\n") {
        out.extend_from_slice(b"\n\\ No newline at end of file\n");
    }
}

/// A text for a terminal: all but line ends and tabs that could command it is escaped.
pub(super) fn harmless(text: &[u8]) -> String {
    let line = |line: &[u8]| {
        let cells: Vec<String> = line.split(|&b| b == b'\t').map(printable).collect();
        cells.join("\t")
    };
    let lines: Vec<String> = text.split(|&b| b == b'\n').map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unified(old: &str, new: &str, context: usize) -> String {
        String::from_utf8(Lines::compare(old.as_bytes(), new.as_bytes()).hunks(context)).unwrap()
    }

    #[test]
    fn hunks_are_those_of_diff() {
        assert_eq!(unified("a\nb\nc\n", "a\nx\nc\n", 1), "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n");
        assert_eq!(unified("", "a\n", 3), "@@ -0,0 +1 @@\n+a\n");
        assert_eq!(unified("a\nb\n", "", 3), "@@ -1,2 +0,0 @@\n-a\n-b\n");
        assert_eq!(unified("a\nb\n", "a\n", 0), "@@ -2 +1,0 @@\n-b\n");
        assert_eq!(unified("same\n", "same\n", 3), "");
    }

    #[test]
    fn a_missing_line_end_is_told() {
        let expected = "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n";
        assert_eq!(unified("a", "a\n", 3), expected);
    }

    #[test]
    fn lines_are_counted() {
        assert_eq!(Lines::compare(b"a\nb\nc\n", b"a\nx\ny\nc\n").count(), (2, 1));
        assert_eq!(Lines::compare(b"", b"").count(), (0, 0));
    }

    #[test]
    fn what_has_a_nul_is_no_text_and_what_commands_a_terminal_is_escaped() {
        assert!(is_text(b"") && is_text("grün\u{fffd}\x1b[2J".as_bytes()));
        assert!(!is_text(b"\x7fELF\0"));
        assert_eq!(harmless(b"+a\tb\x1b[2J\n-\xff\n"), "+a\tb\\u{1b}[2J\n-\\xff\n");
    }
}
