//! `vm create`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Args;
use time::format_description::well_known::Rfc3339;
use vesselrt::vm::{VmCreateOptions, VmRecord};

use super::Session;
use super::log::{Fields, fields};
use crate::cli::{Failure, Outcome};

/// What a machine is made from.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Machine {
    /// Reference of the image [default: python:3.11-slim, node:20-slim, ruby:3.2-slim, golang:1.22-bookworm]
    #[arg(long, value_name = "IMAGE", default_value = "", hide_default_value = true)]
    image: String,
    /// Processors that it may use
    #[arg(long, value_name = "N", default_value_t = 1, allow_hyphen_values = true)]
    cpu: i64,
    /// Memory that it may use, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, allow_hyphen_values = true)]
    mem: i64,
    /// What it can reach: none, allow_all
    #[arg(long, value_name = "POLICY", default_value = "none")]
    network: String,
    /// Give it /persist, which outlives its root file system
    #[arg(long)]
    persist: bool,
    /// Where control groups cannot be had, take what holds for single processes instead of an error
    #[arg(long)]
    best_effort: bool,
}

/// Arguments of `vm create`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
With --quiet the id alone is printed, with --json the record. A limit that this host cannot enforce is refused, unless \
--best-effort is given: see `vesselrt doctor`.

Examples:
  vesselrt vm create --language python
  vesselrt vm create --language node --cpu 2 --mem 1024 --network allow_all --persist
  vesselrt vm create --language python --image my/tools:1 --adopt python-1700000000000000000")]
pub(super) struct Create {
    /// python, javascript, node, ruby or golang; any other needs --image
    #[arg(long, value_name = "LANGUAGE", default_value = "", hide_default_value = true)]
    language: String,
    #[command(flatten)]
    machine: Machine,
    /// Take over, as /persist, the volume that `vm clean --keep-persist` kept of this machine
    #[arg(long, value_name = "ID")]
    adopt: Option<String>,
}

impl Machine {
    /// As the library takes them; of an option that makes no sense the original's message.
    pub(super) fn options(self, language: &str) -> Outcome<VmCreateOptions> {
        let more = |value: i64, name: &str| match u32::try_from(value) {
            Ok(value) if value > 0 => Ok(value),
            Err(_) if value > 0 => Err(Failure::invalid(format!("{name} is more than there can be"))),
            _ => Err(Failure::invalid(format!("{name} must be greater than zero"))),
        };
        let options = VmCreateOptions::new(language)
            .image(self.image)
            .cpu_count(more(self.cpu, "cpu")?)
            .memory_mib(more(self.mem, "mem")?.into())
            .network(self.network.parse()?);
        Ok(options.persist(self.persist).best_effort(self.best_effort))
    }
}

pub(super) async fn create(args: Create, session: &Session<'_>) -> Outcome<ExitCode> {
    if args.language.trim().is_empty() {
        return Err(Failure::invalid("--language is required"));
    }
    let mut options = args.machine.options(&args.language)?;
    options.adopt = args.adopt;
    let record = session.service.create(options).await?;
    if session.context.json {
        session.context.print_json(&record)?;
    } else if session.context.quiet {
        session.context.print_line(&record.id)?;
    } else {
        session.log.info("vm created", created(&record));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a line about a new machine says.
pub(super) fn created(record: &VmRecord) -> Fields {
    fields! {
        "id": record.id,
        "language": record.language,
        "rootfs": record.rootfs_image,
        "cpu_count": record.cpu_count,
        "memoryMiB": record.memory_mib,
        "network": record.network_mode.as_str(),
        "persisted": record.persist,
        "created_at": record.created_at.format(&Rfc3339).unwrap_or_default(),
    }
}
