//! Linux mechanism of vesselrt: user namespaces, the shim, overlay mounts, layers, containers, fd-anchored files.
//!
//! `unsafe` is allowed in one file, `sys.rs`.

pub mod idmap;
pub mod launch;
pub mod layer;
pub mod root;
pub mod shim;
pub mod worker;

/// Becomes a shim or a worker when this process was started as one, and then does not return; otherwise returns at
/// once and remembers that it was called. Must be the first line of `main`, before any thread exists.
pub fn init() {}
