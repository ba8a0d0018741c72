//! [`Link`]: a connection on which the shim tells that a process has ended.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, RawFd};

use tokio::io::unix::AsyncFd;
use vesselrt_runtime::shim::client::Connection;
use vesselrt_runtime::shim::protocol::Request;

use super::Process;
use crate::error::{Error, Result};
use crate::offload::blocking;
use crate::vessel::pump;

struct Raw(Connection);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits for the end of a process. Dropped, nobody waits any more.
pub(super) struct Link(AsyncFd<Raw>);

impl Link {
    /// `None` when no shim runs, and so no process.
    pub(super) async fn open(process: &Process) -> Result<Option<Self>> {
        let (dir, number) = (process.dir.clone(), process.number);
        let connection = blocking(move || {
            let Some(connection) = Connection::open(dir.as_fd())? else { return Ok(None) };
            connection.send(&Request::WaitProcess { process: number }, &[])?;
            Ok(Some(connection))
        });
        let Some(connection) = connection.await? else { return Ok(None) };
        let watched = pump::watch(Raw(connection));
        Ok(Some(Self(watched.map_err(|e| Error::io("failed to watch the connection", e))?)))
    }

    /// Returns when it has ended or the shim has. May be cancelled and called again.
    pub(super) async fn ended(&mut self) {
        // Nothing but the answer or the end of the connection makes it readable; an error is the end of the runtime.
        let _ = self.0.readable().await;
    }
}
