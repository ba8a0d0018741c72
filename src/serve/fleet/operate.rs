//! What sessions do on their ships.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use tokio::io::AsyncRead;

use super::Fleet;
use crate::serve::clock::Moment;
use crate::serve::ledger::Status;
use crate::serve::problem::Problem;
use crate::serve::ship::{Answer, Download, Ship, Terminal};

impl Fleet {
    /// The ship that a session is aboard of.
    async fn aboard(self: &Arc<Self>, id: &str, session: &str) -> Result<Arc<Ship>, Problem> {
        {
            let ships = self.lock();
            let entry = ships.get(id).filter(|entry| entry.is(Status::Running));
            let entry = entry.ok_or_else(Problem::not_running)?;
            if !entry.has(session, Moment::now()) {
                return Err(Problem::no_access());
            }
        }
        self.ship(id).await
    }

    /// Whether a ship is up.
    pub(in crate::serve) fn is_running(&self, id: &str) -> bool {
        self.lock().get(id).is_some_and(|entry| entry.is(Status::Running))
    }

    /// The session did something: it stays longer.
    pub(in crate::serve) fn touch(&self, id: &str, session: &str) {
        let mut ships = self.lock();
        let session = ships.get_mut(id).and_then(|entry| entry.sessions.get_mut(session));
        let active = session.filter(|session| session.row.active);
        if let Some(change) = active.and_then(|session| session.did(&self.clock)) {
            self.ledger.submit(vec![change]).later();
        }
    }

    /// Does an operation of the Ship API.
    ///
    /// # Errors
    /// 400 for a ship that is not up, or a session that is not aboard.
    pub(in crate::serve) async fn operate(
        self: &Arc<Self>,
        id: &str,
        session: &str,
        operation: &str,
        payload: Value,
    ) -> Result<Answer, Problem> {
        let ship = self.aboard(id, session).await?;
        let began = Instant::now();
        let answer = ship.operate(session, operation, payload).await;
        self.metrics().operation(operation, answer.status, began.elapsed());
        if answer.status == 200 {
            self.touch(id, session);
        }
        Ok(answer)
    }

    /// Puts a file there; gives its absolute path.
    ///
    /// # Errors
    /// 404 for a ship that is not up, 403 for a session that is not aboard or a path outside, 413 for too much.
    pub(in crate::serve) async fn upload(
        self: &Arc<Self>,
        id: &str,
        session: &str,
        path: &str,
        body: impl AsyncRead + Unpin + Send,
    ) -> Result<String, Problem> {
        let ship = self.aboard(id, session).await.map_err(of_file)?;
        let path = ship.upload(session, path, body).await?;
        self.touch(id, session);
        Ok(path)
    }

    /// Opens a file there.
    ///
    /// # Errors
    /// Those of [`Self::upload`].
    pub(in crate::serve) async fn download(
        self: &Arc<Self>,
        id: &str,
        session: &str,
        path: &str,
    ) -> Result<Download, Problem> {
        let ship = self.aboard(id, session).await.map_err(of_file)?;
        let file = ship.download(session, path).await?;
        self.touch(id, session);
        Ok(file)
    }

    /// Starts a shell with a terminal.
    ///
    /// # Errors
    /// Those of [`Self::operate`], and of the shell.
    pub(in crate::serve) async fn terminal(
        self: &Arc<Self>,
        id: &str,
        session: &str,
        cols: u16,
        rows: u16,
    ) -> Result<Terminal, Problem> {
        let ship = self.aboard(id, session).await?;
        Ok(ship.terminal(session, cols, rows).await?)
    }

    /// What a ship logged; nothing for one that is not up.
    pub(in crate::serve) async fn logs(self: &Arc<Self>, id: &str) -> Result<String, Problem> {
        match self.ship(id).await {
            Ok(ship) => Ok(ship.logs()),
            Err(problem) if problem == Problem::not_running() => Ok(String::new()),
            Err(problem) => Err(problem),
        }
    }
}

/// Files have statuses of their own for the same messages.
fn of_file(problem: Problem) -> Problem {
    let status = if problem == Problem::not_running() {
        404
    } else if problem == Problem::no_access() {
        403
    } else {
        problem.status
    };
    Problem { status, ..problem }
}
