//! The processes of a shim as /proc shows them: for vessels that have no control group.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::GroupUsage;

/// A process below another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    threads: u64,
    /// User and system time with that of children that were waited for, in ticks of the clock.
    ticks: u64,
    /// Resident pages.
    pages: u64,
}

/// What the processes in the containers of a shim use, each by itself: what they share counts for each. Of those that
/// have ended, only processor time counts, and only within the command that is still there.
#[must_use]
pub fn usage_of(shim: u32) -> Option<GroupUsage> {
    let all = processes();
    is_shim(shim).then_some(())?;
    let inside = below(&all, shim).into_iter().filter(|pid| is_contained(*pid));
    let (mut ticks, mut pages, mut pids) = (0u64, 0u64, 0u64);
    for process in inside.filter_map(|pid| all.get(&pid)) {
        ticks = ticks.saturating_add(process.ticks);
        pages = pages.saturating_add(process.pages);
        pids = pids.saturating_add(process.threads);
    }
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(GroupUsage {
        cpu_time: Some(Duration::from_micros(ticks.saturating_mul(1_000_000) / per_second)),
        memory: Some(pages.saturating_mul(page)),
        pids: Some(pids),
        ..GroupUsage::default()
    })
}

/// The processes in the containers of a shim: those of a pid namespace below ours.
#[must_use]
pub fn contained(shim: u32) -> Vec<u32> {
    if !is_shim(shim) {
        return Vec::new();
    }
    below(&processes(), shim).into_iter().filter(|pid| is_contained(*pid)).collect()
}

/// The number may be that of another process by now, or of another pid namespace.
fn is_shim(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"vesselrt-shim"))
}

fn processes() -> HashMap<u32, Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, parse(&stat(pid)?)?))).collect()
}

fn stat(pid: u32) -> Option<String> {
    // The name may be anything: it is cut out by its parentheses.
    let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The fields of proc_pid_stat(5): after the name come state (3), ppid (4), …
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = [14, 15, 16, 17].into_iter().filter_map(field).fold(0, u64::saturating_add);
    Some(Process { parent: u32::try_from(field(4)?).ok()?, threads: field(20)?, ticks, pages: field(24)? })
}

fn below(all: &HashMap<u32, Process>, top: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut next = vec![top];
    while let Some(parent) = next.pop() {
        for (pid, _) in all.iter().filter(|(_, process)| process.parent == parent) {
            found.push(*pid);
            next.push(*pid);
        }
    }
    found
}

/// The line `NSpid` has a number for each pid namespace from ours down (proc_pid_status(5)).
fn is_contained(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let line =
            "17 (a) b (c) S 4 17 17 0 -1 4194560 0 0 0 0 1 2 3 4 20 0 5 0 99 1000 250 18446744073709551615";
        let process = parse(line).unwrap();
        assert_eq!(process, Process { parent: 4, threads: 5, ticks: 10, pages: 250 });
        assert_eq!(parse("17 (x"), None);
    }

    #[test]
    fn only_what_is_below_counts() {
        let of = |parent| Process { parent, threads: 1, ticks: 0, pages: 0 };
        let all = HashMap::from([(2, of(1)), (3, of(2)), (4, of(3)), (5, of(1))]);
        let mut found = below(&all, 2);
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert_eq!(usage_of(std::process::id()), None, "this is no shim");
    }
}
