//! [`Interpreter`]: a process that runs Python, and the pipes to it.
//!
//! Requests and answers go through pipes of their own; everything that the code and what it starts write goes through a third,
//! which is read all the time. An answer is written after the output of its code: what is in that pipe when the answer is there
//! is the rest of it, to the byte. What is written while no code runs, by threads and processes that code left behind, belongs
//! to the next.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{self, Receiver, Sender};
use tokio::time::Instant;

use super::frames::{Frames, frame};
use super::kernel::{Call, Ran};
use super::output::{Kept, MOST_OUTPUT};
use super::users::User;
use crate::{ExecOptions, ExecResult, Running, Vessel};

/// The program of the interpreter.
const DRIVER: &str = include_str!("driver.py");
/// Starts it in the directory of the session; whoever has removed that has another problem.
const START: &str = "cd ~/workspace 2>/dev/null; exec python3 -c \"$0\"";
/// How long an interpreter may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long code may take to end after it was interrupted, and how often it is interrupted meanwhile.
const GRACE: Duration = Duration::from_secs(4);
const AGAIN: Duration = Duration::from_secs(1);
/// How long an interpreter that closed its pipes may take to be gone.
const GONE: Duration = Duration::from_secs(5);
/// Most bytes that a pipe holds, and that belong to an answer after it.
const PIPE: usize = 2 << 20;
/// Bytes that are kept of what is written while no code runs.
const BETWEEN: usize = 64 << 10;
/// Our ends of an interpreter's pipes.
struct Ours {
    requests: Sender,
    answers: Receiver,
    output: Receiver,
}

struct Pipes {
    ours: Ours,
    theirs: [OwnedFd; 3],
}

impl Pipes {
    fn new() -> io::Result<Self> {
        let ((requests, stdin), (stdout, answers), (stderr, output)) =
            (pipe::pipe()?, pipe::pipe()?, pipe::pipe()?);
        let theirs = [stdin.into_blocking_fd()?, stdout.into_blocking_fd()?, stderr.into_blocking_fd()?];
        Ok(Self { ours: Ours { requests, answers, output }, theirs })
    }

    fn options(self, options: ExecOptions) -> io::Result<(ExecOptions, Ours)> {
        let [stdin, stdout, stderr] = self.theirs;
        Ok((options.stdin_fd(stdin).stdout_fd(stdout).stderr_fd(stderr), self.ours))
    }
}

#[derive(Debug, Serialize)]
struct Request<'a> {
    id: &'a str,
    code: &'a str,
    silent: bool,
}

#[derive(Debug, Deserialize)]
struct Ready {
    #[serde(rename = "ready")]
    _ready: bool,
}

#[derive(Debug, Deserialize)]
struct Answered {
    id: String,
    count: u64,
    images: Vec<String>,
    error: Option<String>,
    /// It was asked to, and ends.
    leaving: bool,
}

/// An interpreter that runs. Dropping it kills it with everything that it started.
pub(super) struct Interpreter {
    running: Running,
    requests: Sender,
    answers: Frames<Receiver>,
    /// `None` at its end: everybody who could write has closed it.
    output: Option<Receiver>,
    kept: Kept,
}

impl Interpreter {
    /// # Errors
    /// Why it does not run, for a person.
    pub(super) async fn start(vessel: &Vessel, user: &User) -> Result<Self, String> {
        let (options, ours) = Pipes::new()
            .and_then(|pipes| pipes.options(user.command(["/bin/sh", "-c", START, DRIVER])))
            .map_err(|e| format!("Failed to start Python: {e}"))?;
        let running = vessel.spawn(options).await;
        let running = running.map_err(|e| format!("Failed to start Python: {}", e.chain()))?;
        let mut started = Self {
            running,
            requests: ours.requests,
            answers: Frames::new(ours.answers),
            output: Some(ours.output),
            kept: Kept::up_to(BETWEEN),
        };
        match tokio::time::timeout(PATIENCE, started.answer::<Ready>()).await {
            Ok(Ok(Some(_))) => Ok(started),
            Ok(_) => Err(started.not_started().await),
            Err(_elapsed) => Err(format!("Python did not start within {} seconds", PATIENCE.as_secs())),
        }
    }

    /// Reads what is written while nothing runs. Returns when the interpreter is gone, or says something unasked.
    pub(super) async fn idle(&mut self) {
        // An answer that nobody waits for is not one of ours.
        let _ = self.answer::<serde::de::IgnoredAny>().await;
    }

    /// The next answer, while output is read; `None` when the interpreter is gone. May be cancelled.
    async fn answer<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut buffer = [0; 16 << 10];
        loop {
            let Some(output) = &mut self.output else { return self.answers.next().await };
            tokio::select! {
                read = output.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => self.output = None,
                    Ok(read) => self.kept.add(&buffer[..read]),
                },
                answer = self.answers.next() => return answer,
            }
        }
    }

    /// Takes what is in the pipe of output now.
    fn drain(&mut self) {
        let mut buffer = [0; 16 << 10];
        let mut drained = 0;
        while let Some(output) = &self.output
            && drained < PIPE
        {
            match output.try_read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(read) => {
                    self.kept.add(&buffer[..read]);
                    drained += read;
                }
                Err(_would_block) => return,
            }
        }
    }

    /// Runs code; false when there is no interpreter any more.
    pub(super) async fn run(&mut self, call: &Call) -> (Ran, bool) {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let request = frame(&Request { id: &id, code: &call.code, silent: call.silent });
        let request = match request {
            Ok(request) => request,
            Err(error) => return (Ran::failed(error.to_string()), true),
        };
        self.kept.more(MOST_OUTPUT);
        let in_time = async {
            // Nothing else is written meanwhile, and who does not read is killed.
            self.requests.write_all(&request).await?;
            self.answer_to(&id).await
        };
        // One that cannot be expressed is none.
        let (answered, late) = match tokio::time::timeout(call.timeout, in_time).await {
            Ok(answered) => (answered.unwrap_or_default(), false),
            Err(_elapsed) => (self.interrupt(&id).await, true),
        };
        self.drain();
        let lives = answered.as_ref().is_some_and(|answered| !answered.leaving);
        let mut ran = match answered {
            Some(answered) => Ran {
                count: Some(answered.count),
                images: answered.images,
                error: answered.error,
                ..Ran::default()
            },
            None if late => Ran::default(),
            None => Ran::failed(self.end().await),
        };
        if late {
            ran.error = Some(format!("Code execution timed out after {} seconds", call.timeout.as_secs()));
        }
        ran.text = std::mem::replace(&mut self.kept, Kept::up_to(BETWEEN)).text();
        (ran, lives)
    }

    /// The answer of this id; others are of nobody.
    async fn answer_to(&mut self, id: &str) -> io::Result<Option<Answered>> {
        loop {
            match self.answer::<Answered>().await? {
                Some(answered) if answered.id != id => {}
                other => return Ok(other),
            }
        }
    }

    /// Interrupts what runs, until it ends or was interrupted often enough.
    async fn interrupt(&mut self, id: &str) -> Option<Answered> {
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            self.running.signal(Signal::INT.as_raw()).ok()?;
            if let Ok(answered) = tokio::time::timeout(AGAIN, self.answer_to(id)).await {
                return answered.ok().flatten();
            }
        }
        None
    }

    /// How it ended, for a person.
    async fn end(&mut self) -> String {
        let how = match self.ended().await {
            Some(end) if end.oom_killed => "it was killed because the memory was used up".to_owned(),
            Some(ExecResult { signal: Some(signal), .. }) => format!("signal {signal}"),
            Some(end) => format!("exit code {}", end.exit_code),
            None => "it does not answer".to_owned(),
        };
        format!("The kernel died ({how}): its state is lost, and the next call starts a new one")
    }

    async fn not_started(&mut self) -> String {
        let end = self.ended().await;
        self.drain();
        match end {
            Some(end) if end.exit_code == 127 => {
                "Failed to start Python: the image has no python3".to_owned()
            }
            _ => format!("Failed to start Python: {}", self.kept.text()),
        }
    }

    async fn ended(&mut self) -> Option<ExecResult> {
        tokio::time::timeout(GONE, self.running.wait()).await.ok()?.ok()
    }
}
