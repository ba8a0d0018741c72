//! The integration tests: they drive the library and the built command line on real vessels.
//!
//! They run as root and as an unprivileged user, in parallel, under `cargo test` and `cargo nextest`. What a machine lacks is
//! skipped with a line on standard error, or is a failure when `VESSELRT_TEST_REQUIRE` is set ([`testkit::caps`]).
//!
//! | variable | meaning |
//! |---|---|
//! | `VESSELRT_TEST_BIN` | the `vesselrt` to test; default: the one Cargo built |
//! | `VESSELRT_TEST_DIR` | where stores are made; default: the temporary directory of the system |
//! | `VESSELRT_TEST_REQUIRE` | skipping is failing |
//! | `VESSELRT_TEST_DEBIAN` | a tar of a Debian root file system; default: made once by mmdebstrap |
//! | `VESSELRT_TEST_KERNEL` | a directory made by `fixtures/kernel.sh`; default: made once with apt |
//! | `VESSELRT_TEST_DEBIAN_NET` | the same with curl, Python, Node.js, vim, top and less |
//! | `VESSELRT_TEST_LANGUAGES` | a tar made by `fixtures/languages.sh scripts`; default: the one in /tmp, if there is one |
//! | `VESSELRT_TEST_SDK` | a virtual environment of Python with shipyard-python-sdk 0.2.4 |
//! | `VESSELRT_TEST_WRITE_DOCS` | what tests know better is written into the documents |
//! | `VESSELRT_TEST_SEED` | seed of the tests with random moments, printed when they fail |
#![forbid(unsafe_code)]
// A test says by panicking that something is not as it must be.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

mod bad_input;
mod bench;
mod cli;
mod cli_cp;
mod cli_exec;
mod demo;
mod doctor;
mod escape;
mod hostile;
mod images;
mod shell;
mod testkit;

mod blocking;
mod commit;
mod concurrency;
mod crash;
mod diff;
mod exec;
mod faults;
mod files;
mod forks;
mod full;
mod interactive;
mod lifecycle;
mod limits;
mod mounts;
mod network;
mod paths;
mod persistence;
mod processes;
mod projects;
mod property;
mod registry;
mod save;
mod security_doc;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod ship;
mod snapshot_files;
mod snapshots;
mod storage;
mod terminal;
#[cfg(feature = "vm")]
mod vm;
