//! [`Kernel`]: the Python of one session.
//!
//! A task owns the interpreter, takes one piece of code after the other, and starts a new one when it has ended.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::interpreter::Interpreter;
use super::users::User;
use crate::Vessel;

/// Calls that wait; those after them wait to wait.
const QUEUE: usize = 64;

/// What a piece of code came to.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) count: Option<u64>,
    pub(super) text: String,
    /// PNG in base64.
    pub(super) images: Vec<String>,
    pub(super) error: Option<String>,
}

impl Ran {
    pub(super) fn failed(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::default() }
    }
}

/// A piece of code that is to run.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) code: String,
    pub(super) silent: bool,
    pub(super) timeout: Duration,
    answer: oneshot::Sender<Ran>,
}

/// The Python of one session. Dropping it ends the interpreter.
#[derive(Debug)]
pub(super) struct Kernel {
    calls: mpsc::Sender<Call>,
    alive: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Kernel {
    /// The interpreter is started now, or by the first call if that fails.
    pub(super) fn start(vessel: &Vessel, user: &User) -> Self {
        let (calls, received) = mpsc::channel(QUEUE);
        let (tell, alive) = watch::channel(true);
        let owner = Owner { vessel: vessel.clone(), user: user.clone(), alive: tell };
        Self { calls, alive, task: tokio::spawn(owner.serve(received)) }
    }

    /// There is an interpreter, or one is being started.
    pub(super) fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }

    /// What takes calls of this kernel.
    pub(super) fn door(&self) -> Door {
        Door(self.calls.clone())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Calls a kernel.
#[derive(Debug)]
pub(super) struct Door(mpsc::Sender<Call>);

impl Door {
    /// Runs code when that of all calls before has ended. Its time counts from then.
    pub(super) async fn run(&self, code: String, silent: bool, timeout: Duration) -> Ran {
        let (answer, ran) = oneshot::channel();
        // Either error is the end of the kernel.
        let _ = self.0.send(Call { code, silent, timeout, answer }).await;
        ran.await.unwrap_or_else(|_| Ran::failed("The kernel was shut down"))
    }
}

/// The task of a kernel.
struct Owner {
    vessel: Vessel,
    user: User,
    alive: watch::Sender<bool>,
}

impl Owner {
    async fn serve(self, mut calls: mpsc::Receiver<Call>) {
        let mut live = self.interpreter().await.ok();
        loop {
            self.alive.send_replace(live.is_some());
            let call = match &mut live {
                None => calls.recv().await,
                Some(interpreter) => tokio::select! {
                    call = calls.recv() => call,
                    () = interpreter.idle() => {
                        live = None;
                        continue;
                    }
                },
            };
            let Some(call) = call else { return };
            let started = match live.take() {
                Some(interpreter) => Ok(interpreter),
                None => self.interpreter().await,
            };
            let mut interpreter = match started {
                Ok(interpreter) => interpreter,
                Err(error) => {
                    let _ = call.answer.send(Ran::failed(error));
                    continue;
                }
            };
            let (ran, lives) = interpreter.run(&call).await;
            live = lives.then_some(interpreter);
            self.alive.send_replace(live.is_some());
            // Whoever asked may be gone.
            let _ = call.answer.send(ran);
        }
    }

    async fn interpreter(&self) -> Result<Interpreter, String> {
        Interpreter::start(&self.vessel, &self.user).await
    }
}
