//! `stats`: what vessels use now.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use vesselrt::{ErrorKind, Manager, VesselStats};

use super::create::limits;
use super::tables::{Table, size};
use super::{Context, Interrupts, Outcome, output};

/// Between the two looks that tell how much of a processor is used now.
const SAMPLE: Duration = Duration::from_millis(200);
/// Between two rounds of `--watch`.
const ROUND: Duration = Duration::from_secs(1);

const ABOUT: &str = "\
  CPU      processors in use just now, of those that may be used
  MEMORY   with the page cache of the vessel's files; then the most there was
  PIDS     processes and threads
  READ     bytes from and to disks, where they are counted
  DISK     what the writable layer takes, and the files in it

A vessel with limits is counted by its control group, from its start on. Without, what its processes use now is added up (~): what \
they share counts for each.

Examples:
  vesselrt stats build
  vesselrt stats --watch
  vesselrt stats build --json";

/// Arguments of `stats`.
#[derive(Debug, Args)]
#[command(after_long_help = ABOUT)]
pub(super) struct Stats {
    /// Show it again every second, until a signal comes; with --json an object a line
    #[arg(long)]
    watch: bool,
    /// Ids of vessels [default: all that run]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

/// What is shown of a vessel.
struct Sample {
    id: String,
    stats: VesselStats,
    /// Processors in use.
    cpus: Option<f64>,
}

pub(super) async fn stats(args: Stats, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    if !args.watch {
        let samples = samples(&manager, &args.ids).await?;
        return match context.json {
            true => context.print_json(&samples.iter().map(to_json).collect::<Vec<_>>()),
            false => context.print(&table(&samples).render()),
        };
    }
    let mut interrupts = Interrupts::new()?;
    loop {
        tokio::select! {
            _ = interrupts.next() => return Ok(()),
            samples = samples(&manager, &args.ids) => match (samples?, context.json) {
                (samples, true) => samples.iter().map(to_json).for_each(|value| output::event(&value)),
                (samples, false) => context.print(&table(&samples).render())?,
            },
        }
        tokio::select! {
            _ = interrupts.next() => return Ok(()),
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

async fn samples(manager: &Manager, ids: &[String]) -> Outcome<Vec<Sample>> {
    let asked = !ids.is_empty();
    let ids = match asked {
        true => ids.to_vec(),
        false => running(manager).await?,
    };
    let mut before = Vec::with_capacity(ids.len());
    for id in ids {
        match manager.vessel_stats(&id).await {
            Ok(stats) => before.push((id, stats.usage.cpu_time, Instant::now())),
            // One that was not asked for may be gone.
            Err(e) if !asked && e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    tokio::time::sleep(SAMPLE).await;
    let mut samples = Vec::with_capacity(before.len());
    for (id, used, since) in before {
        match manager.vessel_stats(&id).await {
            Ok(stats) => {
                let cpus = share(used, stats.usage.cpu_time, since.elapsed());
                samples.push(Sample { id, stats, cpus });
            }
            Err(e) if !asked && e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(samples)
}

async fn running(manager: &Manager) -> Outcome<Vec<String>> {
    let mut ids = Vec::new();
    for vessel in manager.list_vessels().await? {
        match manager.vessel_status(&vessel.id).await {
            Ok(status) if status.running => ids.push(vessel.id),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(ids)
}

/// Processors that were used in that time. Of processes that have ended meanwhile nothing may be known.
fn share(before: Option<Duration>, after: Option<Duration>, time: Duration) -> Option<f64> {
    let used = after?.saturating_sub(before?);
    Some(used.as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE))
}

fn table(samples: &[Sample]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "STATUS",
        "CPU",
        "TIME",
        "MEMORY",
        "PEAK",
        "PIDS",
        "READ",
        "WRITTEN",
        "DISK",
        "FILES",
        "ENFORCEMENT",
    ]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let of = |used: Option<String>, limit: Option<String>| match (used, limit) {
        (used, None) => or_none(used),
        (used, Some(limit)) => format!("{} / {limit}", or_none(used)),
    };
    for Sample { id, stats, cpus } in samples {
        let limit = &stats.limits;
        let about = if stats.grouped || !stats.running { "" } else { "~" };
        let memory = stats.usage.memory.map(|bytes| format!("{about}{}", size(bytes)));
        table.row([
            id.clone(),
            if stats.running { "running".to_owned() } else { "stopped".to_owned() },
            of(cpus.map(|cpus| format!("{cpus:.2}")), limit.milli_cpus.map(limits::shown_cpus)),
            or_none(stats.usage.cpu_time.map(|time| format!("{:.2} s", time.as_secs_f64()))),
            of(memory, limit.memory.map(limits::shown_bytes)),
            or_none(stats.usage.memory_peak.map(size)),
            of(stats.usage.pids.map(|count| count.to_string()), limit.pids.map(|count| count.to_string())),
            or_none(stats.usage.read.map(size)),
            or_none(stats.usage.written.map(size)),
            of(Some(size(stats.disk)), limit.disk.map(limits::shown_bytes)),
            stats.disk_inodes.to_string(),
            stats.enforcement.as_str().to_owned(),
        ]);
    }
    table
}

fn to_json(sample: &Sample) -> Value {
    let Sample { id, stats, cpus } = sample;
    let micros =
        |time: Option<Duration>| time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    json!({
        "id": id,
        "running": stats.running,
        "commands": stats.commands,
        "source": if stats.grouped { "cgroup" } else { "processes" },
        "enforcement": stats.enforcement.as_str(),
        "limits": limits::to_json(&stats.limits),
        "cpus": cpus,
        "cpuTimeUs": micros(stats.usage.cpu_time),
        "throttledUs": micros(stats.usage.throttled),
        "memory": stats.usage.memory,
        "memoryPeak": stats.usage.memory_peak,
        "pids": stats.usage.pids,
        "readBytes": stats.usage.read,
        "writtenBytes": stats.usage.written,
        "oomKills": stats.usage.oom_kills,
        "diskBytes": stats.disk,
        "diskInodes": stats.disk_inodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_in_use_are_time_over_time() {
        let seconds = Duration::from_secs;
        assert_eq!(share(Some(seconds(1)), Some(seconds(4)), seconds(2)), Some(1.5));
        assert_eq!(share(Some(seconds(4)), Some(seconds(1)), seconds(2)), Some(0.0));
        assert_eq!(share(None, Some(seconds(1)), seconds(2)), None);
    }
}
