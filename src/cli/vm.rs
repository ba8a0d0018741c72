//! `vm …`: machines by language.
//!
//! Any error ends with 1, as in the original, and with a line in the log.
#![forbid(unsafe_code)]

mod create;
mod exec;
mod list;
mod log;
mod output;
mod run;
mod script;
mod shell;
mod stop;
mod temp;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use vesselrt::Vessel;
use vesselrt::vm::{VmRecord, VmService, VmServiceConfig};

use super::{Context, Failure, Outcome, values};
use log::{Fields, Format, Level, Log, fields};

/// The exit code of any error.
pub(super) const FAILED: u8 = 1;
const HEADING: &str = "Options of all vm verbs";

const EXAMPLES: &str = "\
Each machine is a vessel with limits and a network of its own. Its root file system is thrown away by `stop` and made anew by \
the next `run`; /persist stays. State is in AGENT_STATE_DIR, or the first of these that can be had: /var/lib/agent, \
$XDG_CONFIG_HOME/agent (~/.config/agent), ~/.agent, agent in the temporary directory. With AGENT_ENABLE_GUEST_VOLUMES=1 /in and \
/out are directories of this host.

Examples:
  vesselrt vm create --language python --mem 512 --persist
  vesselrt vm run --vm ID --cmd 'pip --version' --timeout 60
  vesselrt vm exec --hello --all
  vesselrt vm temp --language ruby --cmd 'ruby -v' --exit-code
  vesselrt vm stop --all";

/// Arguments of `vm`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Vm {
    /// Least level of what is logged: debug, info, warn, error; anything else is info
    #[arg(help_heading = HEADING, long, global = true, value_name = "LEVEL", env = "AGENT_LOG_LEVEL", hide_env_values = true, default_value = "info")]
    log_level: String,
    /// Append what is logged to a file, too
    #[arg(help_heading = HEADING, long, global = true, value_name = "FILE", env = "AGENT_LOG_FILE", hide_env_values = true)]
    log_file: Option<OsString>,
    /// How it is logged
    #[arg(help_heading = HEADING, long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    log_format: Format,
    /// What ran machines before; there is one kind only
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "NAME",
        env = "AGENT_VM_RUNTIME",
        hide_env_values = true
    )]
    vm_runtime: Option<OsString>,
    /// How long a machine stays up after a command for the next one, such as 10s; 0 is not at all
    #[arg(help_heading = HEADING, long, global = true, value_name = "TIME", env = "VESSELRT_IDLE", hide_env_values = true, default_value = "60s", value_parser = values::idle)]
    idle: Duration,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a machine
    Create(create::Create),
    /// Run a command in a machine, which is made up again if it was stopped
    Run(run::Run),
    /// Run a command in machines that are up, side by side
    Exec(exec::Exec),
    /// List machines
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Stop machines: their root file systems are thrown away
    Stop(stop::Stop),
    /// Remove machines with all that they have
    Clean(stop::Clean),
    /// Open a shell in a machine that is up
    Shell(shell::Shell),
    /// Make a machine for one command, run it, and remove the machine
    Temp(temp::Temp),
}

/// What every verb gets.
struct Session<'a> {
    service: VmService,
    log: &'a Log,
    context: &'a Context,
}

pub(super) async fn run(args: Vm, context: &Context) -> Outcome<ExitCode> {
    let file = args.log_file.filter(|file| !file.is_empty()).map(PathBuf::from);
    let level = if context.quiet { Level::Error } else { Level::parse(&args.log_level) };
    let log = Log::open(level, args.log_format, file.as_deref()).map_err(|e| e.with_code(FAILED))?;
    if let Some(runtime) = args.vm_runtime.filter(|name| name != "vesselrt" && !name.is_empty()) {
        context.note(&format!("machines run on vesselrt, not on {}", runtime.to_string_lossy()));
    }
    match dispatch(args.verb, args.idle, &log, context).await {
        // As a document.
        Err(failure) if context.json || failure.is_quiet() => Err(failure.with_code(FAILED)),
        Err(failure) => {
            log.error("command failed", failed(&failure));
            Ok(ExitCode::from(FAILED))
        }
        done => done,
    }
}

/// The last line of the log, which is all that is said of an error.
fn failed(failure: &Failure) -> Fields {
    let mut fields = fields! {"error": failure.message()};
    if let Some(remedy) = failure.remedy_text() {
        fields.insert("remedy".to_owned(), remedy.into());
    }
    fields
}

async fn dispatch(verb: Verb, idle: Duration, log: &Log, context: &Context) -> Outcome<ExitCode> {
    let config = VmServiceConfig::default().idle(idle);
    let service = VmService::new(config, context.manager().await?).await?;
    let session = Session { service, log, context };
    match verb {
        Verb::Create(args) => create::create(args, &session).await,
        Verb::Run(args) => run::run(args, &session).await,
        Verb::Exec(args) => exec::exec(args, &session).await,
        Verb::List(args) => list::list(&args, &session).await,
        Verb::Stop(args) => stop::stop(args, &session).await,
        Verb::Clean(args) => stop::clean(args, &session).await,
        Verb::Shell(args) => shell::shell(args, &session).await,
        Verb::Temp(args) => temp::temp(args, &session).await,
    }
}

impl Session<'_> {
    /// Closes the vessel of a machine, which may stay up for a while.
    async fn rest(&self, vessel: &Vessel) -> Outcome {
        Ok(self.service.rest(vessel).await?)
    }
}

/// Which machines a verb is about.
#[derive(Debug, Args)]
#[group(skip)]
struct Targets {
    /// Id of a machine; may be given again
    #[arg(long = "vm", value_name = "ID")]
    vms: Vec<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl Targets {
    fn check(&self) -> Outcome {
        match self.vms.is_empty() && !self.all {
            true => Err(Failure::invalid("specify at least one --vm or use --all")),
            false => Ok(()),
        }
    }
}

/// Whole seconds, more than none.
fn seconds(time: u64) -> Outcome<Duration> {
    match time {
        0 => Err(Failure::invalid("--timeout must be greater than zero")),
        time => Ok(Duration::from_secs(time)),
    }
}

/// The exit code of a command in a machine, as a shell has it.
fn code_of(exit_code: i32) -> ExitCode {
    match exit_code {
        // Its time was up.
        -1 => ExitCode::from(124),
        code => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
    }
}

/// Only what is up takes commands.
fn must_be_up(record: &VmRecord) -> Outcome {
    match record.status.is_up() {
        true => Ok(()),
        false => Err(Failure::conflict(format!("vm {} is not ready or running", record.id))),
    }
}
