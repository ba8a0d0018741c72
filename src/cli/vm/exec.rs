//! `vm exec`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Args;
use vesselrt::vm::{RunOptions, RunResult, VmRecord};

use super::log::fields;
use super::run::{ended, interruptibly};
use super::script::Script;
use super::{Session, Targets, must_be_up, seconds};
use crate::cli::{Failure, Interrupts, Outcome};

/// Arguments of `vm exec`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The command runs in all of them at once. Each is told when it has ended: its line in the log, and what it wrote. Those that are \
not up are left out by --all, and an error by --vm.

Examples:
  vesselrt vm exec --hello --all
  vesselrt vm exec --vm ID1 --vm ID2 --cmd 'uname -a' --timeout 5")]
pub(super) struct Exec {
    #[command(flatten)]
    script: Script,
    /// Have the language of each machine say hello
    #[arg(long, conflicts_with = "cmd")]
    hello: bool,
    /// How many seconds it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
    #[command(flatten)]
    targets: Targets,
}

pub(super) async fn exec(args: Exec, session: &Session<'_>) -> Outcome<ExitCode> {
    if !args.hello {
        args.script.check().map_err(|failure| failure.remedy("or --hello"))?;
    }
    let timeout = seconds(args.timeout)?;
    args.targets.check()?;
    let records = targets(&args.targets, session).await?;
    let mut commands = Vec::with_capacity(records.len());
    for record in &records {
        let options = match args.hello {
            true => RunOptions::hello(&record.id, &record.language)?,
            false => args.script.on(&record.id),
        };
        commands.push((record.clone(), args.script.with(options).timeout(timeout).relaunch(false)));
    }
    let mut told =
        Told { records: &records, session, results: Vec::new(), errors: Vec::new(), documents: Vec::new() };
    let runs = session.service.run_many(commands, |place, result| told.hear(place, result));
    let all = async {
        runs.await;
        Ok(())
    };
    interruptibly(&mut Interrupts::new()?, all).await?;
    let Told { results, errors, documents, .. } = told;
    if session.context.json {
        session.context.print_json(&documents)?;
    }
    let error = (!errors.is_empty()).then(|| errors.join("\n"));
    ended(error, &results, args.script.exit_code, session)
}

/// Those that are up, each once.
async fn targets(targets: &Targets, session: &Session<'_>) -> Outcome<Vec<VmRecord>> {
    let all = session.service.candidates().await?;
    let mut found: Vec<VmRecord> = match targets.all {
        true => all.iter().filter(|record| record.status.is_up()).cloned().collect(),
        false => Vec::new(),
    };
    for id in &targets.vms {
        let record = all.iter().find(|record| record.id == *id);
        let record = record.ok_or_else(|| Failure::not_found(format!("vm not found: {id}")))?;
        must_be_up(record)?;
        if !found.iter().any(|other| other.id == *id) {
            found.push(record.clone());
        }
    }
    if found.is_empty() {
        return Err(Failure::not_found("no matching VMs available to execute command"));
    }
    Ok(found)
}

/// What was heard of the machines.
struct Told<'a> {
    records: &'a [VmRecord],
    session: &'a Session<'a>,
    results: Vec<RunResult>,
    errors: Vec<String>,
    documents: Vec<serde_json::Value>,
}

impl Told<'_> {
    fn hear(&mut self, place: usize, result: vesselrt::Result<RunResult>) {
        let Some(record) = self.records.get(place) else { return };
        let error = match result {
            Ok(result) => self.hear_end(record, result),
            Err(error) => {
                let message = error.chain();
                let line = fields! {"vm": record.id, "language": record.language, "error": message};
                self.session.log.error("vm exec failed", line);
                if self.session.context.json {
                    self.documents.push(serde_json::json!({"VM": record.id, "Error": message}));
                }
                Some(message)
            }
        };
        self.errors.extend(error.map(|error| format!("{}: {error}", record.id)));
    }

    fn hear_end(&mut self, record: &VmRecord, result: RunResult) -> Option<String> {
        let told = self.session.tell("vm exec", record, &result);
        if self.session.context.json {
            match self.session.json_of(record, &result) {
                Ok(document) => self.documents.push(document),
                Err(failure) => return Some(failure.message().to_owned()),
            }
        }
        self.results.push(result);
        // Where nobody reads what we print, the exit code is all that is left to tell it.
        told.unwrap_or_else(|failure| (!failure.is_quiet()).then(|| failure.message().to_owned()))
    }
}
