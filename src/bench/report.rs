//! What came out: as programs read it, and the parts that the table and the plot are made of.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::Serialize;

use super::stats::Times;
use super::trees::{Profile, Written};

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) vesselrt: &'static str,
    pub(super) host: Host,
    pub(super) tree: Tree,
    /// What was written was synced before anything was timed.
    pub(super) settled: bool,
    pub(super) benchmarks: Vec<Race>,
    pub(super) curves: Vec<Curve>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Host {
    pub(super) kernel: String,
    pub(super) cpus: usize,
    /// Not an ordinary user.
    pub(super) root: bool,
    pub(super) directory: String,
}

/// What it was measured on.
#[derive(Debug, Serialize)]
pub(super) struct Tree {
    pub(super) profile: Profile,
    pub(super) seed: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Size of the work of one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Work {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl From<Written> for Work {
    fn from(written: Written) -> Self {
        Self { files: written.files, bytes: written.bytes }
    }
}

/// One benchmark.
#[derive(Debug, Serialize)]
pub(super) struct Race {
    pub(super) name: &'static str,
    pub(super) title: String,
    pub(super) rounds: u32,
    pub(super) work: Option<Work>,
    pub(super) rows: Vec<Row>,
}

/// One way to do it.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) ours: bool,
    pub(super) status: Status,
    pub(super) reason: Option<String>,
    pub(super) figures: Option<Figures>,
}

/// Whether it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Ok,
    /// Not installed.
    Absent,
    /// Not possible here or as this user.
    Unable,
    Failed,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) rounds: usize,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) min_ms: f64,
    pub(super) mean_ms: f64,
    /// Megabytes (10⁶) of the work a second, at the median.
    pub(super) mb_per_s: Option<f64>,
    pub(super) files_per_s: Option<f64>,
    pub(super) peak_memory_bytes: Option<u64>,
    /// Bytes of the archive that was made.
    pub(super) output_bytes: Option<u64>,
    /// Our median over this one's: below 1 ours is faster.
    pub(super) ratio: Option<f64>,
}

impl Figures {
    /// `None` if nothing was measured.
    pub(super) fn of(times: &Times, work: Option<&Work>) -> Option<Self> {
        let median = times.median()?;
        let rate = |amount: u64| Some(round(amount as f64 / median.as_secs_f64().max(1e-9)));
        Some(Self {
            rounds: times.count(),
            p50_ms: millis(median),
            p95_ms: millis(times.percentile(95)?),
            p99_ms: millis(times.percentile(99)?),
            min_ms: millis(times.least()?),
            mean_ms: millis(times.mean()?),
            mb_per_s: work.and_then(|work| rate(work.bytes)).map(|rate| round(rate / 1e6)),
            files_per_s: work.and_then(|work| rate(work.files)),
            peak_memory_bytes: None,
            output_bytes: None,
            ratio: None,
        })
    }

    /// How long ours takes in parts of this.
    pub(super) fn ratio_to(&self, ours: Duration) -> Option<f64> {
        (self.p50_ms > 0.0).then(|| round(millis(ours) / self.p50_ms))
    }
}

/// A line of the plot.
#[derive(Debug, Serialize)]
pub(super) struct Curve {
    pub(super) panel: Panel,
    pub(super) name: &'static str,
    pub(super) points: Vec<Point>,
    /// Median of the last tenth over that of the first: 1 is flat.
    pub(super) growth: Option<f64>,
}

/// What a curve is drawn over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Panel {
    /// Bytes that changed since the last snapshot.
    Size,
    /// Snapshots that the vessel is based on.
    Chain,
}

/// A point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Point {
    pub(super) at: u64,
    pub(super) ms: f64,
}

impl Curve {
    pub(super) fn new(panel: Panel, name: &'static str, points: Vec<Point>) -> Self {
        let growth = ends(&points).filter(|(first, _)| *first > 0.0 && points.len() > 1);
        let growth = growth.map(|(first, last)| round(last / first));
        Self { panel, name, points, growth }
    }

    /// Medians of the first and of the last tenth, in milliseconds.
    pub(super) fn ends(&self) -> Option<(f64, f64)> {
        ends(&self.points)
    }
}

/// Medians of the first and of the last tenth, in milliseconds.
fn ends(points: &[Point]) -> Option<(f64, f64)> {
    let part = points.len().div_ceil(10);
    let middle = |points: &[Point]| {
        let mut times: Vec<f64> = points.iter().map(|point| point.ms).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    };
    Some((middle(&points[..part])?, middle(&points[points.len() - part..])?))
}

/// In milliseconds, to the microsecond.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// To three places.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_median() {
        let times = Times::new([100, 200, 900].map(Duration::from_millis).to_vec());
        let figures = Figures::of(&times, Some(&Work { files: 1000, bytes: 50_000_000 })).unwrap();
        assert_eq!((figures.p50_ms, figures.p99_ms, figures.min_ms), (200.0, 900.0, 100.0));
        assert_eq!((figures.mb_per_s, figures.files_per_s), (Some(250.0), Some(5000.0)));
        assert_eq!(figures.ratio_to(Duration::from_millis(50)), Some(0.25));
        assert!(Figures::of(&Times::default(), None).is_none());
    }

    #[test]
    fn growth_compares_the_end_with_the_beginning() {
        let points =
            |times: &[f64]| times.iter().enumerate().map(|(at, &ms)| Point { at: at as u64, ms }).collect();
        let curve = |times: &[f64]| Curve::new(Panel::Chain, "x", points(times)).growth;
        assert_eq!(curve(&[2.0, 9.0, 3.0]), Some(1.5));
        assert_eq!(curve(&[2.0]), None);
        assert_eq!(curve(&[]), None);
        let long: Vec<f64> = (0..100).map(|n| if n < 90 { 1.0 } else { 1.2 }).collect();
        assert_eq!(curve(&long), Some(1.2));
    }
}
