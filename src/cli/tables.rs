//! Tables without borders, sizes and times as people read them. Pure.
#![forbid(unsafe_code)]

use time::OffsetDateTime;

/// Space between columns.
const GAP: usize = 2;

/// Rows under headings, every column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// Rows only.
    pub(crate) fn bare() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The text, each line ended.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes in decimal units: `17 B`, `1.2 kB`, `456 MB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut unit = "B";
    let (mut whole, mut tenth) = (bytes, 0);
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if whole < 1000 {
            break;
        }
        (whole, tenth, unit) = (whole / 1000, whole % 1000 / 100, next);
    }
    if unit == "B" || whole >= 100 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") }
}

/// How long ago, in the largest unit that fits.
pub(crate) fn ago(then: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (now - then).whole_seconds();
    if seconds < 2 {
        return "now".to_owned();
    }
    let (count, unit) = match seconds {
        s if s < 60 => (s, "second"),
        s if s < 3600 => (s / 60, "minute"),
        s if s < 86_400 => (s / 3600, "hour"),
        s if s < 30 * 86_400 => (s / 86_400, "day"),
        s if s < 365 * 86_400 => (s / (30 * 86_400), "month"),
        s => (s / (365 * 86_400), "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

/// The first characters of a digest's hexadecimal part, or of anything else.
pub(crate) fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// Type and permission bits as `ls -l` shows them.
pub(crate) fn permissions(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o060_000 => 'b',
        0o020_000 => 'c',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, with, without) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => with,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let mut table = Table::new(&["ID", "IMAGE"]);
        table.row(["a", "längst"]);
        table.row(["abcdef", ""]);
        assert_eq!(table.render(), "ID      IMAGE\na       längst\nabcdef\n");
        assert_eq!(Table::bare().render(), "");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1_250, "1.2 kB"),
            (99_999, "99.9 kB"),
            (456_000_000, "456 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn times_are_relative() {
        let then = OffsetDateTime::UNIX_EPOCH;
        for (seconds, shown) in [
            (-5, "now"),
            (1, "now"),
            (2, "2 seconds ago"),
            (60, "1 minute ago"),
            (7_200, "2 hours ago"),
            (86_400, "1 day ago"),
            (40 * 86_400, "1 month ago"),
            (800 * 86_400, "2 years ago"),
        ] {
            assert_eq!(ago(then, then + time::Duration::seconds(seconds)), shown);
        }
    }

    #[test]
    fn modes_look_like_those_of_ls() {
        for (mode, shown) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o120_777, "lrwxrwxrwx"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_645, "-rw-r-Sr-x"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o010_600, "prw-------"),
        ] {
            assert_eq!(permissions(mode), shown);
        }
    }

    #[test]
    fn digests_are_cut() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("sha256:12"), "12");
        assert_eq!(short("é"), "é");
    }
}
