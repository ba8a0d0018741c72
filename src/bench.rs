//! `bench`: vesselrt and what people use instead, on the same work, in turns, in one run.
//!
//! | part | what it does |
//! |---|---|
//! | [`trees`] | writes the tree: seeded, so that all runs are about the same bytes |
//! | [`lab`] | the temporary store, the base image and archives of the tree that all share |
//! | [`ours`], [`peers`] | the ways to do the work; each is a [`race::Entrant`] |
//! | [`race`] | runs them in turns, with limits and interrupts |
//! | [`memory`], [`stats`] | peaks and percentiles |
//! | [`curves`], [`plot`] | cost against size and chain length |
//! | [`report`], [`table`] | the results for programs and for people |
//!
//! Another benchmark is a variant of [`Benchmark`], its title, and its lanes in [`lanes`].
#![forbid(unsafe_code)]

mod base;
mod curves;
mod lab;
mod memory;
mod ours;
mod peers;
mod plot;
mod race;
mod report;
mod stats;
mod table;
mod trees;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use tokio::sync::watch;

use self::lab::{Lab, Shared};
use self::ours::{archive, commands, diff, fork, import, restore, snapshot};
use self::peers::Peers;
use self::race::{Course, Interrupted, Lane};
use self::report::{Host, Race, Report, Status, Tree, Work};
use crate::cli::{Context, Failure, Interrupts, Outcome, Progress};
use crate::demo;
use crate::demo::scratch::Scratch;

pub(crate) use self::peers::Peer;
pub(crate) use self::trees::{Profile, Wanted};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Benchmark {
    /// Run `true` in an existing vessel
    Exec,
    /// Create a vessel, run `true`, remove it
    Run,
    /// Snapshot a vessel into which the tree was written
    Snapshot,
    /// Archive the tree: the part of a snapshot that grows with the data
    Pack,
    /// Unpack that archive, verified
    Unpack,
    /// Go back to a snapshot whose layer is on this host
    Restore,
    /// Open a vessel of which only the archive is left
    RestoreArchive,
    /// Import the tree as an image, compressed by gzip
    Import,
    /// List what the tree changed in a vessel
    Diff,
    /// Fork a vessel with the tree, and run `true` in the fork
    Fork,
}

impl Benchmark {
    fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Run => "run",
            Self::Snapshot => "snapshot",
            Self::Pack => "pack",
            Self::Unpack => "unpack",
            Self::Restore => "restore",
            Self::RestoreArchive => "restore-archive",
            Self::Import => "import",
            Self::Diff => "diff",
            Self::Fork => "fork",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Exec => "run `true` in an existing vessel or container",
            Self::Run => "create, run `true`, remove",
            Self::Snapshot => "snapshot the tree",
            Self::Pack => "archive the tree",
            Self::Unpack => "unpack the archive",
            Self::Restore => "restore on the same host",
            Self::RestoreArchive => "restore from the archive",
            Self::Import => "import the tree as an image (gzip)",
            Self::Diff => "list what the tree changed",
            Self::Fork => "fork, and run `true` in the fork",
        }
    }

    /// The lane whose median the ratios are of.
    fn base(self) -> &'static str {
        match self {
            Self::Exec => EXEC,
            Self::Run => RUN,
            _ => LIBRARY,
        }
    }

    /// A round of somebody reads or writes the whole tree.
    fn moves_the_tree(self) -> bool {
        !matches!(self, Self::Exec | Self::Run)
    }

    /// Ours does too, so that bytes a second mean something.
    fn grows_with_the_tree(self) -> bool {
        self.moves_the_tree() && !matches!(self, Self::Restore | Self::Fork)
    }
}

const LIBRARY: &str = "vesselrt (library)";
/// [`LIBRARY`] with both outputs read to their ends.
const PIPED: &str = "vesselrt (library, piped)";
const EXEC: &str = "vesselrt exec";
const RUN: &str = "vesselrt run --rm";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) benchmarks: Vec<Benchmark>,
    pub(crate) wanted: Wanted,
    pub(crate) rounds: u32,
    pub(crate) peers: Vec<Peer>,
    pub(crate) limit: Duration,
    /// What was written is synced before anything is timed.
    pub(crate) settled: bool,
    pub(crate) plot: Option<PathBuf>,
    pub(crate) plot_size: u64,
    pub(crate) plot_chain: u32,
}

pub(crate) async fn run(plan: Plan, context: &Context) -> Outcome<ExitCode> {
    // From here on no signal ends us before everything is removed.
    let mut interrupts = Interrupts::new()?;
    let root = std::path::absolute(context.root()).map_err(|e| Failure::io("find the store", e))?;
    let scratch = Scratch::near(&root)?;
    let (tell, stop) = watch::channel(false);
    let measured = {
        let work = measure(&plan, context, &scratch, stop);
        tokio::pin!(work);
        tokio::select! {
            measured = &mut work => measured.map(|report| report.ok_or(0)),
            signal = interrupts.next() => {
                // It ends by itself, and soon: a round in flight is given a moment, and everybody removes what is theirs.
                tell.send_replace(true);
                work.await.map(|_| Err(signal))
            }
        }
    };
    let removed = scratch.remove();
    match measured? {
        Ok(report) => {
            removed?;
            finish(&plan, context, &report)
        }
        Err(signal) => Ok(ExitCode::from(u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX))),
    }
}

/// Measures everything, and removes everything.
async fn measure(
    plan: &Plan,
    context: &Context,
    scratch: &Scratch,
    mut stop: watch::Receiver<bool>,
) -> Outcome<Option<Report>> {
    let peers = Peers::new(&plan.peers);
    let (rounds, limit, settled) = (plan.rounds, plan.limit, plan.settled);
    let lab = Lab::begin(scratch.path(), context, plan.wanted, peers, rounds, limit, settled).await?;
    let lab = Shared::new(lab);
    let outcome = benchmarks(plan, context, &lab, &mut stop).await;
    let removed = demo::remove_all(&lab.manager).await;
    let report = outcome?;
    removed?;
    Ok(report)
}

async fn benchmarks(
    plan: &Plan,
    context: &Context,
    lab: &Shared,
    stop: &mut watch::Receiver<bool>,
) -> Outcome<Option<Report>> {
    let mut report = Report {
        vesselrt: env!("CARGO_PKG_VERSION"),
        host: host(lab),
        tree: Tree {
            profile: plan.wanted.profile,
            seed: trees::SEED,
            files: plan.wanted.files,
            bytes: plan.wanted.bytes,
        },
        settled: plan.settled,
        benchmarks: Vec::new(),
        curves: Vec::new(),
    };
    say(context, || table::heading(&report))?;
    for benchmark in &plan.benchmarks {
        let raced = one(*benchmark, lab, stop, &Progress::new(context, "preparing")).await?;
        let Ok(race) = raced else { return Ok(None) };
        say(context, || table::race(&race))?;
        report.benchmarks.push(race);
    }
    if plan.plot.is_some() {
        let progress = Progress::new(context, "curves");
        let curves = curves::measure(lab, plan.plot_size, plan.plot_chain, stop, &progress).await?;
        let Ok(curves) = curves else { return Ok(None) };
        drop(progress);
        say(context, || table::curves(&curves))?;
        report.curves = curves;
    }
    if let Some(written) = lab.tree.written() {
        (report.tree.files, report.tree.bytes) = (written.files, written.bytes);
    }
    Ok(Some(report))
}

/// Tells people what is known as soon as it is; programs get all of it at the end.
fn say(context: &Context, text: impl FnOnce() -> String) -> Outcome {
    match context.json {
        true => Ok(()),
        false => context.print(&text()),
    }
}

async fn one(
    benchmark: Benchmark,
    lab: &Shared,
    stop: &mut watch::Receiver<bool>,
    progress: &Progress,
) -> Outcome<Result<Race, Interrupted>> {
    let work = match benchmark.grows_with_the_tree() {
        true => Some(Work::from(lab.tree().await?.1)),
        false => None,
    };
    let rounds = if benchmark.moves_the_tree() { (lab.rounds / 5).max(2) } else { lab.rounds };
    let course = Course {
        name: benchmark.name(),
        title: benchmark.title().to_owned(),
        work,
        rounds,
        limit: lab.limit,
        base: benchmark.base(),
    };
    let lanes = lanes(benchmark, lab)?;
    let total = u64::from(rounds + 1) * lanes.len() as u64;
    let mut done = 0;
    progress.doing(course.name);
    progress.steps(0, total);
    let step = |name: &str| {
        done += 1;
        progress.doing(format!("{}: {name}", course.name));
        progress.steps(done, total);
    };
    Ok(race::race(&course, lanes, stop, step).await)
}

/// Who takes part, ours first.
fn lanes(benchmark: Benchmark, lab: &Shared) -> Outcome<Vec<Lane>> {
    let mut lanes = match benchmark {
        Benchmark::Exec => vec![
            Lane::library(LIBRARY, commands::Library::new(lab, false)),
            Lane::library(PIPED, commands::Library::new(lab, true)),
            Lane::library("vesselrt, 8 vessels, 10 each", commands::AtOnce::new(lab)),
            Lane::command(
                "vesselrt exec (started)",
                commands::Command::new(lab, commands::Verb::ExecStarted),
            ),
            Lane::command(EXEC, commands::Command::new(lab, commands::Verb::Exec)),
        ],
        Benchmark::Run => vec![Lane::command(RUN, commands::Command::new(lab, commands::Verb::Run))],
        Benchmark::Snapshot => vec![
            Lane::library(LIBRARY, snapshot::Snapshot::new(lab, snapshot::Kind::Durable)),
            Lane::library("vesselrt --fast (library)", snapshot::Snapshot::new(lab, snapshot::Kind::Sealed)),
        ],
        Benchmark::Pack => vec![Lane::library(LIBRARY, archive::Pack::new(lab))],
        Benchmark::Unpack => vec![Lane::library(LIBRARY, archive::Unpack::new(lab))],
        Benchmark::Restore => vec![
            Lane::library(LIBRARY, restore::Restore::by_library(lab)),
            Lane::command("vesselrt snapshot restore", restore::Restore::by_command(lab)?),
        ],
        Benchmark::RestoreArchive => vec![Lane::library(LIBRARY, restore::Rebuild::new(lab))],
        Benchmark::Import => vec![Lane::library(LIBRARY, import::Import::new(lab))],
        Benchmark::Diff => vec![Lane::library(LIBRARY, diff::Diff::new(lab))],
        Benchmark::Fork => vec![
            Lane::library(LIBRARY, fork::Fork::new(lab, fork::Kind::AndExec)),
            Lane::library("vesselrt, without exec", fork::Fork::new(lab, fork::Kind::Alone)),
            Lane::library("vesselrt, 100 forks at once", fork::Fork::new(lab, fork::Kind::Hundred)),
        ],
    };
    lanes.extend(lab.peers.lanes(benchmark, lab));
    Ok(lanes)
}

fn host(lab: &Shared) -> Host {
    let name = rustix::system::uname();
    Host {
        kernel: name.release().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        root: rustix::process::geteuid().is_root(),
        directory: lab.dir().display().to_string(),
    }
}

/// Draws, and prints what programs read; whatever of ours failed makes it a failure.
fn finish(plan: &Plan, context: &Context, report: &Report) -> Outcome<ExitCode> {
    if let Some(path) = &plan.plot {
        let svg = plot::svg(&report.curves);
        std::fs::write(path, svg).map_err(|e| Failure::io(format!("write {}", path.display()), e))?;
    }
    if context.json {
        context.print_json(report)?;
    }
    let rows = report.benchmarks.iter().flat_map(|race| &race.rows);
    let failed = rows.filter(|row| row.ours && row.status != Status::Ok).count();
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(crate::cli::OURS) })
}
