//! The shim: one process per open vessel that owns its namespaces, mounts and commands.
//!
//! [`protocol`] is what is said, [`wire`] how, [`client`] the one end, `server` the other.
#![forbid(unsafe_code)]

mod berths;
pub mod client;
mod commands;
mod container_init;
pub(crate) mod fault;
mod freeze;
mod gateway;
mod house;
mod hull;
pub(crate) mod jobs;
mod keel;
mod limits;
mod logger;
mod loopback;
mod mounted;
pub mod protocol;
pub(crate) mod server;
pub mod wire;
