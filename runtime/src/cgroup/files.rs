//! Which file takes which limit, and whether it was taken.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

use super::{CgroupError, Controller, Version, io_error};
use crate::settings::Limits;

/// The period that processor time is given out in, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// What is written to a file, and what it must say then.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    file: &'static str,
    write: String,
    expect: Expect,
    /// A kernel without swap accounting does not have it.
    optional: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Expect {
    /// These words.
    Words(String),
    /// So many bytes, rounded down to pages.
    Bytes(u64),
    /// No limit: a number of bytes that no machine has, or `max`.
    Nothing,
}

/// Sets the limit of one controller in the group at `dir`, or takes it away.
pub(super) fn limit(
    dir: &Path,
    version: Version,
    controller: Controller,
    limits: &Limits,
) -> Result<(), CgroupError> {
    settings(version, controller, limits).iter().try_for_each(|setting| apply(dir, setting))
}

fn apply(dir: &Path, setting: &Setting) -> Result<(), CgroupError> {
    let path = dir.join(setting.file);
    match fs::write(&path, &setting.write) {
        Err(e) if setting.optional && e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io_error(format!("write {:?} to {path:?}", setting.write)))?,
    }
    let found = fs::read_to_string(&path).map_err(io_error(format!("read {path:?}")))?;
    let found = found.trim().to_owned();
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    if setting.expect.is_met(&found, page) {
        return Ok(());
    }
    Err(CgroupError::NotTaken { path, wrote: setting.write.clone(), found })
}

impl Expect {
    fn is_met(&self, found: &str, page: u64) -> bool {
        match self {
            Self::Words(words) => found == words,
            Self::Bytes(bytes) => found.parse() == Ok(bytes / page * page),
            Self::Nothing => found == "max" || found.parse::<u64>().is_ok_and(|bytes| bytes >= 1 << 62),
        }
    }
}

fn settings(version: Version, controller: Controller, limits: &Limits) -> Vec<Setting> {
    match (version, controller) {
        (Version::V1, Controller::Cpu) => v1_cpu(limits.milli_cpus),
        (Version::V2, Controller::Cpu) => {
            let quota = limits.milli_cpus.map_or_else(|| "max".to_owned(), |cpus| quota(cpus).to_string());
            vec![exact("cpu.max", format!("{quota} {PERIOD}"))]
        }
        (Version::V1, Controller::Memory) => v1_memory(limits.memory),
        (Version::V2, Controller::Memory) => v2_memory(limits.memory),
        (_, Controller::Pids) => {
            vec![exact("pids.max", limits.pids.map_or_else(|| "max".to_owned(), |pids| pids.to_string()))]
        }
        (_, Controller::Cpuacct | Controller::Io) => Vec::new(),
    }
}

/// Microseconds of each period.
fn quota(milli_cpus: u32) -> u64 {
    u64::from(milli_cpus) * (PERIOD / 1000)
}

fn exact(file: &'static str, value: String) -> Setting {
    Setting { file, expect: Expect::Words(value.clone()), write: value, optional: false }
}

fn v1_cpu(milli_cpus: Option<u32>) -> Vec<Setting> {
    let quota = milli_cpus.map_or_else(|| "-1".to_owned(), |cpus| quota(cpus).to_string());
    vec![exact("cpu.cfs_period_us", PERIOD.to_string()), exact("cpu.cfs_quota_us", quota)]
}

/// Memory with swap can never be less than memory: it is lifted first, whichever way the limit goes.
fn v1_memory(memory: Option<u64>) -> Vec<Setting> {
    let set = |file, value: Option<u64>, optional| Setting {
        file,
        write: value.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string()),
        expect: value.map_or(Expect::Nothing, Expect::Bytes),
        optional,
    };
    vec![
        set("memory.memsw.limit_in_bytes", None, true),
        set("memory.limit_in_bytes", memory, false),
        set("memory.memsw.limit_in_bytes", memory, true),
    ]
}

/// The limit is on memory alone there: none may be swapped out then.
fn v2_memory(memory: Option<u64>) -> Vec<Setting> {
    let set = |file, value: Option<u64>, optional| Setting {
        file,
        write: value.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string()),
        expect: value.map_or(Expect::Nothing, Expect::Bytes),
        optional,
    };
    vec![set("memory.max", memory, false), set("memory.swap.max", memory.map(|_| 0), true)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(version: Version, controller: Controller, limits: &Limits) -> Vec<(&'static str, String)> {
        settings(version, controller, limits).into_iter().map(|it| (it.file, it.write)).collect()
    }

    #[test]
    fn each_limit_has_its_file_in_each_version() {
        let limits = Limits::new().milli_cpus(1500).memory(64 << 20).pids(7);
        let of = |version, controller| written(version, controller, &limits);
        assert_eq!(of(Version::V2, Controller::Cpu), [("cpu.max", "150000 100000".to_owned())]);
        assert_eq!(of(Version::V1, Controller::Cpu)[1], ("cpu.cfs_quota_us", "150000".to_owned()));
        let memory = of(Version::V2, Controller::Memory);
        assert_eq!(memory, [("memory.max", "67108864".to_owned()), ("memory.swap.max", "0".to_owned())]);
        let order: Vec<_> = of(Version::V1, Controller::Memory).into_iter().map(|(_, value)| value).collect();
        assert_eq!(order, ["-1", "67108864", "67108864"]);
        assert_eq!(of(Version::V1, Controller::Pids), of(Version::V2, Controller::Pids));
    }

    #[test]
    fn no_limit_is_written_too_so_that_one_can_be_taken_away() {
        let none = Limits::new();
        assert_eq!(written(Version::V2, Controller::Cpu, &none)[0].1, "max 100000");
        assert_eq!(written(Version::V1, Controller::Cpu, &none)[1].1, "-1");
        assert_eq!(written(Version::V2, Controller::Pids, &none)[0].1, "max");
        assert!(written(Version::V1, Controller::Memory, &none).iter().all(|(_, value)| value == "-1"));
    }

    #[test]
    fn what_reads_back_differently_is_noticed() {
        assert!(Expect::Bytes(10_000).is_met("8192", 4096) && !Expect::Bytes(10_000).is_met("10000", 4096));
        assert!(!Expect::Bytes(4096).is_met("max", 4096));
        assert!(Expect::Nothing.is_met("max", 4096) && Expect::Nothing.is_met("9223372036854771712", 4096));
        assert!(!Expect::Nothing.is_met("4096", 4096));
        assert!(!Expect::Words("7".into()).is_met("max", 4096));
        let dir = tempfile::tempdir().unwrap();
        let error = apply(dir.path(), &Setting { write: "5".into(), ..exact("pids.max", "6".into()) });
        assert!(matches!(error, Err(CgroupError::NotTaken { found, .. }) if found == "5"));
        let missing = Setting { optional: true, ..exact("no/such", "1".into()) };
        apply(dir.path(), &missing).unwrap();
    }
}
