//! `update`: other limits for a vessel, running or not.
#![forbid(unsafe_code)]

use std::time::Duration;

use clap::{ArgGroup, Args};
use serde_json::json;
use vesselrt::settings::Limits;
use vesselrt::{Enforcement, LimitsStatus};

use super::create::limits::{self, Asked};
use super::tables::Table;
use super::{Context, Outcome, values};

const EXAMPLES: &str = "\
What runs is limited at once. A limit that is not named stays, `none` takes one away. With less memory than is in use, \
processes are killed (control groups v2), or the limit is refused (v1).

Examples:
  vesselrt update ID --memory 1g --cpus 2
  vesselrt update ID --pids none";

/// Arguments of `update`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, group = ArgGroup::new("what").required(true).multiple(true))]
pub(super) struct Update {
    /// Processors that may be used, such as 1.5
    #[arg(long, value_name = "N|none", group = "what", value_parser = |text: &str| limits::or_none(text, limits::cpus))]
    cpus: Option<Asked<u32>>,
    /// Memory that may be used, such as 512m, 2g
    #[arg(long, value_name = "SIZE|none", group = "what", value_parser = |text: &str| limits::or_none(text, limits::bytes))]
    memory: Option<Asked<u64>>,
    /// Processes and threads that there may be
    #[arg(long, value_name = "N|none", group = "what", value_parser = |text: &str| limits::or_none(text, count))]
    pids: Option<Asked<u32>>,
    /// What may be written, such as 2g
    #[arg(long, value_name = "SIZE|none", group = "what", value_parser = |text: &str| limits::or_none(text, limits::bytes))]
    disk: Option<Asked<u64>>,
    /// Files that each process may have open, of commands that begin from now on
    #[arg(long, value_name = "N|none", group = "what", value_parser = |text: &str| limits::or_none(text, count))]
    nofile: Option<Asked<u32>>,
    /// How long a command may take that has no --timeout of its own
    #[arg(long, value_name = "TIME|none", group = "what", value_parser = |text: &str| limits::or_none(text, values::duration))]
    timeout: Option<Asked<Duration>>,
    /// Whether what holds for single processes will do where control groups cannot be had
    #[arg(long, value_name = "BOOL", group = "what", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    best_effort: Option<bool>,
    /// Id of the vessel
    id: String,
}

fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

impl Update {
    fn change(&self, limits: &mut Limits) {
        let wide = |asked: Option<Asked<u32>>| match asked? {
            Asked::Set(value) => Some(Asked::Set(u64::from(value))),
            Asked::Nothing => Some(Asked::Nothing),
        };
        let millis = |asked: Option<Asked<Duration>>| match asked? {
            Asked::Set(time) => Some(Asked::Set(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))),
            Asked::Nothing => Some(Asked::Nothing),
        };
        Asked::change(self.cpus, &mut limits.milli_cpus);
        Asked::change(self.memory, &mut limits.memory);
        Asked::change(self.pids, &mut limits.pids);
        Asked::change(self.disk, &mut limits.disk);
        Asked::change(wide(self.nofile), &mut limits.nofile);
        Asked::change(millis(self.timeout), &mut limits.timeout_ms);
        limits.best_effort = self.best_effort.unwrap_or(limits.best_effort);
    }
}

pub(super) async fn update(args: Update, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let id = args.id.clone();
    let status = manager.update_vessel(&id, move |limits| args.change(limits)).await?;
    if status.enforcement == Enforcement::BestEffort {
        context.warn(
            "there are no control groups here: the limits hold for single processes only (best effort)",
        );
    }
    match context.json {
        true => context.print_json(&to_json(&status)),
        false => context.print(&table(&status).render()),
    }
}

/// What `inspect` and `update` show of them.
pub(super) fn to_json(status: &LimitsStatus) -> serde_json::Value {
    json!({ "limits": limits::to_json(&status.limits), "enforcement": status.enforcement.as_str() })
}

fn table(status: &LimitsStatus) -> Table {
    let mut table = Table::bare();
    rows(status, &mut table);
    table
}

/// A row for each limit, and one for what they hold by.
pub(super) fn rows(status: &LimitsStatus, table: &mut Table) {
    for (name, value) in limits::listed(&status.limits) {
        table.row([name, &value]);
    }
    if status.enforcement != Enforcement::None {
        table.row(["enforcement", status.enforcement.as_str()]);
    }
}
