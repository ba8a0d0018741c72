//! `vm temp`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Args;

use super::create::{Machine, created};
use super::log::fields;
use super::run::{ended, interruptibly};
use super::script::Script;
use super::{Session, seconds};
use crate::cli::{Failure, Interrupts, Outcome};

/// Arguments of `vm temp`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The machine is removed whatever comes of the command, with /persist if it has that.

Examples:
  vesselrt vm temp --cmd 'python3 -c \"print(6*7)\"'
  vesselrt vm temp --language golang --mem 1024 --cmd 'go version' --exit-code")]
pub(super) struct Temp {
    /// python, javascript, node, ruby or golang; any other needs --image
    #[arg(long, value_name = "LANGUAGE", default_value = "python")]
    language: String,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    script: Script,
    /// How many seconds it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

pub(super) async fn temp(args: Temp, session: &Session<'_>) -> Outcome<ExitCode> {
    args.script.check()?;
    let timeout = seconds(args.timeout)?;
    let options = args.machine.options(&args.language)?;
    let service = &session.service;
    // From here on a signal does not end us: the machine must be removed.
    let mut interrupts = Interrupts::new()?;
    let record = service.create(options).await?;
    if !session.context.json {
        let mut line = created(&record);
        line.remove("created_at");
        session.log.info("temporary vm created", line);
    }
    let options = args.script.on(&record.id).timeout(timeout);
    let told = async {
        let result = interruptibly(&mut interrupts, service.run(options)).await?;
        let error = session.tell("temporary vm execution completed", &record, &result)?;
        // Its files are removed with it.
        let document = session.context.json.then(|| session.json_of(&record, &result)).transpose()?;
        Ok::<_, Failure>((error, result, document))
    };
    let told = told.await;
    let cleaned = service.clean(&record.id, false).await;
    let (error, result, document) = told?;
    cleaned?;
    match document {
        Some(document) => session.context.print_json(&document)?,
        None => session.log.info("temporary vm cleaned up", fields! {"vm": record.id}),
    }
    ended(error, &[result], args.script.exit_code, session)
}
