//! [`Running`]: a command while it runs.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use rustix::termios::Winsize;
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use vesselrt_runtime::settings::Limits;
use vesselrt_runtime::shim::client::{CallError, Connection};
use vesselrt_runtime::shim::protocol::{ExecRequest, ExitStatus, Reply, Request};

use super::exec::{ExecOptions, ExecResult, Input, Output};
use super::terminal::Terminal;
use super::{VesselInner, pump};
use crate::error::{Error, Result};
use crate::manager::limits::command::{self, CommandGroup, Confined, Owner};
use crate::offload::blocking;

/// How long a command that was killed may take to be gone.
const KILL: Duration = Duration::from_secs(5);
/// Bytes that a socket with nothing in it takes at once: a part of net.core.wmem_default.
const SMALL: usize = 32 << 10;
/// What a terminal takes for the end of input (VEOF, ^D).
const END_OF_TRANSMISSION: u8 = 4;

/// A connection that can be awaited.
#[derive(Debug)]
struct Waitable(Connection);

impl AsFd for Waitable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Waitable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A command while it runs. Dropping it kills the command with its whole process tree.
pub struct Running {
    vessel: Arc<VesselInner>,
    /// `None` once the command has ended.
    connection: Option<AsyncFd<Waitable>>,
    terminal: Option<OwnedFd>,
    deadline: Option<Instant>,
    result: Option<ExecResult>,
    copies: Copies,
    signalled: AtomicBool,
    /// Removed when the command has ended.
    _group: Option<CommandGroup>,
}

impl Running {
    /// Waits for the end of the command and of its output. May be cancelled and called again.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when the shim was killed; the error of a stream of the caller, when the
    /// command itself succeeded.
    pub async fn wait(&mut self) -> Result<ExecResult> {
        if self.result.is_none() {
            let result = match self.deadline {
                None => self.exited().await?.into(),
                Some(deadline) => match tokio::time::timeout_at(deadline, self.exited()).await {
                    Ok(status) => status?.into(),
                    Err(_elapsed) => self.kill_now().await,
                },
            };
            self.result = Some(result);
            self.end();
        }
        let result = self.result.unwrap_or_else(ExecResult::timeout);
        match self.copies.finish().await {
            Err(error) if result.success() => Err(Error::io("failed to copy a stream of the command", error)),
            _ => Ok(result),
        }
    }

    /// Sends a signal to the command. One that has ended does not mind.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a number that is no signal;
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when the shim was killed.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid(format!("not a signal: {signal}")));
        }
        let Some(connection) = &self.connection else { return Ok(()) };
        self.signalled.store(true, Ordering::Relaxed);
        Ok(connection.get_ref().0.send(&Request::Signal(signal), &[])?)
    }

    /// Tells the terminal its new size.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a command without a terminal.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        let terminal = self.terminal.as_ref().ok_or_else(|| Error::invalid("the command has no terminal"))?;
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|e| Error::io("failed to resize the terminal", e))
    }

    /// The outer end of the command's terminal, if it has one: duplicate it to read and write it. Do not where
    /// the options named streams: those are served already.
    #[must_use]
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    async fn exited(&mut self) -> Result<ExitStatus> {
        let Some(connection) = &mut self.connection else {
            return Err(Error::internal("the command has ended already"));
        };
        wait_readable(connection).await.map_err(CallError::Lost)?;
        // It is small and sent at once, so it is there as a whole.
        let received = connection.get_mut().0.receive();
        match received.inspect_err(|e| self.vessel.heard(e))?.0 {
            Reply::Exited(status) => Ok(status),
            _ => Err(CallError::Unexpected("no exit status").into()),
        }
    }

    /// Its time is up.
    async fn kill_now(&mut self) -> ExecResult {
        let killed = self.signal(Signal::KILL.as_raw()).is_ok();
        if killed && tokio::time::timeout(KILL, self.exited()).await.is_ok_and(|ended| ended.is_ok()) {
            return ExecResult::timeout();
        }
        if let Some(connection) = self.connection.take() {
            connection.get_ref().0.hang_up();
        }
        ExecResult::timeout()
    }

    /// The command has ended: its connection is free for others, unless a signal may still be on its way.
    fn end(&mut self) {
        if let Some(connection) = self.connection.take()
            && !self.signalled.load(Ordering::Relaxed)
        {
            self.vessel.lease.give_back(connection.into_inner().0);
        }
    }
}

impl VesselInner {
    /// As [`Self::request`] has it: when one connection is lost the shim is gone.
    fn heard(&self, error: &CallError) {
        if matches!(error, CallError::Lost(_)) {
            self.lease.abandon();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.get_ref().0.hang_up();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("vessel", &self.vessel.id)
            .field("terminal", &self.terminal.is_some())
            .field("result", &self.result)
            .finish_non_exhaustive()
    }
}

/// Waits until something can be received, which may be the end of the connection.
pub(crate) async fn wait_readable<T: AsRawFd + AsFd>(connection: &AsyncFd<T>) -> io::Result<()> {
    loop {
        let mut guard = connection.readable().await?;
        let mut poll = [PollFd::new(connection.get_ref(), PollFlags::IN)];
        if rustix::event::poll(&mut poll, Some(&rustix::time::Timespec::default()))? > 0 {
            return Ok(());
        }
        guard.clear_ready();
    }
}

/// The tasks that copy between the command and the streams of the caller.
#[derive(Default)]
struct Copies {
    input: Option<JoinHandle<io::Result<()>>>,
    outputs: Vec<JoinHandle<io::Result<()>>>,
    ended: watch::Sender<bool>,
    failure: Option<io::Error>,
}

impl Copies {
    fn input(&mut self, input: Input) -> Result<OwnedFd> {
        let mut stream = match input {
            Input::Null => return pump::null(),
            Input::Fd(fd) => return Ok(fd),
            Input::Stream(stream) => stream,
        };
        let (theirs, ours) = pump::input_pipe()?;
        let mut ours = Some(ours);
        self.input = Some(tokio::spawn(async move { pump::feed(&mut stream, &mut ours).await }));
        Ok(theirs)
    }

    fn output(&mut self, output: Output) -> Result<OwnedFd> {
        let stream = match output {
            Output::Null => return pump::null(),
            Output::Fd(fd) => return Ok(fd),
            Output::Stream(stream) => stream,
        };
        let (ours, theirs) = pump::output_pipe()?;
        self.outputs.push(tokio::spawn(pump::drain(ours, stream, self.ended.subscribe())));
        Ok(theirs)
    }

    /// Joins a terminal with the streams that there are.
    fn terminal(&mut self, outer: &OwnedFd, input: Input, output: Output) -> Result<()> {
        let failed = |e| Error::io("failed to watch the terminal", e);
        if matches!((&input, &output), (Input::Null, Output::Null)) {
            return Ok(());
        }
        let terminal = Terminal::new(outer.try_clone().map_err(failed)?).map_err(failed)?;
        if let Input::Stream(mut stream) = input {
            let mut terminal = terminal.clone();
            self.input = Some(tokio::spawn(async move {
                pump::copy(&mut stream, &mut terminal).await?;
                terminal.write_all(&[END_OF_TRANSMISSION]).await
            }));
        }
        if let Output::Stream(stream) = output {
            self.outputs.push(tokio::spawn(pump::drain(terminal, stream, self.ended.subscribe())));
        }
        Ok(())
    }

    /// Waits for the rest of the output, and tells the first failure once.
    async fn finish(&mut self) -> io::Result<()> {
        self.ended.send_replace(true);
        if let Some(input) = self.input.take() {
            // A caller's stream that has no end must not keep us.
            if input.is_finished() {
                self.note(input.await);
            } else {
                input.abort();
            }
        }
        while let Some(output) = self.outputs.last_mut() {
            let ended = output.await;
            self.outputs.pop();
            self.note(ended);
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn note(&mut self, ended: Result<io::Result<()>, tokio::task::JoinError>) {
        let failure = match ended {
            Ok(Ok(())) => return,
            // Whoever reads may stop early.
            Ok(Err(e)) if e.kind() == io::ErrorKind::BrokenPipe => return,
            Ok(Err(e)) => e,
            Err(e) => io::Error::other(e),
        };
        self.failure.get_or_insert(failure);
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.input.iter().chain(&self.outputs).for_each(JoinHandle::abort);
    }
}

pub(super) async fn exec(vessel: &Arc<VesselInner>, mut options: ExecOptions) -> Result<ExecResult> {
    if options.has_terminal() {
        if matches!(options.stdout, Output::Null) {
            // Somebody must read the terminal, or the command gets stuck.
            options.stdout = Output::Stream(Box::new(tokio::io::sink()));
        }
        return spawn(vessel, options).await?.wait().await;
    }
    let limits = options.limits.clone();
    let prepared = Prepared::new(vessel, &options)?.confined(vessel, limits).await?;
    let Prepared { request, deadline, fds, group } = prepared;
    let mut copies = Copies::default();
    let mut streams = streams(&mut copies, options)?;
    streams.extend(fds);
    // One message each way.
    let connection = send(vessel, Request::Run(request), streams).await?;
    running(vessel, connection, None, deadline, copies, group).wait().await
}

pub(super) async fn spawn(vessel: &Arc<VesselInner>, options: ExecOptions) -> Result<Running> {
    let limits = options.limits.clone();
    let prepared = Prepared::new(vessel, &options)?.confined(vessel, limits).await?;
    let Prepared { request, deadline, fds, group } = prepared;
    let mut copies = Copies::default();
    if !options.has_terminal() {
        let mut streams = streams(&mut copies, options)?;
        streams.extend(fds);
        let (connection, _) = start(vessel, request, streams).await?;
        return Ok(running(vessel, connection, None, deadline, copies, group));
    }
    if matches!(options.stdin, Input::Fd(_)) || matches!(options.stdout, Output::Fd(_)) {
        return Err(Error::invalid("a command with a terminal takes no descriptors of others"));
    }
    let (connection, mut fds) = start(vessel, request, fds).await?;
    let outer = fds.pop().ok_or(CallError::Unexpected("no terminal"))?;
    copies.terminal(&outer, options.stdin, options.stdout)?;
    Ok(running(vessel, connection, Some(outer), deadline, copies, group))
}

/// A command that is about to be sent.
struct Prepared {
    request: Box<ExecRequest>,
    /// When its time is up.
    deadline: Option<Instant>,
    /// What goes along after the streams.
    fds: Vec<OwnedFd>,
    group: Option<CommandGroup>,
}

impl Prepared {
    fn new(vessel: &VesselInner, options: &ExecOptions) -> Result<Self> {
        let timeout = options.timeout.or_else(|| vessel.timeout());
        // One that cannot be expressed is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let request = Box::new(options.request(&vessel.work_dir(), &vessel.image)?);
        Ok(Self { request, deadline, fds: Vec::new(), group: None })
    }

    /// With limits of its own.
    async fn confined(mut self, vessel: &Arc<VesselInner>, limits: Limits) -> Result<Self> {
        let confined = confine(vessel, limits, Owner::Caller).await?;
        self.request.confinement = confined.confinement;
        (self.fds, self.group) = (confined.fds, confined.group);
        Ok(self)
    }
}

/// The descriptors of the command's streams; none where all three are nothing.
fn streams(copies: &mut Copies, options: ExecOptions) -> Result<Vec<OwnedFd>> {
    if let (Input::Null, Output::Null, Output::Null) = (&options.stdin, &options.stdout, &options.stderr) {
        return Ok(Vec::new());
    }
    let input = copies.input(options.stdin)?;
    Ok(vec![input, copies.output(options.stdout)?, copies.output(options.stderr)?])
}

fn running(
    vessel: &Arc<VesselInner>,
    connection: AsyncFd<Waitable>,
    terminal: Option<OwnedFd>,
    deadline: Option<Instant>,
    copies: Copies,
    group: Option<CommandGroup>,
) -> Running {
    Running {
        vessel: Arc::clone(vessel),
        connection: Some(connection),
        terminal,
        deadline,
        result: None,
        copies,
        signalled: AtomicBool::new(false),
        _group: group,
    }
}

/// Makes what limits of its own need.
pub(super) async fn confine(vessel: &Arc<VesselInner>, limits: Limits, owner: Owner) -> Result<Confined> {
    if limits == Limits::default() {
        return Ok(Confined::default());
    }
    // Its group is below that of the vessel, which has one only while it runs.
    let connection = vessel.connect().await?;
    vessel.lease.give_back(connection);
    let own = Arc::clone(vessel);
    blocking(move || command::confine(&own.manager, &own.id, own.lease.dir().as_fd(), &limits, owner)).await
}

/// Sends the request and waits until the command runs. A caller that is gone by then drops the connection, which kills it.
async fn start(
    vessel: &VesselInner,
    request: Box<ExecRequest>,
    streams: Vec<OwnedFd>,
) -> Result<(AsyncFd<Waitable>, Vec<OwnedFd>)> {
    let mut connection = send(vessel, Request::Exec(request), streams).await?;
    wait_readable(&connection).await.map_err(CallError::Lost)?;
    match connection.get_mut().0.receive().inspect_err(|e| vessel.heard(e))? {
        (Reply::Started, fds) => Ok((connection, fds)),
        _ => Err(CallError::Unexpected("not started").into()),
    }
}

/// Sends a request on a connection that has the command from then on.
async fn send(vessel: &VesselInner, request: Request, streams: Vec<OwnedFd>) -> Result<AsyncFd<Waitable>> {
    let connection = vessel.connect().await?;
    let send = |request: Request, streams: Vec<OwnedFd>, connection: Connection| -> Result<Connection> {
        let fds: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
        connection.send(&request, &fds)?;
        Ok(connection)
    };
    // What the buffer of the socket holds is sent at once.
    let connection = if is_small(&request) {
        send(request, streams, connection)?
    } else {
        blocking(move || send(request, streams, connection)).await?
    };
    pump::watch(Waitable(connection)).map_err(|e| Error::io("failed to watch the connection", e))
}

fn is_small(request: &Request) -> bool {
    let (Request::Exec(request) | Request::Run(request)) = request else { return false };
    let bytes = |list: &[Vec<u8>]| list.iter().map(|text| text.len() + 8).sum::<usize>();
    bytes(&request.argv) + bytes(&request.env) + request.cwd.len() < SMALL
}
