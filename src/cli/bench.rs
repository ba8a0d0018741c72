//! `bench`: what is asked for; [`crate::bench`] does it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum, ValueHint};

use super::values;
use super::{Context, Outcome};
use crate::bench::{self, Benchmark, Peer, Plan, Profile, Wanted};

const ABOUT_IT: &str = "\
Everything happens in a temporary store beside the real one, which is removed at the end, also after Ctrl-C. All ways to do \
the same work run in turns in one run; the first round of each only warms up (and has its memory watched). Everything that was \
written is synced before anything is timed. Ratios are of medians: below 1.00 vesselrt is faster. A peer that is not installed or \
fails is shown as such and not counted.

Rounds that move the whole tree are fewer: a fifth, but at least two. The exit code is 125 if something of vesselrt itself failed.

Examples:
  vesselrt bench
  vesselrt bench exec run --rounds 100
  vesselrt bench snapshot restore --profile node_modules --files 50000 --size 500M
  vesselrt bench --peers none --plot curves.svg --json";

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(after_long_help = ABOUT_IT)]
pub(super) struct Bench {
    /// What to measure [default: everything]
    #[arg(value_name = "BENCHMARK", value_enum)]
    benchmarks: Vec<Benchmark>,
    /// How many files the tree has, about [default: 20000; model 8, database 6]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(..=10_000_000))]
    files: Option<u64>,
    /// Bytes of all files together, about, with k, M or G [default: 479M for 20000 files; model and database 419M]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    size: Option<u64>,
    /// What the tree looks like
    #[arg(long, value_enum, default_value_t = Profile::Mixed)]
    profile: Profile,
    /// How often each is timed
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// Which other tools to measure too, if they are installed; `none` for none [default: all]
    #[arg(long, value_name = "PEER", value_delimiter = ',', value_parser = peer)]
    peers: Vec<Option<Peer>>,
    /// Longest that one round may take
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = values::duration)]
    timeout: Duration,
    /// Do not sync what was written before anything is timed
    #[arg(long)]
    unsettled: bool,
    /// Draw the cost against size and chain length
    #[arg(long, value_name = "FILE.svg", value_hint = ValueHint::FilePath)]
    plot: Option<PathBuf>,
    /// Largest size of the drawing
    #[arg(long, value_name = "BYTES", default_value = "100M", value_parser = bytes, requires = "plot")]
    plot_size: u64,
    /// Longest chain of snapshots of the drawing
    #[arg(long, value_name = "N", default_value_t = 200, requires = "plot", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    plot_chain: u32,
}

/// A number of bytes: with `k`, `M`, `G` or `T` of 1000 and so on, with `Ki`, `Mi`, `Gi` or `Ti` of 1024.
///
/// # Errors
/// A text for the user.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is not a number of bytes such as 4096, 10k, 500M or 2Gi");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.strip_suffix('B').unwrap_or(unit);
    let factor: u64 = match unit {
        "" => 1,
        "k" | "K" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A peer, or nobody.
fn peer(text: &str) -> Result<Option<Peer>, String> {
    if text == "none" {
        return Ok(None);
    }
    let known = || {
        let names = Peer::value_variants().iter().filter_map(Peer::to_possible_value);
        names.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(", ")
    };
    Peer::from_str(text, false).map(Some).map_err(|_| format!("known are {} and none", known()))
}

pub(super) async fn run(args: Bench, context: &Context) -> Outcome<ExitCode> {
    let all = |none: bool| none.then(|| Benchmark::value_variants().to_vec());
    let peers = match args.peers.as_slice() {
        [] => Peer::value_variants().to_vec(),
        some => some.iter().flatten().copied().collect(),
    };
    let plan = Plan {
        benchmarks: all(args.benchmarks.is_empty()).unwrap_or(args.benchmarks),
        wanted: Wanted::new(args.profile, args.files, args.size),
        rounds: args.rounds,
        peers,
        limit: args.timeout,
        settled: !args.unsettled,
        plot: args.plot,
        plot_size: args.plot_size,
        plot_chain: args.plot_chain,
    };
    bench::run(plan, context).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, number) in
            [("0", 0), ("4096", 4096), ("10k", 10_000), ("1M", 1_000_000), ("2GiB", 2 << 30)]
        {
            assert_eq!(bytes(text).unwrap(), number, "{text}");
        }
        for text in ["", "k", "-1", "1.5M", "1m", "99999999999999999999", "99999999T"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn peers_have_names_or_are_none() {
        assert_eq!(peer("none"), Ok(None));
        assert_eq!(peer("crun"), Ok(Some(Peer::Crun)));
        assert!(peer("docker").unwrap_err().contains("podman"));
    }
}
