//! How much of the machine the commands of a vessel may use.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The least memory a group of processes can begin with.
pub const LEAST_MEMORY: u64 = 4 << 20;
/// The least share of a processor that the kernel takes: 1 ms in 100 ms (`MIN_CFS_QUOTA_PERIOD`, kernel/sched/core.c).
pub const LEAST_MILLI_CPUS: u32 = 10;
/// Standard streams, and what a loader opens.
const LEAST_FILES: u64 = 8;

/// How much of the machine the commands of a vessel may use; without any, as much as its owner. The setters return the
/// changed value, to be chained.
///
/// `cpus`, `memory` and `pids` are enforced by control groups and hold for all commands of a vessel together. A host on
/// which they cannot be set refuses them, unless [`best_effort`](Self::best_effort) is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Processor time, in thousandths of a processor: 1500 is one and a half.
    pub milli_cpus: Option<u32>,
    /// Memory with what is swapped out, in bytes.
    pub memory: Option<u64>,
    /// Processes and threads, the container's own init among them.
    pub pids: Option<u32>,
    /// What the writable layer may take on disk, in bytes. It is looked at a few times a second while commands run; when
    /// there is more, they are killed.
    pub disk: Option<u64>,
    /// Open files of each process (`RLIMIT_NOFILE`).
    pub nofile: Option<u64>,
    /// How long a command may take, in milliseconds, unless it has a time of its own.
    pub timeout_ms: Option<u64>,
    /// Where control groups cannot be had, `memory` limits the address space of each process (`RLIMIT_AS`), `pids` the
    /// processes of each user (`RLIMIT_NPROC`), and `cpus` the processors that are run on, rounded up (sched_setaffinity(2)),
    /// none of which keeps a hostile command from using more.
    pub best_effort: bool,
}

/// A limit that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} of {value} is too little: at least {least}")]
pub struct LimitError {
    /// Which one, as on the command line.
    pub name: &'static str,
    /// What was asked for.
    pub value: u64,
    /// The least that can be.
    pub least: u64,
}

impl Limits {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits processor time, in thousandths of a processor.
    #[must_use]
    pub fn milli_cpus(mut self, thousandths: u32) -> Self {
        self.milli_cpus = Some(thousandths);
        self
    }

    /// Limits memory, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Limits processes and threads.
    #[must_use]
    pub fn pids(mut self, count: u32) -> Self {
        self.pids = Some(count);
        self
    }

    /// Limits what is written, in bytes.
    #[must_use]
    pub fn disk(mut self, bytes: u64) -> Self {
        self.disk = Some(bytes);
        self
    }

    /// Limits the open files of each process.
    #[must_use]
    pub fn nofile(mut self, count: u64) -> Self {
        self.nofile = Some(count);
        self
    }

    /// Limits how long a command may take that has no time of its own.
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout_ms = Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Sets whether weaker means will do where control groups cannot be had.
    #[must_use]
    pub fn best_effort(mut self, best_effort: bool) -> Self {
        self.best_effort = best_effort;
        self
    }

    /// Whether any of them needs a control group.
    #[must_use]
    pub fn need_group(&self) -> bool {
        self.milli_cpus.is_some() || self.memory.is_some() || self.pids.is_some()
    }

    /// Refuses what could not be meant.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn check(&self) -> Result<(), LimitError> {
        let checks = [
            ("cpus (in thousandths)", self.milli_cpus.map(u64::from), u64::from(LEAST_MILLI_CPUS)),
            ("memory", self.memory, LEAST_MEMORY),
            ("pids", self.pids.map(u64::from), 1),
            ("disk", self.disk, 1),
            ("nofile", self.nofile, LEAST_FILES),
            ("timeout", self.timeout_ms, 1),
        ];
        for (name, value, least) in checks {
            if let Some(value) = value.filter(|value| *value < least) {
                return Err(LimitError { name, value, least });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_of_anything_is_refused() {
        let good = Limits::new().milli_cpus(10).memory(LEAST_MEMORY).pids(1).disk(1).nofile(8);
        good.check().unwrap();
        for bad in [
            Limits::new().milli_cpus(9),
            Limits::new().memory(LEAST_MEMORY - 1),
            Limits::new().pids(0),
            Limits::new().disk(0),
            Limits::new().nofile(7),
            Limits::new().timeout(Duration::ZERO),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_processes_share_needs_a_group() {
        assert!(!Limits::new().disk(1).nofile(9).timeout(Duration::from_secs(1)).need_group());
        for limits in [Limits::new().milli_cpus(10), Limits::new().memory(1), Limits::new().pids(1)] {
            assert!(limits.need_group(), "{limits:?}");
        }
    }
}
