//! Cost against size, and cost against the number of snapshots that a vessel is based on.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use tokio::sync::watch;
use vesselrt::Vessel;

use super::lab::Shared;
use super::ours::snapshot::{Kind, stored, take};
use super::race::Interrupted;
use super::report::{Curve, Panel, Point, millis};
use super::stats::Times;
use super::trees::filler;
use crate::cli::{Outcome, Progress};

/// How often each size is measured.
const ROUNDS: u32 = 3;
/// Bytes that change between two snapshots of a chain.
const CHANGE: usize = 4096;
const FILE: &str = "/work/curve";
const FIRST: &str = "/work/first";

/// The curves of one panel while they are measured.
struct Curves {
    panel: Panel,
    lines: Vec<(&'static str, Vec<Point>)>,
}

impl Curves {
    fn new(panel: Panel) -> Self {
        Self { panel, lines: Vec::new() }
    }

    fn add(&mut self, name: &'static str, at: u64, took: Duration) {
        let point = Point { at, ms: millis(took) };
        match self.lines.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(point),
            None => self.lines.push((name, vec![point])),
        }
    }

    fn done(self) -> impl Iterator<Item = Curve> {
        let panel = self.panel;
        self.lines.into_iter().map(move |(name, points)| Curve::new(panel, name, points))
    }
}

/// Measures both panels.
///
/// # Errors
/// Those of the vessels; [`Interrupted`] inside.
pub(super) async fn measure(
    lab: &Shared,
    largest: u64,
    longest: u32,
    stop: &watch::Receiver<bool>,
    progress: &Progress,
) -> Outcome<Result<Vec<Curve>, Interrupted>> {
    let sizes = sizes(largest);
    let total = sizes.len() as u64 * u64::from(ROUNDS) + u64::from(longest);
    let mut step = 0;
    let mut told = |what: &str| {
        progress.doing(what);
        progress.steps(step, total);
        step += 1;
        *stop.borrow()
    };
    let mut curves = Vec::new();
    for panel in [Panel::Size, Panel::Chain] {
        let vessel = lab.vessel().await?;
        let measured = match panel {
            Panel::Size => over_size(lab, &vessel, &sizes, &mut told).await,
            Panel::Chain => over_chain(lab, &vessel, longest, &mut told).await,
        };
        lab.discard(&vessel).await?;
        match measured? {
            Ok(measured) => curves.extend(measured.done()),
            Err(Interrupted) => return Ok(Err(Interrupted)),
        }
    }
    Ok(Ok(curves))
}

/// 1 kB, 10 kB and so on, and the largest.
fn sizes(largest: u64) -> Vec<u64> {
    let powers = std::iter::successors(Some(1000u64), |size| size.checked_mul(10));
    let mut sizes: Vec<u64> = powers.take_while(|size| *size < largest).collect();
    sizes.push(largest);
    sizes
}

async fn over_size(
    lab: &Shared,
    vessel: &Vessel,
    sizes: &[u64],
    told: &mut impl FnMut(&str) -> bool,
) -> Outcome<Result<Curves, Interrupted>> {
    let mut curves = Curves::new(Panel::Size);
    for &size in sizes {
        let data = filler(usize::try_from(size).unwrap_or(usize::MAX));
        let (mut snapshots, mut sealed, mut restores) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            if told("cost against size") {
                return Ok(Err(Interrupted));
            }
            for (kind, times) in [(Kind::Sealed, &mut sealed), (Kind::Durable, &mut snapshots)] {
                vessel.write_file(FILE, &data, 0o644).await?;
                lab.settle().await?;
                let (took, made) = timed(take(vessel, kind)).await?;
                times.push(took);
                stored(vessel, kind, &made).await?;
            }
            vessel.write_file(FILE, &data, 0o644).await?;
            lab.settle().await?;
            restores.push(restore(vessel).await?);
            lab.manager.close().await?;
        }
        for (name, times) in [("snapshot", snapshots), ("sealed snapshot", sealed), ("restore", restores)] {
            if let Some(median) = Times::new(times).median() {
                curves.add(name, size, median);
            }
        }
    }
    Ok(Ok(curves))
}

async fn over_chain(
    lab: &Shared,
    vessel: &Vessel,
    longest: u32,
    told: &mut impl FnMut(&str) -> bool,
) -> Outcome<Result<Curves, Interrupted>> {
    let mut curves = Curves::new(Panel::Chain);
    let data = filler(CHANGE);
    vessel.write_file(FIRST, &data, 0o644).await?;
    for length in 1..=longest {
        if told("cost against chain length") {
            return Ok(Err(Interrupted));
        }
        vessel.write_file(FILE, &data, 0o644).await?;
        lab.settle().await?;
        // In turns: each makes the chain one longer.
        let (name, kind) =
            if length % 2 == 1 { ("snapshot", Kind::Durable) } else { ("sealed snapshot", Kind::Sealed) };
        let (took, made) = timed(take(vessel, kind)).await?;
        stored(vessel, kind, &made).await?;
        let mut add = |name, took| curves.add(name, length.into(), took);
        add(name, took);
        add("exec", timed(async { Ok(vessel.exec(lab.nothing()).await?) }).await?.0);
        add("read a file of the first", timed(async { Ok(vessel.read_file(FIRST).await?) }).await?.0);
        vessel.write_file(FILE, &data, 0o644).await?;
        lab.settle().await?;
        add("restore", restore(vessel).await?);
        lab.manager.close().await?;
    }
    Ok(Ok(curves))
}

/// How long it takes to go back to the last snapshot.
async fn restore(vessel: &Vessel) -> Outcome<Duration> {
    let current = vessel.manifest().current_snapshot_id;
    Ok(timed(async { Ok(vessel.restore_snapshot(&current).await?) }).await?.0)
}

async fn timed<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<(Duration, T)> {
    let begun = Instant::now();
    let value = work.await?;
    Ok((begun.elapsed(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_up_to_the_largest() {
        assert_eq!(sizes(100_000), [1000, 10_000, 100_000]);
        assert_eq!(sizes(250_000), [1000, 10_000, 100_000, 250_000]);
        assert_eq!(sizes(5), [5]);
    }
}
