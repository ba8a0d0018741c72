//! `vm shell`.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use vesselrt::{ErrorKind, ExecOptions, Vessel};

use super::log::fields;
use super::{FAILED, Session, must_be_up};
use crate::cli::exec::{self, Prepared};
use crate::cli::{Failure, Interrupts, Outcome};

/// What is opened in an image that has it.
const BASH: &str = "/bin/bash";
const SH: &str = "/bin/sh";

/// Arguments of `vm shell`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
It has a terminal if we have one, and reads what we are given otherwise. Any exit code but 0 makes it 1, unless --exit-code is \
given.")]
pub(super) struct Shell {
    /// Id of the machine
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    vm: String,
    /// The program, and its arguments as words [default: /bin/bash, or /bin/sh where there is none]
    #[arg(long, value_name = "CMD")]
    cmd: Option<String>,
    /// Exit as the shell does
    #[arg(long)]
    exit_code: bool,
}

pub(super) async fn shell(args: Shell, session: &Session<'_>) -> Outcome<ExitCode> {
    if args.vm.is_empty() {
        return Err(Failure::invalid("--vm is required"));
    }
    let record = session.service.get(&args.vm).await?;
    must_be_up(&record)?;
    let (vessel, record) = session.service.up(record).await?;
    let mut interrupts = Interrupts::new()?;
    let ran = async {
        let command = command(args.cmd.as_deref(), &vessel).await?;
        let shown = command.join(" ");
        session.log.info("vm shell", fields! {"vm": record.id, "language": record.language, "shell": shown});
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let argv = command.into_iter().map(OsString::from);
        let options = ExecOptions::new(argv).user("0").persist_result(true);
        exec::drive(&vessel, options, &Prepared::joined(terminal), &mut interrupts).await
    };
    let ran = ran.await;
    session.rest(&vessel).await?;
    let code = ran?.code();
    if args.exit_code || code == 0 {
        session.log.info("vm shell completed", fields! {"vm": record.id, "exit_code": code});
        return Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
    }
    session.log.error("vm shell failed", fields! {"vm": record.id, "exit_code": code});
    Err(Failure::conflict(format!("shell command exited with code {code}")).with_code(FAILED))
}

async fn command(asked: Option<&str>, vessel: &Vessel) -> Outcome<Vec<String>> {
    if let Some(asked) = asked {
        return Ok(asked.split_whitespace().map(str::to_owned).collect());
    }
    match vessel.stat(BASH).await {
        Ok(_) => Ok(vec![BASH.to_owned()]),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(vec![SH.to_owned()]),
        Err(e) => Err(e.into()),
    }
}
