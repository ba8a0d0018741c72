//! `exec`: a command in a vessel that is there; what `exec` and `run` have in common.
#![forbid(unsafe_code)]

mod copied;
pub(super) mod detach;
mod drive;
mod interrupts;
mod quick;
mod streams;
pub(super) mod terminal;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueHint};
use vesselrt::ExecOptions;

use super::create::limits::CommandLimits;
use super::values::{self, Variable};
use super::{Context, Failure, Outcome};
pub(super) use drive::{Ended, drive};
pub(crate) use interrupts::Interrupts;
pub(super) use quick::attempt as attempt_quickly;

/// The largest environment file, in bytes: far above what execve(2) takes.
const MAX_ENV_FILE: u64 = 4 << 20;

const EXAMPLES: &str = "\
The command is executed as it is, without a shell. It reads nothing unless -i or -t is given. What it changes stays \
unless --ephemeral is given. SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to it; a second SIGINT kills it. Limits are those of this command alone: of them and those of the vessel the tighter \
ones count.

Exit codes: the command's own; 124 its time was up; 125 an error of vesselrt; 126 the command cannot be executed; 127 \
there is no such command; 128+n it was ended by signal n.

The vessel stays up for a while, so that the next command need not wait for it: see --idle and `vesselrt stop`. The variable \
VESSELRT_IDLE says how long, too.

With -d the command goes on in the background, and its id is printed: see `vesselrt ps`, logs, attach, kill and wait. -i then \
keeps its input open, -t gives it a terminal to attach to, and the vessel stays up until it ends.

Examples:
  vesselrt exec ID -- make -j4 test
  vesselrt exec ID -e CI=1 -e TOKEN --timeout 10m -- ./build.sh
  tar -c src | vesselrt exec ID -i -- tar -x
  vesselrt exec ID --memory 256m --pids 64 -- ./untrusted
  vesselrt exec ID -t -- sh
  proc=$(vesselrt exec -d ID -- ./server)";

/// Arguments of `exec`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, override_usage = "vesselrt exec [OPTIONS] <ID> -- <CMD>...")]
pub(super) struct Exec {
    /// Throw away what the command changes
    #[arg(long)]
    ephemeral: bool,
    /// Directory to run in; a relative one begins at the vessel's working directory, which is the default
    #[arg(short = 'w', long = "workdir", value_name = "DIR")]
    work_dir: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    limits: CommandLimits,
    #[command(flatten)]
    detach: detach::Flags,
    /// How long the vessel stays up after the command for the next one, such as 10s; 0 is not at all
    #[arg(long, value_name = "TIME", env = "VESSELRT_IDLE", hide_env_values = true, default_value = "60s", value_parser = values::idle)]
    idle: Duration,
    /// Id of the vessel
    id: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

#[cfg(test)]
impl Exec {
    /// The command as it was typed.
    pub(super) fn command(&self) -> &[OsString] {
        &self.command
    }
}

/// Flags of a command that runs.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Flags {
    /// Set a variable; KEY alone passes on the value it has here
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = OsStringValueParser::new().try_map(|text| Variable::parse(&text)))]
    env: Vec<Variable>,
    /// Set the variables of a file: KEY=VALUE or KEY a line, `#` begins a comment line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Who runs it: NAME, UID, NAME:GROUP or UID:GID [default: the image's user]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal, joined with this one
    #[arg(short, long)]
    terminal: bool,
    /// Kill it with all its processes when it takes longer, such as 500ms, 30s, 5m
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
}

/// What the flags come to: everything about a command but the command.
#[derive(Debug)]
pub(super) struct Prepared {
    variables: Vec<(OsString, OsString)>,
    user: Option<String>,
    timeout: Option<Duration>,
    interactive: bool,
    terminal: bool,
}

impl Flags {
    /// Reads what they name and refuses what cannot be.
    pub(super) fn prepare(self) -> Outcome<Prepared> {
        if self.terminal {
            terminal::check()?;
        }
        let joined = self.terminal;
        let mut prepared = self.prepare_apart()?;
        if joined && !prepared.variables.iter().any(|(key, _)| key == "TERM") {
            prepared.variables.extend(terminal::kind().map(|kind| ("TERM".into(), kind)));
        }
        Ok(prepared)
    }

    /// [`Self::prepare`] for a command that is not joined with our terminal.
    pub(super) fn prepare_apart(self) -> Outcome<Prepared> {
        let variables = self.variables()?.into_iter().filter_map(|v| v.resolve(|key| std::env::var_os(key)));
        Ok(Prepared {
            variables: variables.collect(),
            user: self.user,
            timeout: self.timeout,
            interactive: self.interactive,
            terminal: self.terminal,
        })
    }

    /// Those of the files come first, so that the command line wins.
    fn variables(&self) -> Outcome<Vec<Variable>> {
        let mut variables = Vec::new();
        for path in &self.env_file {
            let shown = path.display();
            let content = read_bounded(path).map_err(|e| Failure::io(format!("read {shown}"), e))?;
            let more = values::env_file(&content).map_err(|e| Failure::invalid(format!("{shown}, {e}")))?;
            variables.extend(more);
        }
        variables.extend(self.env.iter().cloned());
        Ok(variables)
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_ENV_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_ENV_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

impl Prepared {
    /// A command joined with our streams, and with our terminal if that is asked for.
    #[cfg(feature = "vm")]
    pub(super) fn joined(terminal: bool) -> Self {
        Self { variables: Vec::new(), user: None, timeout: None, interactive: true, terminal }
    }

    /// The options for `command`, without its streams.
    pub(super) fn options(&self, command: Vec<OsString>) -> ExecOptions {
        self.apply(ExecOptions::new(command))
    }

    /// Adds them to options that somebody else made.
    pub(super) fn apply(&self, options: ExecOptions) -> ExecOptions {
        let mut options = options.envs(self.variables.iter().cloned());
        if let Some(user) = &self.user {
            options = options.user(user);
        }
        if let Some(timeout) = self.timeout {
            options = options.timeout(timeout);
        }
        options
    }
}

pub(super) async fn run(args: Exec, context: &Context) -> Outcome<ExitCode> {
    if args.detach.is_asked_for() {
        return detach::run(args, context).await;
    }
    let prepared = args.flags.prepare()?;
    let mut options = prepared.options(args.command).persist_result(!args.ephemeral);
    options = options.limits(args.limits.limits());
    if let Some(dir) = args.work_dir {
        options = options.work_dir(dir);
    }
    let mut interrupts = Interrupts::new()?;
    let work = context.with_vessel(&args.id, async |vessel| {
        let ended = drive(vessel, options, &prepared, &mut interrupts).await;
        if !args.idle.is_zero() {
            // A vessel that is being stopped takes no orders.
            let _ = vessel.linger(args.idle).await;
        }
        ended
    });
    let ended = work.await?;
    ended.tell(context);
    Ok(ended.exit_code())
}
