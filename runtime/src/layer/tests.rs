//! Tests of whole archives and whole trees.
#![forbid(unsafe_code)]

mod finding;
mod hostile;
mod incoming;
mod interop;
mod limits;
mod listing;
mod merging;
mod mutation;
mod overlay;
mod pipelines;
mod roundtrip;
