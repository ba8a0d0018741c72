//! `attach`: joins a process in the background, and leaves it again.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use vesselrt::{LogOptions, LogStart, Process, ProcessEvent, ProcessInput};

use super::keys::Keys;
use super::{exit_code, logs, lost};
use crate::cli::exec::terminal::{self, Raw, Resizes};
use crate::cli::{Context, Failure, Interrupts, Outcome};

/// Arguments of `attach`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Whatever ends this, the process goes on. Its output is shown from now on. Standard input is passed on to a process that was \
started with -i or -t; its end is not, unless --eof is given.

On a terminal that is joined with that of the process all keys go inside, but Ctrl-P Ctrl-Q, which leave. Otherwise Ctrl-C \
leaves.

Exit codes: the command's own, as `wait` has it, when it ends; 0 after Ctrl-P Ctrl-Q; 128+n after signal n; 125 an error of \
vesselrt.")]
pub(crate) struct Attach {
    /// Show what was written from this byte on, too; see `vesselrt logs`
    #[arg(long, value_name = "N")]
    offset: Option<u64>,
    /// Do not pass standard input on
    #[arg(long, conflicts_with = "eof")]
    no_stdin: bool,
    /// End the input of the process with standard input
    #[arg(long)]
    eof: bool,
    /// Id of the vessel
    id: String,
    /// Id of the process
    #[arg(value_name = "PROC")]
    process: String,
}

/// How one leaves.
enum Left {
    /// The process has ended.
    Ended(Option<ExitCode>),
    /// The keys were typed.
    Keys,
    Signal(i32),
}

pub(crate) async fn attach(args: &Attach, context: &Context) -> Outcome<ExitCode> {
    let process = context.manager().await?.process(&args.id, &args.process).await?;
    let info = process.info().await?;
    let mut interrupts = Interrupts::new()?;
    let start = args.offset.map_or(LogStart::Now, LogStart::Offset);
    let mut events = process.events(LogOptions::new().start(start).follow(true)).await?;
    let wanted = info.input && info.end.is_none() && !args.no_stdin;
    let input = if wanted { open(&process).await? } else { None };
    let raw = input.as_ref().is_some_and(ProcessInput::is_terminal) && io::stdin().is_terminal();
    let mut resizes = Resizes::new(raw)?;
    let size = Size::of(if raw { Some(&process) } else { None }).await?;
    let joined = raw.then(Raw::enter).transpose()?;
    let mut feeding = input.map(|input| Feeding::new(input, raw, args.eof.then(|| process.clone())));
    let left = loop {
        tokio::select! {
            event = events.next() => match event? {
                Some(ProcessEvent::Exited(end)) => break Left::Ended(exit_code(&end)),
                Some(event) => logs::show(&event, context)?,
                None => break Left::Ended(None),
            },
            keys = Feeding::left(&mut feeding) => if keys? { break Left::Keys },
            signal = interrupts.next() => break Left::Signal(signal),
            () = resizes.next() => size.pass_on()?,
        }
    };
    drop(joined);
    match left {
        Left::Ended(code) => code.ok_or_else(|| lost(&args.process)),
        Left::Keys => {
            context.interject(&format!("left {}, which goes on", args.process));
            Ok(ExitCode::SUCCESS)
        }
        Left::Signal(signal) => Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))),
    }
}

/// Its input; `None` when it has ended just now, or its input has.
async fn open(process: &Process) -> Outcome<Option<ProcessInput>> {
    use vesselrt::ErrorKind::{Conflict, InvalidArgument};
    match process.input().await {
        Ok(input) => Ok(Some(input)),
        Err(error) if matches!(error.kind(), Conflict | InvalidArgument) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What tells the process the size of our terminal.
struct Size(Option<ProcessInput>);

impl Size {
    async fn of(process: Option<&Process>) -> Outcome<Self> {
        let Some(process) = process else { return Ok(Self(None)) };
        let size = Self(open(process).await?);
        if let Some(input) = &size.0 {
            // Whatever it is now, a change makes a program draw anew.
            let (rows, columns) = terminal::size();
            input.resize(rows, columns.saturating_add(1))?;
        }
        size.pass_on()?;
        Ok(size)
    }

    fn pass_on(&self) -> Outcome {
        let Some(input) = &self.0 else { return Ok(()) };
        let (rows, columns) = terminal::size();
        Ok(input.resize(rows, columns)?)
    }
}

/// The task that passes our input on.
struct Feeding(JoinHandle<Outcome<bool>>);

impl Feeding {
    fn new(input: ProcessInput, keys: bool, end: Option<Process>) -> Self {
        Self(tokio::spawn(feed(input, keys.then(Keys::default), end)))
    }

    /// Whether the keys were typed, when it ends; an input that ended otherwise is not waited for.
    async fn left(feeding: &mut Option<Self>) -> Outcome<bool> {
        let Some(Self(task)) = feeding else { return std::future::pending().await };
        let ended = task.await;
        *feeding = None;
        ended.map_err(|e| Failure::internal(format!("failed to pass standard input on: {e}")))?
    }
}

/// True when the keys were typed.
async fn feed(mut input: ProcessInput, mut keys: Option<Keys>, end: Option<Process>) -> Outcome<bool> {
    let failed = |e: io::Error| Failure::io("read standard input", e);
    let own = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let (mut stdin, mut buffer) = (tokio::fs::File::from_std(own.into()), vec![0; 64 << 10]);
    loop {
        let read = stdin.read(&mut buffer).await.map_err(failed)?;
        let (data, left) = match &mut keys {
            Some(keys) => keys.filter(&buffer[..read]),
            None => (buffer[..read].to_vec(), false),
        };
        match input.write_all(&data).await {
            // It reads no more, or has ended: that is told by its log.
            Err(_) => return Ok(false),
            Ok(()) if left => return Ok(true),
            Ok(()) if read > 0 => {}
            Ok(()) => break,
        }
    }
    drop(input);
    if let Some(process) = end {
        // It may have ended by itself.
        let _ = process.close_input().await;
    }
    Ok(false)
}
