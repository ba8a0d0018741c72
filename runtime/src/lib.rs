//! Linux mechanism of vesselrt: user namespaces, the shim, overlay mounts, layers, containers, fd-anchored files.
//!
//! `unsafe` is allowed in one file, `sys.rs`.

pub mod doctor;
pub mod files;
pub mod layer;
pub mod root;
pub mod seccomp;
pub mod shim;
pub mod spec;
pub mod subid;
pub mod user;
