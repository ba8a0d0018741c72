//! Ships: vessels that several sessions share.
#![forbid(unsafe_code)]

pub mod ship;
