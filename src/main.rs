//! The `vesselrt` binary: a thin face over the library. Everything it prints and every exit code is decided in [`cli`].
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, before any thread: this process may have been started to be a shim or a worker.
    vesselrt::init();
    cli::main()
}
