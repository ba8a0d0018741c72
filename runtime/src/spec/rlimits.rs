//! Resource limits of a command: data, applied by whoever executes it.
#![forbid(unsafe_code)]

use rustix::process::{Resource, Rlimit};

/// A limit that a command gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultRlimit {
    /// Which one, setrlimit(2).
    pub resource: Resource,
    /// The limit that is enforced.
    pub soft: u64,
    /// How far the command may raise it.
    pub hard: u64,
}

impl DefaultRlimit {
    /// The values to set when the hard limit now is `hard` (`None`: unlimited): raising it would be EPERM without
    /// CAP_SYS_RESOURCE in the first user namespace.
    #[must_use]
    pub fn clamped(&self, hard: Option<u64>) -> Rlimit {
        let maximum = hard.map_or(self.hard, |now| now.min(self.hard));
        Rlimit { current: Some(self.soft.min(maximum)), maximum: Some(maximum) }
    }
}

/// Few file descriptors unless asked for (programs that close them one by one take long otherwise), and no core files,
/// which the host's core handler would see.
#[must_use]
pub fn default_rlimits() -> [DefaultRlimit; 2] {
    [
        DefaultRlimit { resource: Resource::Nofile, soft: 1024, hard: 1 << 20 },
        DefaultRlimit { resource: Resource::Core, soft: 0, hard: 0 },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_never_rise_above_the_hard_limit() {
        let [nofile, core] = default_rlimits();
        for (now, soft, hard) in [(None, 1024, 1 << 20), (Some(4096), 1024, 4096), (Some(512), 512, 512)] {
            assert_eq!(nofile.clamped(now), Rlimit { current: Some(soft), maximum: Some(hard) });
        }
        assert_eq!(core.clamped(Some(7)), Rlimit { current: Some(0), maximum: Some(0) });
    }
}
