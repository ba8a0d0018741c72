//! [`Ship`]: a vessel that several sessions share, each as a user of its own.
//!
//! A session has a home that others cannot read, a Python that remembers, a shell and files. What it can be asked for, and what
//! that answers, is what the Ship of Shipyard answers, as far as that is good: nothing here runs as root or leaves the workspace.
//!
//! ```no_run
//! # async fn example(vessel: vesselrt::Vessel) {
//! use vesselrt::serve::ship::{Limits, Ship};
//!
//! let ship = Ship::new(vessel, Limits::default());
//! let answer = ship.operate("some session", "shell/exec", serde_json::json!({"command": "pwd"})).await;
//! assert_eq!((answer.status, &answer.body["return_code"]), (200, &0.into()));
//! ship.close().await;
//! # }
//! ```
#![forbid(unsafe_code)]

mod encoding;
mod files;
mod foreground;
mod frames;
mod interpreter;
mod kernel;
mod log;
mod output;
mod passwd;
mod payload;
mod session;
mod shell;
mod staged;
mod terminal;
mod transfer;
mod users;
mod words;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;
use tokio::io::AsyncRead;

use crate::Vessel;
use log::Log;
pub use output::MOST_OUTPUT;
pub use payload::{Answer, Refusal};
use session::Session;
pub use terminal::Terminal;
pub use transfer::Download;
use users::User;

/// What sessions may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one upload.
    pub upload: u64,
}

impl Default for Limits {
    /// 100 MiB, as the original has it.
    fn default() -> Self {
        Self { upload: 100 << 20 }
    }
}

/// A future of a type that ends here: those of the vessel's operations are deep.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A running ship: a vessel and the users, kernels and processes of its sessions.
#[derive(Debug)]
pub struct Ship {
    vessel: Vessel,
    limits: Limits,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    /// One user is made at a time.
    users: tokio::sync::Mutex<()>,
    log: Log,
}

impl Ship {
    /// A ship of an open vessel. Users of sessions that were here before are found again.
    #[must_use]
    pub fn new(vessel: Vessel, limits: Limits) -> Self {
        let (sessions, users) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { vessel, limits, sessions, users, log: Log::default() }
    }

    /// The vessel, for snapshots, forks, differences. Before it is restored, [`Self::end_sessions`].
    #[must_use]
    pub fn vessel(&self) -> &Vessel {
        &self.vessel
    }

    /// Does what a session asks for: `ipython/exec`, `shell/exec`, `fs/read_file`, … Errors are answers too.
    pub async fn operate(&self, session: &str, operation: &str, payload: Value) -> Answer {
        let began = Instant::now();
        let answer: Boxed<'_, Answer> = Box::pin(self.answer(session, operation, &payload));
        let answer = answer.await;
        self.log.note(session, operation, answer.status, began.elapsed());
        answer
    }

    async fn answer(&self, id: &str, operation: &str, payload: &Value) -> Answer {
        let session = match self.session(id).await {
            Ok(session) => session,
            Err(refusal) => return refusal.into(),
        };
        let Some(user) = session.user.get() else { return unknown() };
        let mut ended = session.ended.subscribe();
        let work: Boxed<'_, Option<Answer>> = match operation.split_once('/') {
            Some(("ipython", name)) => Box::pin(session.python(&self.vessel, id, name, payload)),
            Some(("shell", "exec")) => {
                Box::pin(async { Some(shell::exec(&self.vessel, &session, user, payload).await) })
            }
            Some(("shell", "processes")) => {
                Box::pin(async { Some(shell::processes(&self.vessel, user).await) })
            }
            Some(("shell", "kill")) => {
                Box::pin(async { Some(shell::signal(&self.vessel, user, payload).await) })
            }
            Some(("shell", "cwd")) => return shell::cwd(user),
            Some(("fs", name)) => Box::pin(files::operate(user, name, payload)),
            _ => return unknown(),
        };
        tokio::select! {
            biased;
            // An error is the end of the ship.
            _ = ended.wait_for(|ended| *ended) => Refusal::new(400, "The session was ended").into(),
            answer = work => answer.unwrap_or_else(unknown),
        }
    }

    /// Writes a file of a session, as a whole or not at all: its absolute path. The body is not held in memory.
    ///
    /// # Errors
    /// 413 beyond [`Limits::upload`], 403 for a path that leaves the workspace, 400 when the body fails.
    pub async fn upload<R: AsyncRead + Unpin + Send>(
        &self,
        session: &str,
        path: &str,
        body: R,
    ) -> Result<String, Refusal> {
        let began = Instant::now();
        let done = async {
            let user = self.user(session).await?;
            let done: Boxed<'_, Result<String, Refusal>> =
                Box::pin(transfer::upload(&user, path, body, self.limits.upload));
            done.await
        }
        .await;
        self.log.note(
            session,
            "upload",
            done.as_ref().map_or_else(|refusal| refusal.status, |_| 200),
            began.elapsed(),
        );
        done
    }

    /// Opens a file of a session to be read.
    ///
    /// # Errors
    /// 404 for one that is not there, 403 for a path that leaves the workspace, 400 for what is no file.
    pub async fn download(&self, session: &str, path: &str) -> Result<Download, Refusal> {
        let began = Instant::now();
        let done = async {
            let user = self.user(session).await?;
            let done: Boxed<'_, Result<Download, Refusal>> = Box::pin(transfer::download(&user, path));
            done.await
        }
        .await;
        self.log.note(
            session,
            "download",
            done.as_ref().map_or_else(|refusal| refusal.status, |_| 200),
            began.elapsed(),
        );
        done
    }

    /// A login shell of a session on a terminal of this size.
    ///
    /// # Errors
    /// 500 when it cannot be started.
    pub async fn terminal(&self, session: &str, cols: u16, rows: u16) -> Result<Terminal, Refusal> {
        let found = self.session(session).await?;
        let user = self.user(session).await?;
        let opened: Boxed<'_, crate::Result<Terminal>> =
            Box::pin(Terminal::open(&self.vessel, &user, (cols, rows), found.ended.subscribe()));
        opened
            .await
            .map_err(|error| Refusal::new(500, format!("Failed to start a terminal: {}", error.chain())))
    }

    /// What was asked for lately, a line each.
    #[must_use]
    pub fn logs(&self) -> String {
        self.log.text()
    }

    /// Ends the Python, the processes and the terminals of a session. Its files stay, and so does its user.
    pub async fn end_session(&self, session: &str) {
        if let Some(known) = self.sessions().remove(session) {
            known.ended.send_replace(true);
            known.end_kernel();
            known.end_left();
        }
        // One that was here before this ship was made may have left processes too.
        let rest: Boxed<'_, ()> = Box::pin(async {
            if let Ok(Some(user)) = users::find(&self.vessel, session).await {
                shell::end(&self.vessel, &user).await;
            }
        });
        rest.await;
    }

    /// [`Self::end_session`] of all.
    pub async fn end_sessions(&self) {
        let known: Vec<String> = self.sessions().keys().cloned().collect();
        for session in known {
            self.end_session(&session).await;
        }
    }

    /// Ends all sessions and closes the vessel.
    pub async fn close(&self) {
        self.end_sessions().await;
        // It cannot fail at present.
        let _ = self.vessel.close().await;
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session with its user.
    async fn session(&self, id: &str) -> Result<Arc<Session>, Refusal> {
        let session = Arc::clone(self.sessions().entry(id.to_owned()).or_default());
        let user = session.user.get_or_try_init(|| async {
            let _one = self.users.lock().await;
            let user: Boxed<'_, crate::Result<User>> = Box::pin(users::ensure(&self.vessel, id));
            user.await
        });
        user.await.map_err(|error| Refusal::new(500, format!("Failed to create user: {error:?}")))?;
        Ok(session)
    }

    async fn user(&self, id: &str) -> Result<User, Refusal> {
        let session = self.session(id).await?;
        session.user.get().cloned().ok_or_else(|| Refusal::new(500, "Failed to create user"))
    }
}

fn unknown() -> Answer {
    Refusal::new(404, "Not Found").into()
}
