//! Commands that are waited for, and what they leave running.
//!
//! `server &` and `nohup server &` are how many start something that is to stay, and a command that ends takes all that it
//! started along. So there is a process around it: it tells how the command ended and stays for as long as there is anything
//! else. The answer is complete then: what the command wrote is in the pipes before its end is told.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{self, Receiver};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::output::Kept;
use super::users::User;
use crate::{ExecOptions, Running, Vessel};

/// The process around a command. Its input is where it tells the exit code; nothing else has that, or its output, afterwards.
/// What it says of a command that was killed is for nobody.
const AROUND: &str = "exec 8>&2 9>&0 2>/dev/null </dev/null
(exec \"$@\" 2>&8 8>&- 9>&-)
echo $? >&9
exec >/dev/null 8>&- 9>&-
while set -- /proc/[0-9]* && [ $# -gt 2 ]; do sleep 1 || exit; done";
/// How long all of it may take to be gone before it counts as staying.
const STAYS: Duration = Duration::from_millis(50);
/// Most bytes that two pipes hold, and that belong to an answer after the end of its command.
const PIPES: usize = 4 << 20;

/// How a command ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// `None` when its time was up.
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// What it left running. Dropping it does not end it: aborting does.
    pub(super) left: Option<JoinHandle<()>>,
}

/// A command of a user with the process around it.
pub(super) fn around(user: &User, argv: Vec<OsString>) -> ExecOptions {
    let around = ["/bin/sh", "-c", AROUND, "sh"].map(OsString::from);
    user.command(around.into_iter().chain(argv))
}

/// Runs what [`around`] made. Dropping the future kills it.
pub(super) async fn run(
    vessel: &Vessel,
    options: ExecOptions,
    time: Option<Duration>,
) -> crate::Result<Ended> {
    let failed = |e| crate::Error::io("failed to create a pipe", e);
    let (options, mut streams) = Streams::new(options).map_err(failed)?;
    let mut running = vessel.spawn(options).await?;
    let told = match time {
        Some(time) => timeout(time, streams.told()).await.ok(),
        None => Some(streams.told().await),
    };
    streams.drain();
    let (stdout, stderr) = (streams.stdout.kept.text(), streams.stderr.kept.text());
    let mut ended = Ended { code: None, stdout, stderr, left: None };
    let Some(told) = told else { return Ok(ended) };
    let gone = timeout(STAYS, running.wait()).await;
    ended.code = match (told, gone) {
        (Some(code), Err(_elapsed)) => {
            ended.left = Some(tokio::spawn(streams.stay(running)));
            Some(code)
        }
        (Some(code), Ok(_)) => Some(code),
        // The process around it was killed too.
        (None, Ok(end)) => Some(end?.exit_code),
        (None, Err(_elapsed)) => Some(running.wait().await?.exit_code),
    };
    Ok(ended)
}

/// One stream of a command.
struct Stream {
    /// `None` at its end.
    from: Option<Receiver>,
    kept: Kept,
}

impl Stream {
    /// Takes what comes next; never returns when that is nothing any more. May be cancelled.
    async fn take(&mut self) {
        let mut buffer = [0; 16 << 10];
        let Some(from) = &mut self.from else { return std::future::pending().await };
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => self.from = None,
            Ok(read) => self.kept.add(&buffer[..read]),
        }
    }

    /// Takes what there is now: so many bytes.
    fn drain(&mut self) -> usize {
        let mut buffer = [0; 16 << 10];
        match self.from.as_ref().map(|from| from.try_read(&mut buffer)) {
            Some(Ok(read)) if read > 0 => {
                self.kept.add(&buffer[..read]);
                read
            }
            _ => 0,
        }
    }
}

struct Streams {
    stdout: Stream,
    stderr: Stream,
    status: Receiver,
}

impl Streams {
    fn new(options: ExecOptions) -> io::Result<(ExecOptions, Self)> {
        let ((stdin, status), (stdout, out), (stderr, err)) = (pipe::pipe()?, pipe::pipe()?, pipe::pipe()?);
        let options = options.stdin_fd(stdin.into_blocking_fd()?);
        let options = options.stdout_fd(stdout.into_blocking_fd()?).stderr_fd(stderr.into_blocking_fd()?);
        let stream = |from| Stream { from: Some(from), kept: Kept::default() };
        Ok((options, Self { stdout: stream(out), stderr: stream(err), status }))
    }

    /// The exit code, while output is taken; `None` when nobody is there any more who could tell it.
    async fn told(&mut self) -> Option<i32> {
        let mut told = Vec::new();
        loop {
            tokio::select! {
                read = self.status.read_buf(&mut told) => {
                    // It is a few digits: who writes more is not the process around the command.
                    if matches!(read, Ok(0) | Err(_)) || told.len() > 8 {
                        break;
                    }
                    if told.ends_with(b"\n") {
                        break;
                    }
                }
                () = self.stdout.take() => {}
                () = self.stderr.take() => {}
            }
        }
        std::str::from_utf8(&told).ok()?.trim_end().parse().ok()
    }

    fn drain(&mut self) {
        let mut drained = 0;
        while drained < PIPES {
            match self.stdout.drain() + self.stderr.drain() {
                0 => return,
                read => drained += read,
            }
        }
    }

    /// Throws away what is written until all of it is gone: who finds nobody reading may end of that.
    async fn stay(mut self, mut running: Running) {
        let nothing = || Kept::up_to(0);
        (self.stdout.kept, self.stderr.kept) = (nothing(), nothing());
        loop {
            tokio::select! {
                // An error is the end too.
                _ = running.wait() => return,
                () = self.stdout.take() => {}
                () = self.stderr.take() => {}
            }
        }
    }
}
