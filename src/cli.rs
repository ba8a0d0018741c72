//! The command line: what can be typed, and which file does it.
//!
//! One file per group of verbs; each has its arguments beside what it does. [`output`] is the only one that prints,
//! [`failure`] the only one that knows exit codes. The library underneath never looks at the terminal, the arguments or the
//! environment.
#![forbid(unsafe_code)]

mod batch;
mod bench;
mod commit;
mod completions;
mod context;
mod cp;
mod create;
mod doctor;
mod du;
mod exec;
mod failure;
mod fork;
mod fs;
mod habits;
mod image;
mod network;
mod output;
mod process;
mod progress;
mod project;
mod registry;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod session;
mod snapshot;
mod stats;
mod tables;
mod update;
mod values;
#[cfg(feature = "vm")]
mod vm;
mod volume;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

#[cfg(feature = "vm")]
use clap::CommandFactory;
use clap::error::ErrorKind as ClapErrorKind;
use clap::{Parser, Subcommand};

use crate::demo;
pub(crate) use context::Context;
pub(crate) use exec::Interrupts;
pub(crate) use failure::{Failure, OURS, Outcome};
pub(crate) use progress::Progress;
pub(crate) use tables::{Table, size as human_size};

const ABOUT: &str = "Rootless, daemonless workspaces for AI agents: OCI images, exec, files, snapshots";

const AFTER_HELP: &str = "\
Exit codes of exec and run: the command's own; 124 its time was up; 125 an error of vesselrt; 126 the command cannot be \
executed; 127 there is no such command; 128+n it was ended by signal n. Every other verb: 0, or 125.

Examples:
  vesselrt image import debian.tar --ref debian:12
  id=$(vesselrt create debian:12 --workdir /work)
  vesselrt exec \"$id\" -- sh -c 'echo hello > greeting'
  snap=$(vesselrt snapshot create \"$id\" -m 'first words')
  vesselrt exec \"$id\" -- rm -rf /work /usr
  vesselrt snapshot restore \"$id\" \"$snap\"
  vesselrt fs cat \"$id\" greeting
  vesselrt rm \"$id\"

Try `vesselrt demo` to see it all, and `vesselrt doctor` to see what this host can do.";

/// Everything that can be typed.
#[derive(Debug, Parser)]
#[command(name = "vesselrt", bin_name = "vesselrt", version, about = ABOUT, after_long_help = AFTER_HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    globals: context::Globals,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Import, list, show, name, verify and remove images
    #[command(subcommand)]
    Image(image::Verb),
    /// Create a vessel from an image and print its id
    Create(create::Create),
    /// List vessels
    #[command(visible_alias = "list")]
    Ls(create::Ls),
    /// Show a vessel
    Inspect(create::Inspect),
    /// Make vessels that begin where another one is, and print their ids
    Fork(fork::Fork),
    /// Remove vessels with their snapshots
    Rm(create::Rm),
    /// Run a command in a vessel
    Exec(exec::Exec),
    /// List the background processes of a vessel
    Ps(process::Ps),
    /// Show what a background process wrote
    Logs(process::Logs),
    /// Join a background process: its output from now on, and its input
    Attach(process::Attach),
    /// Send a signal to background processes
    Kill(process::Kill),
    /// Wait for a background process and exit as it does
    Wait(process::Wait),
    /// Create a vessel and run a command in it
    Run(run::Run),
    /// Keep a vessel up between calls, which makes them faster
    Start(session::Start),
    /// Stop vessels: end their commands and what `start` keeps up
    Stop(session::Stop),
    /// Change the limits of a vessel, also while it runs
    Update(update::Update),
    /// Show what vessels use of processors, memory and disk
    Stats(stats::Stats),
    /// Copy files and directories between this host and a vessel
    Cp(cp::Cp),
    /// Read and write files of a vessel
    #[command(subcommand)]
    Fs(fs::Verb),
    /// Make, list, restore and remove snapshots
    #[command(subcommand)]
    Snapshot(snapshot::Verb),
    /// Show what the network of a vessel has denied
    #[command(subcommand)]
    Network(network::Verb),
    /// Make, list, show and remove volumes, which are mounted in vessels and outlive them
    #[command(subcommand)]
    Volume(volume::Verb),
    /// Projects: a directory of this host, with a vessel of its own around it
    Project(project::Project),
    /// Machines by language: create them, run commands in many at once, throw them away
    #[cfg(feature = "vm")]
    Vm(vm::Vm),
    /// Show what vessels and their snapshots take on disk
    Du(du::Du),
    /// Remove what crashes left behind and what nothing needs any more
    Gc(du::Gc),
    /// Make an image of a vessel and print its reference
    Commit(commit::Commit),
    /// Write an image to a file for other tools
    Save(commit::Save),
    /// Pull an image from its registry and print its reference
    Pull(registry::Pull),
    /// Push an image to its registry and print the reference with the digest
    Push(registry::Push),
    /// Log in to a registry
    Login(registry::Login),
    /// Log out of a registry
    Logout(registry::Logout),
    /// Serve ships over HTTP: vessels that sessions share, for clients of Shipyard
    #[cfg(feature = "serve")]
    Serve(Box<serve::Serve>),
    /// Say what this host can and cannot do, and the remedy
    Doctor(doctor::Doctor),
    /// Measure snapshots, archives and commands on this host, side by side with other tools
    Bench(bench::Bench),
    /// Show the main job on an image made of this host's own tools
    Demo(demo::Demo),
    /// What other calls leave to the background for a vessel
    #[command(hide = true)]
    Upkeep(session::Upkeep),
    /// Print the completions of a shell
    Completions(completions::Completions),
    /// Print the help of a verb
    #[command(hide = true)]
    Help(habits::Help),
}

/// Parses, runs, prints, and says how it went.
pub(crate) fn main() -> ExitCode {
    // What we make for ourselves is ours alone; what others are to see gets its mode explicitly.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    if let Some(code) = exec::attempt_quickly() {
        return code;
    }
    if is_run(std::env::args_os().skip(1)) {
        vesselrt::quick::expect_vessel();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(error),
    };
    let context = Context::new(cli.globals);
    if matches!(cli.verb, Verb::Upkeep(_))
        && let Err(error) = vesselrt::detach()
    {
        return output::failed(context.json, &error.into());
    }
    let runtime = match threads(&cli.verb).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::failed(context.json, &Failure::io("start the async runtime", error)),
    };
    let outcome = runtime.block_on(dispatch(cli.verb, &context));
    // A thread may wait for a terminal for ever, and the sweeper can go on another time.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(failure) => output::failed(context.json, &failure),
    }
}

/// Whether a vessel will be made and opened, as far as can be seen without parsing.
fn is_run(mut arguments: impl Iterator<Item = OsString>) -> bool {
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--root") => drop(arguments.next()),
            Some(option) if option.starts_with('-') => {}
            verb => {
                return verb == Some("run")
                    && !arguments.any(|argument| argument == "--help" || argument == "-h");
            }
        }
    }
    false
}

/// Most verbs do one thing; a service does many at once.
fn threads(verb: &Verb) -> tokio::runtime::Builder {
    match verb {
        #[cfg(feature = "serve")]
        Verb::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    }
}

async fn dispatch(verb: Verb, context: &Context) -> Outcome<ExitCode> {
    match verb {
        Verb::Image(verb) => image::run(verb, context).await?,
        Verb::Create(args) => create::create(args, context).await?,
        Verb::Ls(args) => create::ls(&args, context).await?,
        Verb::Inspect(args) => create::inspect(&args, context).await?,
        Verb::Fork(args) => fork::fork(args, context).await?,
        Verb::Rm(args) => create::rm(args, context).await?,
        Verb::Exec(args) => return exec::run(args, context).await,
        Verb::Ps(args) => process::ps(&args, context).await?,
        Verb::Logs(args) => process::logs(&args, context).await?,
        Verb::Attach(args) => return process::attach(&args, context).await,
        Verb::Kill(args) => process::kill(args, context).await?,
        Verb::Wait(args) => return process::wait(&args, context).await,
        Verb::Run(args) => return run::run(args, context).await,
        Verb::Start(args) => session::start(args, context).await?,
        Verb::Stop(args) => session::stop(args, context).await?,
        Verb::Update(args) => update::update(args, context).await?,
        Verb::Stats(args) => stats::stats(args, context).await?,
        Verb::Cp(args) => cp::run(args, context).await?,
        Verb::Fs(verb) => fs::run(verb, context).await?,
        // It has an exit code of its own.
        Verb::Snapshot(snapshot::Verb::Diff(args)) => return snapshot::diff::run(args, context).await,
        Verb::Snapshot(verb) => snapshot::run(verb, context).await?,
        Verb::Network(verb) => network::run(verb, context).await?,
        Verb::Volume(verb) => volume::run(verb, context).await?,
        Verb::Project(args) => return project::run(args, context).await,
        #[cfg(feature = "vm")]
        Verb::Vm(args) => return vm::run(args, context).await,
        Verb::Du(args) => du::du(&args, context).await?,
        Verb::Gc(args) => du::gc(&args, context).await?,
        Verb::Commit(args) => commit::commit(args, context).await?,
        Verb::Push(args) => registry::push(args, context).await?,
        Verb::Login(args) => registry::login(args, context).await?,
        Verb::Logout(args) => registry::logout(args, context).await?,
        Verb::Pull(args) => registry::pull(args, context).await?,
        Verb::Save(args) => commit::save(args, context).await?,
        #[cfg(feature = "serve")]
        Verb::Serve(args) => serve::serve(*args, context).await?,
        Verb::Doctor(args) => return doctor::run(&args, context).await,
        Verb::Bench(args) => return bench::run(args, context).await,
        Verb::Demo(args) => return demo::run(args, context).await,
        Verb::Upkeep(args) => session::upkeep(&args, context).await?,
        Verb::Completions(args) => completions::run(&args, context)?,
        Verb::Help(args) => return habits::help(&args),
    }
    Ok(ExitCode::SUCCESS)
}

/// Help and version are no errors; what is not understood is one of ours.
fn not_parsed(error: clap::Error) -> ExitCode {
    if matches!(error.kind(), ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion) {
        return output::rendered(&error);
    }
    // Nothing was parsed: look for the flag as typed, before the command of somebody else begins.
    let typed =
        std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == OsStr::new("--json"));
    #[cfg(feature = "vm")]
    let code = if is_typed("vm") { vm::FAILED } else { failure::OURS };
    #[cfg(not(feature = "vm"))]
    let code = failure::OURS;
    if typed {
        let failure = Failure::invalid(first_paragraph(&error.to_string()));
        let tip = habits::tip(&error);
        let _ = output::failed(true, &tip.into_iter().fold(failure, Failure::remedy));
    } else {
        let _ = output::rendered(&habits::mend(error));
    }
    ExitCode::from(code)
}

/// Whether it is this verb whose arguments were not understood.
#[cfg(feature = "vm")]
fn is_typed(verb: &str) -> bool {
    let typed = Cli::command().ignore_errors(true).try_get_matches();
    typed.is_ok_and(|typed| typed.subcommand_name() == Some(verb))
}

/// The complaint without the usage below it.
fn first_paragraph(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    text.split("\n\n").next().unwrap_or(text).trim().to_owned()
}

#[cfg(test)]
mod tests;
