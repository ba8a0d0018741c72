//! A vessel full of traps: nothing that is done to it from outside, and nothing it does, touches the host.
#![forbid(unsafe_code)]

mod images;
mod kernel;
mod paths;
mod processes;
mod race;
