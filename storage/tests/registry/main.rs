//! Tests of the registry client against a hostile registry and a real one.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

mod bounded;
mod common;
mod hostile;
mod kill;
mod leads;
mod mock;
mod push;
mod real;
mod token;
