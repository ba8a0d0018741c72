//! [`Settings`]: what a vessel's commands may use of the host, besides the layers: resources, network, files.
//!
//! Chosen when a vessel is made, kept in its local state and never in a manifest: a manifest may come from another
//! machine, and must not be able to give a vessel anything of this one.
#![forbid(unsafe_code)]

mod limits;
mod mounts;
pub mod network;
mod size;

use serde::{Deserialize, Serialize};

pub use limits::{LEAST_MEMORY, LEAST_MILLI_CPUS, LimitError, Limits};
pub(crate) use mounts::reserved;
pub use mounts::{MAX_MOUNTS, Mount, MountError, MountSource, check_mounts, check_volume_name};
pub use network::{Network, NetworkError, NetworkMode};
pub use size::parse_bytes;

/// What a vessel's commands may use of the host. The default is what a vessel gets that asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How much of the machine they may use.
    pub limits: Limits,
    /// What they can reach.
    pub network: Network,
    /// What is mounted besides the layers, in this order.
    pub mounts: Vec<Mount>,
}
