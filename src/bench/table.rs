//! The results as people read them. Pure.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::report::{Curve, Figures, Panel, Race, Report, Row, Status};
use crate::cli::{Table, human_size};

const HEADINGS: [&str; 9] = ["", "p50", "p95", "p99", "MB/s", "files/s", "memory", "archive", "ours/peer"];

/// What it was measured on and where.
pub(super) fn heading(report: &Report) -> String {
    let (tree, host) = (&report.tree, &report.host);
    let user = if host.root { "root" } else { "an ordinary user" };
    format!(
        "vesselrt {} bench: {} files, {} ({}); Linux {}, {} CPUs, as {user}\n",
        report.vesselrt,
        tree.files,
        human_size(tree.bytes),
        tree.profile.name(),
        host.kernel,
        host.cpus,
    )
}

/// One benchmark.
pub(super) fn race(race: &Race) -> String {
    let width = race.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut table = Table::new(&HEADINGS);
    let mut missing = String::new();
    for row in &race.rows {
        // As wide as those that are told below, so that all of them are aligned.
        let name = format!("{:width$}", row.name);
        match &row.figures {
            Some(figures) => table.row(cells(name, figures)),
            None => {
                let _ = writeln!(missing, "  {name}  {}", why_not(row));
            }
        }
    }
    let mut text = format!("\n{} ({} rounds, in turns)\n", race.title, race.rounds);
    for line in table.render().lines() {
        let _ = writeln!(text, "  {line}");
    }
    text + &missing
}

fn why_not(row: &Row) -> String {
    let reason = row.reason.as_deref().unwrap_or_default();
    match row.status {
        Status::Failed => format!("failed: {reason}"),
        Status::Ok | Status::Absent | Status::Unable => reason.to_owned(),
    }
}

fn cells(name: String, figures: &Figures) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        name,
        time(figures.p50_ms),
        time(figures.p95_ms),
        time(figures.p99_ms),
        or_dash(figures.mb_per_s.map(|rate| format!("{rate:.0}"))),
        or_dash(figures.files_per_s.map(|rate| format!("{rate:.0}"))),
        or_dash(figures.peak_memory_bytes.map(human_size)),
        or_dash(figures.output_bytes.map(human_size)),
        figures.ratio.map(ratio).unwrap_or_default(),
    ]
}

fn ratio(ratio: f64) -> String {
    if ratio < 0.01 { "< 0.01".to_owned() } else { format!("{ratio:.2}") }
}

/// How much each curve rises.
pub(super) fn curves(curves: &[Curve]) -> String {
    let mut table = Table::new(&["", "over", "from", "to", "first", "last", "last/first"]);
    for curve in curves {
        let (Some(first), Some(last)) = (curve.points.first(), curve.points.last()) else { continue };
        let (over, from, to) = match curve.panel {
            Panel::Size => ("size", human_size(first.at), human_size(last.at)),
            Panel::Chain => ("snapshots", first.at.to_string(), last.at.to_string()),
        };
        let (low, high) = curve.ends().unwrap_or_default();
        let growth = curve.growth.map_or_else(|| "-".to_owned(), |growth| format!("{growth:.2}"));
        table.row([curve.name.to_owned(), over.to_owned(), from, to, time(low), time(high), growth]);
    }
    let mut text = String::from("\ncost against size and chain length\n");
    for line in table.render().lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// Milliseconds with about three digits.
pub(super) fn time(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1e3),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Work;
    use super::*;

    #[test]
    fn times_have_three_digits() {
        for (ms, text) in
            [(0.7, "700 µs"), (1.234, "1.23 ms"), (12.34, "12.3 ms"), (885.4, "885 ms"), (1234.0, "1.23 s")]
        {
            assert_eq!(time(ms), text);
        }
    }

    #[test]
    fn a_ratio_is_never_nothing() {
        assert_eq!([0.001, 0.01, 1.126].map(ratio), ["< 0.01", "0.01", "1.13"]);
    }

    #[test]
    fn who_did_not_take_part_says_why() {
        let row = |name: &str, status, reason: &str| Row {
            name: name.into(),
            ours: false,
            status,
            reason: Some(reason.into()),
            figures: None,
        };
        let rows = vec![row("a", Status::Absent, "not installed"), row("b", Status::Failed, "it broke")];
        let work = Some(Work { files: 1, bytes: 1 });
        let text = race(&Race { name: "x", title: "X".into(), rounds: 3, work, rows });
        assert!(text.contains("  a  not installed\n") && text.contains("  b  failed: it broke\n"), "{text}");
        assert!(text.starts_with("\nX (3 rounds, in turns)\n"), "{text}");
    }
}
