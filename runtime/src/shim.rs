//! The shim: one process per open vessel that owns its namespaces, mounts and commands.
#![forbid(unsafe_code)]

pub mod client;
pub mod protocol;
pub mod wire;
