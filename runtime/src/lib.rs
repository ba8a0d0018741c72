//! Linux mechanism of vesselrt: user namespaces, the shim, overlay mounts, layers, containers, fd-anchored files.
//!
//! `unsafe` is allowed in one file, `sys.rs`.

pub mod cgroup;
pub mod diff;
pub mod doctor;
mod entry;
pub mod files;
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod idmap;
pub mod launch;
pub mod layer;
pub mod log;
mod overlay;
pub mod process;
pub mod root;
pub mod seccomp;
pub mod settings;
pub mod shim;
pub mod spec;
pub mod subid;
mod sys;
pub mod user;
pub mod worker;

pub use entry::{detach, init};
