//! What the service tells while it runs: lines on standard error, as text or as JSON.
#![forbid(unsafe_code)]

use clap::ValueEnum;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Failure, Outcome};

/// How it is written.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Text,
    /// One object a line
    Json,
}

/// Begins to write.
///
/// # Errors
/// When something else in this process has begun already.
pub(super) fn begin(format: Format, more: bool, less: bool) -> Outcome {
    let level = match (more, less) {
        (_, true) => LevelFilter::WARN,
        (true, _) => LevelFilter::DEBUG,
        _ => LevelFilter::INFO,
    };
    let lines =
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    let begun = match format {
        Format::Text => lines.with_ansi(false).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    begun.map_err(|e| Failure::internal(format!("failed to begin the log: {e}")))
}
