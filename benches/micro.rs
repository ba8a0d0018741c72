//! Micro-benchmarks of the parts that everything else is made of: `cargo bench --bench micro [-- FILTER]`.
//!
//! `vesselrt bench` measures whole operations on real vessels; what it shows to be slow is looked at here. Trees and archives
//! are small enough to stay in the page cache.
#![forbid(unsafe_code)]
// A benchmark that cannot be prepared has nothing to say but why.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "micro/layers.rs"]
mod layers;
#[path = "micro/records.rs"]
mod records;

fn main() {
    divan::main();
}
