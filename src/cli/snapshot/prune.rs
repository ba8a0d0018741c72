//! `snapshot prune`.
#![forbid(unsafe_code)]

use std::time::Duration;

use clap::Args;
use vesselrt::SnapshotPruning;

use super::rm::told;
use crate::cli::{Context, Outcome, values};

/// Arguments of `snapshot prune`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Removes the snapshots to which all of the given conditions apply and prints their ids. The one that the vessel lies on is never removed, \
nor is one that others are based on that stay, unless --squash takes its name only.

Examples:
  vesselrt snapshot prune build --keep-last 10 --dry-run
  vesselrt snapshot prune build --keep-last 3 --older-than 7d --squash")]
#[group(id = "which", required = true, multiple = true, args = ["keep_last", "older_than"])]
pub(crate) struct Prune {
    /// Id of the vessel
    id: String,
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
    /// Keep those that are younger: 30m, 12h, 7d, 4w
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Remove the names of those that others are based on, and keep their data
    #[arg(long)]
    squash: bool,
    /// Print what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// A duration that may also be in days or weeks.
fn age(text: &str) -> Result<Duration, String> {
    let hours = |digits: &str, hours: u64| {
        let count = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(hours * 3600));
        count.filter(|&seconds| seconds > 0).map(Duration::from_secs)
    };
    let parsed = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(days), _) => hours(days, 24),
        (_, Some(weeks)) => hours(weeks, 7 * 24),
        _ => return values::duration(text),
    };
    parsed.ok_or_else(|| format!("{text:?} is not an age such as 30m, 12h, 7d or 4w"))
}

pub(crate) async fn prune(args: Prune, context: &Context) -> Outcome {
    let mut how = SnapshotPruning::new().squash(args.squash).dry_run(args.dry_run);
    if let Some(count) = args.keep_last {
        how = how.keep_last(count);
    }
    if let Some(age) = args.older_than {
        how = how.older_than(age);
    }
    let done = context.with_vessel(&args.id, async |vessel| Ok(vessel.prune_snapshots(how).await?)).await?;
    told(&done, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_may_be_days_and_weeks() {
        for (text, seconds) in [("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("5", 5)]
        {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "d", "0d", "-1d", "1y", "99999999999999999999d", "18446744073709551615w"] {
            age(bad).unwrap_err();
        }
    }
}
