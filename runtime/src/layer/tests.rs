//! Tests of whole archives and whole trees.
#![forbid(unsafe_code)]

mod hostile;
mod listing;
mod roundtrip;
