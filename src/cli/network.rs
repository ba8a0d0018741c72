//! `network`: what the proxy of a vessel has denied.
#![forbid(unsafe_code)]

use clap::{Args, Subcommand};
use time::OffsetDateTime;

use super::tables::{Table, ago};
use super::values::printable;
use super::{Context, Outcome};

/// Verbs about the network of a vessel.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show connections that were denied because their destination is not allowed
    Log(Log),
}

/// Arguments of `network log`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The oldest comes first. The log is kept with the vessel and bounded: what is too old is dropped, and of more than a hundred
in a second only the number is kept (OMITTED).

Examples:
  vesselrt network log build
  vesselrt network log build --json")]
pub(super) struct Log {
    /// Id of the vessel
    id: String,
}

pub(super) async fn run(verb: Verb, context: &Context) -> Outcome {
    let Verb::Log(args) = verb;
    let denied = context.manager().await?.denied_connections(&args.id).await?;
    if context.json {
        return context.print_json(&denied);
    }
    let now = OffsetDateTime::now_utc();
    let mut table = Table::new(&["WHEN", "HOST", "PORT", "VIA", "OMITTED", "REASON"]);
    for entry in &denied {
        table.row([
            ago(entry.time, now),
            printable(entry.host.as_bytes()),
            entry.port.to_string(),
            printable(entry.via.as_bytes()),
            entry.omitted.to_string(),
            printable(entry.reason.as_bytes()),
        ]);
    }
    context.print(&table.render())
}
