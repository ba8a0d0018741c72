//! Peak memory of processes while something runs, as proc(5) tells it (`VmHWM`, `children`).
//!
//! A thread looks every millisecond, in rounds that are not timed. Pages that processes share count for each of them, and a
//! process that lives shorter than a look is missed: what is found is a lower bound of the parts and an upper one of the sum.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(1);

/// Whose memory counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// That of descendants of this process that were not there when the watch began.
    New,
    /// That of this process and of its descendants of the same name: shims and workers.
    Ours,
}

/// A thread that looks until it is asked.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    /// Begins to look. The peak of this process itself begins anew.
    pub(super) fn start(whose: Whose) -> Option<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        // "5" resets the peak resident set size (proc(5), /proc/pid/clear_refs); where that is refused the peak is too high.
        let _ = fs::write("/proc/self/clear_refs", "5");
        let before: HashSet<u32> = descendants(std::process::id()).into_iter().collect();
        let builder = std::thread::Builder::new().name("vesselrt-watch".into());
        let thread = builder.spawn(move || look(whose, &before, &flag)).ok()?;
        Some(Self { stop, thread })
    }

    /// The peak in bytes, unless nothing was seen.
    pub(super) fn end(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().filter(|&peak| peak > 0)
    }
}

fn look(whose: Whose, before: &HashSet<u32>, stop: &AtomicBool) -> u64 {
    let (this, name) = (std::process::id(), name(std::process::id()));
    let mut peak = 0;
    loop {
        let last = stop.load(Ordering::Relaxed);
        let now: u64 = match whose {
            Whose::New => {
                descendants(this).iter().filter(|pid| !before.contains(pid)).map(|&pid| high_water(pid)).sum()
            }
            Whose::Ours => {
                let same = descendants(this).into_iter().filter(|&pid| self::name(pid) == name);
                same.chain([this]).map(high_water).sum()
            }
        };
        peak = peak.max(now);
        if last {
            return peak;
        }
        std::thread::sleep(LOOK);
    }
}

/// All processes below `pid` that can be seen.
pub(super) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut left = vec![pid];
    while let Some(pid) = left.pop() {
        let children = children(pid);
        found.extend(&children);
        left.extend(children);
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

/// The peak resident set size of a process, in bytes; 0 of one that is gone.
fn high_water(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    high_water_in(&status).unwrap_or(0)
}

fn high_water_in(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_status() {
        assert_eq!(high_water_in("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(high_water_in("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn what_a_child_takes_is_seen() {
        let watch = Watch::start(Whose::New).unwrap();
        let mut child = std::process::Command::new("sleep").arg("0.1").spawn().unwrap();
        assert!(descendants(std::process::id()).contains(&child.id()));
        child.wait().unwrap();
        // Other tests of this process have children too.
        assert!(watch.end().is_some_and(|peak| peak > 100_000));
    }

    #[test]
    fn what_this_process_takes_is_seen() {
        let watch = Watch::start(Whose::Ours).unwrap();
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        drop(block);
        assert!(watch.end().is_some_and(|peak| peak > 32 << 20));
    }
}
