//! A command in a machine that is up already: one connection, one visit to a thread that may block.
#![forbid(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

use super::logs::RunLogs;
use super::record::VmRecord;
use super::run::{RunResult, TIMED_OUT};
use super::service::VmService;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use crate::quick::{self, Command};
use crate::vessel::exec::{ExecOptions, ExecResult};
use crate::vessel::{pump, session};

/// How long a command that was killed may take to be gone.
const KILL: Duration = Duration::from_secs(5);

/// A command that was sent, the pipes that it writes to, and where that goes.
struct Begun {
    at: Instant,
    command: Command,
    stdout: Receiver,
    stderr: Receiver,
    logs: RunLogs,
}

/// Runs `argv` as root. `None` when the machine is not up, or not as usual, or has no such program: nothing has happened then.
pub(super) async fn run(
    service: &VmService,
    record: &VmRecord,
    argv: [&str; 3],
    timeout: Option<Duration>,
) -> Result<Option<RunResult>> {
    let argv = argv.map(str::to_owned);
    let (own, record) = (service.clone(), record.clone());
    let begun = {
        // A thread for each of many machines would cost more than what it does.
        let _turn = service.inner.starting.acquire().await;
        blocking(move || begin(&own, &record, argv)).await?
    };
    match begun {
        Some(begun) => finish(begun, timeout).await,
        None => Ok(None),
    }
}

fn begin(service: &VmService, record: &VmRecord, argv: [String; 3]) -> Result<Option<Begun>> {
    let at = Instant::now();
    let ((stdout, out), (stderr, err)) = (pump::output_pipe()?, pump::output_pipe()?);
    let options = ExecOptions::new(argv).user("0").persist_result(true).stdout_fd(out).stderr_fd(err);
    let (root, idle) = (&service.inner.manager.config().root, service.inner.config.idle);
    let Some(command) = quick::exec(root, &record.id, options, idle)? else { return Ok(None) };
    // While it begins.
    let logs = RunLogs::begin(&record.storage)?;
    Ok(Some(Begun { at, command, stdout, stderr, logs }))
}

async fn finish(begun: Begun, timeout: Option<Duration>) -> Result<Option<RunResult>> {
    let Begun { at, command, stdout, stderr, logs } = begun;
    let RunLogs { stdout_path, stderr_path, stdout: out, stderr: err, truncated } = logs;
    let command = pump::watch(command).map_err(|e| Error::io("failed to watch the command", e))?;
    let (end, over) = watch::channel(false);
    let waited = async {
        let ended = ended(command, timeout).await;
        end.send_replace(true);
        ended
    };
    let (out, err) = (pump::drain(stdout, out, over.clone()), pump::drain(stderr, err, over));
    let (ended, out, err) = tokio::join!(waited, out, err);
    let ended = match ended {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        ended => ended?,
    };
    if let (true, Err(e)) = (ended.success(), out.and(err)) {
        return Err(Error::io("failed to copy a stream of the command", e));
    }
    Ok(Some(RunResult {
        exit_code: if ended.timed_out { TIMED_OUT } else { ended.exit_code },
        timed_out: ended.timed_out,
        oom_killed: ended.oom_killed,
        stdout_path,
        stderr_path,
        truncated: truncated.load(std::sync::atomic::Ordering::Relaxed),
        duration: at.elapsed(),
    }))
}

/// Dropped before the end of the command, it kills that.
async fn ended(command: AsyncFd<Command>, timeout: Option<Duration>) -> Result<ExecResult> {
    let lost = |e: io::Error| Error::io("failed to wait for the command", e);
    let in_time = match timeout {
        None => session::wait_readable(&command).await.map(|()| true),
        Some(timeout) => match tokio::time::timeout(timeout, session::wait_readable(&command)).await {
            Ok(readable) => readable.map(|()| true),
            Err(_elapsed) => Ok(false),
        },
    };
    if in_time.map_err(lost)? {
        return command.into_inner().wait();
    }
    if command.get_ref().signal(Signal::KILL.as_raw()).is_ok() {
        let _ = tokio::time::timeout(KILL, session::wait_readable(&command)).await;
    }
    Ok(ExecResult::timeout())
}
