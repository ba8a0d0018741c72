//! [`Process`]: a command that belongs to nobody, while it runs and afterwards.
//!
//! What is known of it is on disk ([`vesselrt_runtime::process`]) and can be read whether a shim runs or not. Only to
//! signal it, to write to it and to wait for it is the shim asked.
#![forbid(unsafe_code)]

pub(crate) mod events;
pub(crate) mod input;
mod link;
mod options;
mod watch;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vesselrt_runtime::process::{self as records, Cause, End, Meta, Records};
use vesselrt_runtime::shim::client::{CallError, Connection};
use vesselrt_runtime::shim::protocol::{Fault, FaultKind, Reply, Request};

use super::exec::ExecResult;
use super::{VesselInner, session};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::limits::command::{self, Confined, Owner};
use crate::offload::blocking;
use events::{LogOptions, ProcessEvents};
use input::ProcessInput;
use link::Link;
pub use options::SpawnOptions;

/// A detached process, that runs or has ended. It does not keep its vessel open.
#[derive(Debug, Clone)]
pub struct Process {
    /// Of its vessel.
    dir: Arc<OwnedFd>,
    number: u64,
}

/// What is known of a detached process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// Its id: `p1`, `p2`, …
    pub id: String,
    /// Program and arguments, to show: what is not UTF-8 is replaced, what is longer than 64 KiB is cut.
    pub argv: Vec<String>,
    /// As it was asked for; empty is root.
    pub user: String,
    /// Directory that it was started in.
    pub work_dir: String,
    /// When it was started.
    pub started: OffsetDateTime,
    /// It has a terminal.
    pub terminal: bool,
    /// It was started with an input that stays open.
    pub input: bool,
    /// What it writes to files stays in the vessel.
    pub persists: bool,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// Bytes that its log may have on disk.
    pub log_limit: u64,
    /// How it ended; `None` while it runs.
    pub end: Option<ProcessEnd>,
}

/// How a detached process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessEnd {
    /// Exit code or signal; `None` for one that was lost.
    pub result: Option<ExecResult>,
    /// What made it end.
    pub cause: EndCause,
    /// When; `None` for one that was lost.
    pub ended: Option<OffsetDateTime>,
    /// Offset of the end of its log; `None` for one that was lost.
    pub log_end: Option<u64>,
    /// Bytes that it wrote and that could not be logged, because the disk was full.
    pub log_lost: u64,
}

/// What made a process end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndCause {
    /// The process itself, or a signal that somebody sent to it.
    Itself,
    /// Its time was up.
    Timeout,
    /// Its vessel was stopped.
    Stop,
    /// The vessel's shim was killed, and the process with it: nobody saw how it ended.
    Lost,
}

impl EndCause {
    /// Its name in lower case, as JSON output has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Itself => "itself",
            Self::Timeout => "timeout",
            Self::Stop => "stop",
            Self::Lost => "lost",
        }
    }
}

impl From<End> for ProcessEnd {
    fn from(end: End) -> Self {
        let cause = match end.cause {
            Cause::Itself => EndCause::Itself,
            Cause::Timeout => EndCause::Timeout,
            Cause::Stop => EndCause::Stop,
            Cause::Lost => EndCause::Lost,
        };
        let result = match cause {
            EndCause::Timeout => Some(ExecResult::timeout()),
            EndCause::Lost => None,
            EndCause::Itself | EndCause::Stop => end.status.map(ExecResult::from),
        };
        let ended = (cause != EndCause::Lost).then(|| at(end.ended_us));
        Self { result, cause, ended, log_end: end.log_end, log_lost: end.log_lost }
    }
}

/// The time of so many microseconds since 1970.
fn at(micros: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

impl Process {
    /// Its id: `p1`, `p2`, …
    #[must_use]
    pub fn id(&self) -> String {
        records::name(self.number)
    }

    /// What is known of it now.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "process not found: …" when it was forgotten since.
    pub async fn info(&self) -> Result<ProcessInfo> {
        let own = self.clone();
        let (meta, end) = blocking(move || own.look()).await?;
        Ok(info(self.number, meta, end))
    }

    /// Waits for its end, and until its log is complete.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "process not found: …" when it was forgotten since.
    pub async fn wait(&self) -> Result<ProcessEnd> {
        loop {
            let own = self.clone();
            if let (_, Some(end)) = blocking(move || own.look()).await? {
                remove_ended_groups(&self.dir).await;
                return Ok(end.into());
            }
            if let Some(mut link) = Link::open(self).await? {
                link.ended().await;
            }
        }
    }

    /// Sends a signal to its process group.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a number that is no signal;
    /// [`Conflict`](ErrorKind::Conflict) when it has ended.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid(format!("not a signal: {signal}")));
        }
        let request = Request::SignalProcess { process: self.number, signal };
        self.ask(request).await.map(drop)
    }

    /// What it wrote and writes, as `options` say.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for an offset before the oldest byte that is kept.
    pub async fn events(&self, options: LogOptions) -> Result<ProcessEvents> {
        events::open(self, options).await
    }

    /// Opens its input, if it was started with one that stays open. Closing it again does not end the input:
    /// [`Self::close_input`] does.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for one without an open input; [`Conflict`](ErrorKind::Conflict)
    /// when it has ended.
    pub async fn input(&self) -> Result<ProcessInput> {
        match self.ask(Request::OpenInput { process: self.number }).await? {
            (Reply::Input { terminal }, mut fds) => {
                let fd = fds.pop().ok_or(CallError::Unexpected("no input"))?;
                ProcessInput::new(fd, terminal)
            }
            _ => Err(CallError::Unexpected("no input").into()),
        }
    }

    /// Ends its input, as soon as everybody who has opened it has closed it.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a terminal; [`Conflict`](ErrorKind::Conflict) when it has ended.
    pub async fn close_input(&self) -> Result<()> {
        self.ask(Request::CloseInput { process: self.number }).await.map(drop)
    }

    /// One request to the shim that runs it.
    async fn ask(&self, request: Request) -> Result<(Reply, Vec<OwnedFd>)> {
        let own = self.clone();
        blocking(move || {
            own.look()?;
            let Some(mut connection) = Connection::open(own.dir.as_fd())? else { return Err(own.over()) };
            match connection.call(&request, &[]) {
                Err(CallError::Fault(Fault { kind: FaultKind::NotFound, .. })) => Err(own.over()),
                other => Ok(other?),
            }
        })
        .await
    }

    fn over(&self) -> Error {
        Error::conflict(format!("process {} has ended", self.id()))
    }

    /// Its directory.
    fn record(&self) -> Result<OwnedFd> {
        let found = Records::open(self.dir.as_fd()).and_then(|records| match records {
            Some(records) => records.get(self.number),
            None => Ok(None),
        });
        found.map_err(|e| unreadable(self.number, e))?.ok_or_else(|| unknown(&self.id()))
    }

    /// What is known of it.
    fn look(&self) -> Result<(Meta, Option<End>)> {
        let dir = self.record()?;
        let failed = |e| unreadable(self.number, e);
        let meta = records::read_meta(&dir).map_err(failed)?.ok_or_else(|| unknown(&self.id()))?;
        if let Some(end) = End::read(&dir).map_err(failed)? {
            return Ok((meta, Some(end)));
        }
        if running(&self.dir)?.contains(&self.number) {
            return Ok((meta, None));
        }
        // It may have ended between the two.
        Ok((meta, Some(End::read(&dir).map_err(failed)?.unwrap_or_else(|| End::lost(0)))))
    }
}

/// Those that run.
fn running(vessel: &OwnedFd) -> Result<Vec<u64>> {
    let Some(mut connection) = Connection::open(vessel.as_fd())? else { return Ok(Vec::new()) };
    match connection.call(&Request::Processes, &[]) {
        Ok((Reply::Processes(numbers), _)) => Ok(numbers),
        // It is gone, and they with it.
        Err(CallError::Lost(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(CallError::Unexpected("no processes").into()),
    }
}

fn info(number: u64, meta: Meta, end: Option<End>) -> ProcessInfo {
    ProcessInfo {
        id: records::name(number),
        argv: meta.argv,
        user: meta.user,
        work_dir: meta.cwd,
        started: at(meta.started_us),
        terminal: meta.terminal,
        input: meta.input,
        persists: !meta.ephemeral,
        timeout: meta.timeout_ms.map(Duration::from_millis),
        log_limit: meta.log_limit,
        end: end.map(ProcessEnd::from),
    }
}

/// Those of processes with limits of their own.
async fn remove_ended_groups(dir: &Arc<OwnedFd>) {
    let dir = Arc::clone(dir);
    // Nothing is lost if it is not done now.
    let _ = blocking(move || {
        command::remove_ended(dir.as_fd());
        Ok(())
    })
    .await;
}

/// The processes of the vessel with this directory.
pub(crate) async fn list(dir: Arc<OwnedFd>) -> Result<Vec<ProcessInfo>> {
    remove_ended_groups(&dir).await;
    blocking(move || {
        let mut found = Vec::new();
        for number in numbers(&dir)? {
            match (Process { dir: Arc::clone(&dir), number }).look() {
                Ok((meta, end)) => found.push(info(number, meta, end)),
                // Forgotten since.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    })
    .await
}

fn numbers(dir: &OwnedFd) -> Result<Vec<u64>> {
    let numbers = Records::open(dir).and_then(|records| records.map_or(Ok(Vec::new()), |r| r.numbers()));
    numbers.map_err(|e| Error::io("failed to read the processes of the vessel", e))
}

/// A process of the vessel with this directory.
pub(crate) async fn find(dir: Arc<OwnedFd>, id: &str) -> Result<Process> {
    let number = records::number(id).ok_or_else(|| unknown(id))?;
    let process = Process { dir, number };
    let own = process.clone();
    blocking(move || own.record()).await?;
    Ok(process)
}

/// Forgets those that have ended.
pub(crate) async fn prune(dir: Arc<OwnedFd>) -> Result<Vec<String>> {
    let ended = list(Arc::clone(&dir)).await?.into_iter().filter(|process| process.end.is_some());
    let ended: Vec<String> = ended.map(|process| process.id).collect();
    blocking(move || {
        if let Some(records) =
            Records::open(&*dir).map_err(|e| Error::io("failed to read the processes", e))?
        {
            for number in ended.iter().filter_map(|id| records::number(id)) {
                let failed = |e| Error::io(format!("failed to forget process p{number}"), e);
                records.remove(number).map_err(failed)?;
            }
        }
        Ok(ended)
    })
    .await
}

pub(super) async fn spawn(vessel: &Arc<VesselInner>, options: SpawnOptions) -> Result<Process> {
    let mut request = options.request(&vessel.work_dir(), &vessel.image)?;
    let default = || vessel.timeout().map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    request.timeout_ms = request.timeout_ms.or_else(default);
    let Confined { confinement, fds, held, .. } =
        session::confine(vessel, options.limits().clone(), Owner::Nobody).await?;
    request.command.confinement = confinement;
    let started = vessel.request(move |connection| {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        match connection.call(&Request::Spawn(Box::new(request)), &fds)?.0 {
            Reply::Spawned(number) => Ok(number),
            _ => Err(CallError::Unexpected("not started")),
        }
    });
    let started = started.await;
    // It is in its group now, or never will be.
    drop(held);
    if started.is_err() {
        remove_ended_groups(vessel.lease.dir()).await;
    }
    let number = started?;
    Ok(Process { dir: Arc::clone(vessel.lease.dir()), number })
}

pub(crate) fn unknown(id: &str) -> Error {
    Error::not_found(format!("process not found: {id}"))
}

fn unreadable(number: u64, error: std::io::Error) -> Error {
    Error::io(format!("failed to read the record of process {}", records::name(number)), error)
}
