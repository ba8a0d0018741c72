//! [`Terminal`]: a login shell of a session, for a person.
#![forbid(unsafe_code)]

use std::fmt;

use tokio::io::DuplexStream;
use tokio::sync::watch;

use super::users::User;
use crate::{ExecResult, Result, Running, Vessel};

/// Bytes that are on their way in each direction.
const BUFFER: usize = 64 << 10;

/// A login shell on a terminal. Dropping it ends the shell and what runs in it.
pub struct Terminal {
    /// What the terminal shows.
    pub reader: DuplexStream,
    /// What is typed.
    pub writer: DuplexStream,
    running: Running,
    session: watch::Receiver<bool>,
}

impl Terminal {
    pub(super) async fn open(
        vessel: &Vessel,
        user: &User,
        size: (u16, u16),
        session: watch::Receiver<bool>,
    ) -> Result<Self> {
        let ((reader, shown), (writer, typed)) = (tokio::io::duplex(BUFFER), tokio::io::duplex(BUFFER));
        let start = format!("cd ~/workspace 2>/dev/null; exec {} -l", user.shell);
        let (cols, rows) = size;
        let options = user.command(["/bin/sh", "-c", &start]).env("TERM", "xterm-256color");
        let options = options.terminal(rows.max(1), cols.max(1)).stdin(typed).stdout(shown);
        let running = vessel.spawn(options).await?;
        Ok(Self { reader, writer, running, session })
    }

    /// Tells it the new size of the window.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn resize(&self, cols: u16, rows: u16) -> Result<()> {
        self.running.resize(rows.max(1), cols.max(1))
    }

    /// Waits for the end of the shell; `None` when its session was ended first. May be cancelled and called again. What it
    /// wrote is to be read meanwhile.
    ///
    /// # Errors
    /// Those of [`Running::wait`].
    pub async fn wait(&mut self) -> Result<Option<ExecResult>> {
        tokio::select! {
            ended = self.running.wait() => ended.map(Some),
            // An error is the end of the ship.
            _ = self.session.wait_for(|ended| *ended) => Ok(None),
        }
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("running", &self.running).finish_non_exhaustive()
    }
}
