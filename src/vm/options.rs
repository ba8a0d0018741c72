//! What a service and its machines are made from.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use super::record::NetworkPolicy;
use super::state_dir::{default_state_dir, guest_volumes_enabled};

/// What a [`VmService`](super::VmService) is built from. The setters return the changed value, to be chained.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VmServiceConfig {
    /// Where the state is, made if missing.
    pub state_dir: PathBuf,
    /// `/in` and `/out` of machines are directories of this host.
    pub guest_volumes: bool,
    /// How long a machine stays up after a command, so that the next one is fast.
    pub idle: Duration,
}

impl Default for VmServiceConfig {
    /// What the environment says: [`default_state_dir`], [`guest_volumes_enabled`].
    fn default() -> Self {
        Self::new(default_state_dir()).guest_volumes(guest_volumes_enabled())
    }
}

impl VmServiceConfig {
    /// Machines with their state in `state_dir`, whatever the environment says.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { state_dir: state_dir.into(), guest_volumes: false, idle: Duration::from_secs(60) }
    }

    /// Sets whether `/in` and `/out` are directories of this host.
    #[must_use]
    pub fn guest_volumes(mut self, shared: bool) -> Self {
        self.guest_volumes = shared;
        self
    }

    /// Sets how long a machine stays up after a command.
    #[must_use]
    pub fn idle(mut self, time: Duration) -> Self {
        self.idle = time;
        self
    }
}

/// What a machine is made from. The setters return the changed value, to be chained.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmCreateOptions {
    /// The language.
    pub language: String,
    /// Reference of the image; empty: that of the language.
    pub image: String,
    /// Processors that it may use. Default: 1.
    pub cpu_count: u32,
    /// Memory that it may use, in MiB. Default: 256.
    pub memory_mib: u64,
    /// What it can reach. Default: nothing.
    pub network: NetworkPolicy,
    /// It has `/persist`, which outlives its root file system.
    pub persist: bool,
    /// The id of a machine whose volume was kept: it becomes `/persist` of this one.
    pub adopt: Option<String>,
    /// Where limits cannot be enforced, take what holds for single processes instead of an error.
    pub best_effort: bool,
}

impl VmCreateOptions {
    /// A machine for a language, with the defaults.
    #[must_use]
    pub fn new(language: impl Into<String>) -> Self {
        Self {
            language: language.into(),
            image: String::new(),
            cpu_count: 1,
            memory_mib: 256,
            network: NetworkPolicy::None,
            persist: false,
            adopt: None,
            best_effort: false,
        }
    }

    /// Sets the image.
    #[must_use]
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.image = image.into();
        self
    }

    /// Sets how many processors it may use.
    #[must_use]
    pub fn cpu_count(mut self, count: u32) -> Self {
        self.cpu_count = count;
        self
    }

    /// Sets how much memory it may use, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Sets what it can reach.
    #[must_use]
    pub fn network(mut self, policy: NetworkPolicy) -> Self {
        self.network = policy;
        self
    }

    /// Sets whether it has `/persist`.
    #[must_use]
    pub fn persist(mut self, persist: bool) -> Self {
        self.persist = persist;
        self
    }

    /// Takes over the volume that was kept of another machine.
    #[must_use]
    pub fn adopt(mut self, id: impl Into<String>) -> Self {
        self.adopt = Some(id.into());
        self
    }

    /// Sets whether limits that cannot be enforced are taken as well as they can be.
    #[must_use]
    pub fn best_effort(mut self, best_effort: bool) -> Self {
        self.best_effort = best_effort;
        self
    }
}
