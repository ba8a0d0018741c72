//! The `vesselrt` binary.
#![forbid(unsafe_code)]
fn main() {}
