//! What a group uses.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::{Controller, Group, Version};

/// A statistics file of many devices has some kilobytes.
const SMALL: usize = 4096;

/// What a group uses. `None`: its controller is not there, or this kernel does not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Processor time so far.
    pub cpu_time: Option<Duration>,
    /// How long processes stood still because the group had used up its time.
    pub throttled: Option<Duration>,
    /// Memory now, in bytes, the page cache of its files included.
    pub memory: Option<u64>,
    /// The most memory there was, in bytes.
    pub memory_peak: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Bytes read from disks.
    pub read: Option<u64>,
    /// Bytes written to disks.
    pub written: Option<u64>,
    /// Processes that were killed for want of memory.
    pub oom_kills: Option<u64>,
}

pub(super) fn read(group: &Group) -> GroupUsage {
    let dir = |controller| group.place(controller).map(|place| place.path.as_path());
    let mut usage = GroupUsage::default();
    match group.version {
        Version::V1 => v1(dir, &mut usage),
        Version::V2 => v2(dir, &mut usage),
    }
    usage.pids = dir(Controller::Pids).and_then(|dir| number(dir, "pids.current"));
    let kills = [Some(group.clone()), Some(group.commands())].into_iter().flatten();
    let counted = kills.filter_map(|group| Some(oom_kills(group.oom_counter().ok()??)));
    // The unified hierarchy counts below as well; the other counts where the process was.
    usage.oom_kills = counted.flatten().reduce(|above, below| match group.version {
        Version::V1 => above + below,
        Version::V2 => above.max(below),
    });
    usage
}

fn v1<'a>(dir: impl Fn(Controller) -> Option<&'a Path>, usage: &mut GroupUsage) {
    let of = |controller, name| dir(controller).and_then(|dir| number(dir, name));
    usage.cpu_time = of(Controller::Cpuacct, "cpuacct.usage").map(Duration::from_nanos);
    let throttled = dir(Controller::Cpu).and_then(|dir| text(dir, "cpu.stat"));
    usage.throttled = throttled.and_then(|text| keyed(&text, "throttled_time")).map(Duration::from_nanos);
    usage.memory = of(Controller::Memory, "memory.usage_in_bytes");
    usage.memory_peak = of(Controller::Memory, "memory.max_usage_in_bytes");
    let io = dir(Controller::Io).and_then(|dir| text(dir, "blkio.throttle.io_service_bytes_recursive"));
    if let Some(text) = io {
        (usage.read, usage.written) = (Some(v1_io(&text, "Read")), Some(v1_io(&text, "Write")));
    }
}

fn v2<'a>(dir: impl Fn(Controller) -> Option<&'a Path>, usage: &mut GroupUsage) {
    let of = |controller, name| dir(controller).and_then(|dir| number(dir, name));
    // Every group counts processor time, whatever its controllers.
    let any = [Controller::Cpu, Controller::Memory, Controller::Pids].into_iter().find_map(&dir);
    if let Some(text) = any.and_then(|dir| text(dir, "cpu.stat")) {
        usage.cpu_time = keyed(&text, "usage_usec").map(Duration::from_micros);
        usage.throttled = keyed(&text, "throttled_usec").map(Duration::from_micros);
    }
    usage.memory = of(Controller::Memory, "memory.current");
    usage.memory_peak = of(Controller::Memory, "memory.peak");
    if let Some(text) = dir(Controller::Io).and_then(|dir| text(dir, "io.stat")) {
        (usage.read, usage.written) = (Some(v2_io(&text, "rbytes=")), Some(v2_io(&text, "wbytes=")));
    }
}

fn text(dir: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(dir.join(name)).ok()
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    text(dir, name)?.trim().parse().ok()
}

/// The number of the line `KEY NUMBER`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `8:0 Read 4096` for each device; the line `Total` names none.
fn v1_io(text: &str, operation: &str) -> u64 {
    let bytes = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next()? == operation).then_some(())?;
        words.next()?.parse::<u64>().ok()
    });
    bytes.fold(0, u64::saturating_add)
}

/// `8:0 rbytes=4096 wbytes=0 …` for each device.
fn v2_io(text: &str, key: &str) -> u64 {
    let words = text.lines().flat_map(|line| line.split(' '));
    words.filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).fold(0, u64::saturating_add)
}

/// What the file of [`Group::oom_counter`] says now.
#[must_use]
pub fn oom_kills(counter: impl AsFd) -> Option<u64> {
    let mut buffer = [0; SMALL];
    let length = rustix::io::pread(&counter, &mut buffer, 0).ok()?;
    keyed(std::str::from_utf8(buffer.get(..length)?).ok()?, "oom_kill")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn counters_are_found_by_their_keys() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!((keyed(events, "oom_kill"), keyed(events, "oom")), (Some(2), Some(3)));
        assert_eq!(keyed("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", "oom_kill"), Some(5));
        assert_eq!(keyed("oom_killed 5\n", "oom_kill"), None);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(events.as_bytes()).unwrap();
        assert_eq!(oom_kills(&file), Some(2), "whatever the offset is");
    }

    #[test]
    fn devices_are_added_up() {
        let v1 = "8:0 Read 4096\n8:0 Write 10\n8:16 Read 1\n8:16 Write 0\nTotal 4107\n";
        assert_eq!((v1_io(v1, "Read"), v1_io(v1, "Write")), (4097, 10));
        let v2 = "8:0 rbytes=5 wbytes=7 rios=1\n8:16 rbytes=1 wbytes=2 dbytes=9\n";
        assert_eq!((v2_io(v2, "rbytes="), v2_io(v2, "wbytes=")), (6, 9));
    }
}
