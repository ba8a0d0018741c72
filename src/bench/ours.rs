//! How vesselrt does what is measured.
#![forbid(unsafe_code)]

pub(super) mod archive;
pub(super) mod commands;
pub(super) mod diff;
pub(super) mod fork;
pub(super) mod import;
pub(super) mod restore;
pub(super) mod snapshot;
