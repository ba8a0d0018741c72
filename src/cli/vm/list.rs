//! `vm list`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Args;
use time::OffsetDateTime;
use vesselrt::vm::{VmRecord, VmStatus};

use super::Session;
use crate::cli::{Outcome, Table};

/// Arguments of `vm list`.
#[derive(Debug, Args)]
#[command(after_long_help = "With --quiet only the ids are printed, with --json the records.")]
pub(super) struct List {
    /// Only those that are: provisioning, ready, running, stopped
    #[arg(long, value_name = "STATUS", default_value = "", hide_default_value = true)]
    status: String,
    /// Those too that are stopped
    #[arg(long)]
    all: bool,
    /// The volumes that `vm clean --keep-persist` kept, instead
    #[arg(long, conflicts_with_all = ["status", "all"])]
    kept: bool,
}

pub(super) async fn list(args: &List, session: &Session<'_>) -> Outcome<ExitCode> {
    if args.kept {
        return kept(session).await;
    }
    let filter = args.status.trim().to_ascii_lowercase();
    let wanted = |record: &VmRecord| match filter.as_str() {
        "" => args.all || record.status != VmStatus::Stopped,
        filter => record.status.as_str() == filter,
    };
    let records: Vec<VmRecord> = session.service.list().await?.into_iter().filter(wanted).collect();
    if session.context.json {
        session.context.print_json(&records)?;
    } else if session.context.quiet {
        session.context.print_ids(&records.into_iter().map(|record| record.id).collect::<Vec<_>>())?;
    } else {
        session.context.print(&text(&records, &filter, args.all))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(records: &[VmRecord], filter: &str, all: bool) -> String {
    let hint = !all && filter.is_empty();
    if records.is_empty() {
        let status = if filter.is_empty() { String::new() } else { format!("Status filter: {filter}\n") };
        let hint = if hint { "(use --all to include stopped VMs)\n" } else { "" };
        return format!("No VMs found.\n{status}{hint}");
    }
    let mut table =
        Table::new(&["ID", "Language", "Status", "CPU", "Mem(MiB)", "Persist", "Created", "Last Run"]);
    for record in records {
        table.row([
            record.id.clone(),
            record.language.clone(),
            record.status.to_string(),
            record.cpu_count.to_string(),
            record.memory_mib.to_string(),
            if record.persist { "yes" } else { "no" }.to_owned(),
            local(record.created_at),
            record.last_run_at.map_or_else(|| "-".to_owned(), local),
        ]);
    }
    let status = if filter.is_empty() { String::new() } else { format!(" (status={filter})") };
    let hint = if hint { " (use --all to include stopped VMs)" } else { "" };
    format!("{}\nTotal: {}{status}{hint}\n", table.render(), records.len())
}

/// In the time zone of this host.
fn local(time: OffsetDateTime) -> String {
    chrono::DateTime::from_timestamp(time.unix_timestamp(), 0)
        .map(|time| time.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default()
}

async fn kept(session: &Session<'_>) -> Outcome<ExitCode> {
    let volumes = session.service.kept_volumes().await?;
    if session.context.json {
        session.context.print_json(&volumes)?;
    } else if session.context.quiet {
        session.context.print_ids(&volumes.into_iter().map(|volume| volume.id).collect::<Vec<_>>())?;
    } else {
        let mut table = Table::new(&["ID", "Language", "Kept", "Path"]);
        for volume in &volumes {
            let path = volume.path.to_string_lossy().into_owned();
            table.row([volume.id.clone(), volume.language.clone(), local(volume.kept_at), path]);
        }
        session.context.print(&table.render())?;
    }
    Ok(ExitCode::SUCCESS)
}
