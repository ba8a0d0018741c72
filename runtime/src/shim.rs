//! The shim: one process per open vessel that owns its namespaces, mounts and commands.
//!
//! [`protocol`] is what is said, [`wire`] how, [`client`] the one end, `server` the other.
#![forbid(unsafe_code)]

mod attach;
pub mod client;
mod commands;
mod container_init;
pub(crate) mod fault;
mod freeze;
mod gateway;
mod house;
pub(crate) mod jobs;
mod limits;
mod logger;
mod loopback;
mod mounted;
mod outer_init;
pub mod protocol;
mod sandbox;
pub(crate) mod server;
mod slots;
pub mod wire;
