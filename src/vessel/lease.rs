//! [`Lease`]: what keeps the shim of an open vessel alive, and the connections to it.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use tokio::sync::watch;
use vesselrt_runtime::shim::client::{CallError, Connection};
use vesselrt_runtime::shim::protocol::{Reply, Request};

use super::VesselInner;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::open;
use crate::offload::blocking;

/// Connections that are kept for the next operation.
const IDLE: usize = 4;
/// How long closing waits for a shim that this process started.
const LEAVE: Duration = Duration::from_secs(10);
/// How often is looked whether others keep that shim.
const LOOK: Duration = Duration::from_millis(100);

/// One connection that is only held, and the process behind it if it is ours.
#[derive(Debug)]
pub(crate) struct Holder {
    connection: Connection,
    ours: Option<Reaper>,
}

impl Holder {
    /// Joins a shim that runs.
    pub(crate) fn joined(connection: Connection) -> Self {
        Self { connection, ours: None }
    }

    /// Holds a shim that this process started for the vessel with the directory `dir`.
    pub(crate) fn started(connection: Connection, child: Child, dir: OwnedFd) -> Result<Self> {
        Ok(Self { connection, ours: Some(Reaper::new(child, dir)?) })
    }

    fn is_alive(&self) -> bool {
        is_quiet(&self.connection)
    }
}

/// Waits for a child, so that it is no zombie, and tells when it is gone.
#[derive(Debug)]
struct Reaper {
    gone: watch::Receiver<bool>,
}

impl Reaper {
    /// A thread and not a task: the shim may outlive the async runtime.
    fn new(mut child: Child, dir: OwnedFd) -> Result<Self> {
        let (tell, gone) = watch::channel(false);
        std::thread::Builder::new()
            .name("vesselrt-reaper".into())
            .stack_size(128 << 10)
            .spawn(move || {
                // It fails only if somebody else has reaped it.
                let _ = child.wait();
                // What cannot be removed now is by whoever opens the vessel next.
                let _ = crate::manager::limits::release_unused(dir.as_fd());
                tell.send_replace(true);
            })
            .map_err(|e| Error::io("failed to start a thread", e))?;
        Ok(Self { gone })
    }

    async fn gone(&mut self) {
        // An error is the end of the thread: gone, too.
        let _ = self.gone.wait_for(|&gone| gone).await;
    }
}

/// Nothing is to be received, as is right between two operations: neither a reply nor the end.
fn is_quiet(connection: &Connection) -> bool {
    let mut poll = [PollFd::new(connection, PollFlags::IN)];
    matches!(rustix::event::poll(&mut poll, Some(&rustix::time::Timespec::default())), Ok(0))
}

/// Ends a connection when its operation is given up.
#[derive(Debug)]
pub(crate) struct HangUp(Connection);

impl HangUp {
    pub(crate) fn of(connection: &Connection) -> Result<Self> {
        Ok(Self(connection.try_clone().map_err(|e| Error::io("failed to duplicate a descriptor", e))?))
    }

    pub(crate) fn now(&self) {
        self.0.hang_up();
    }
}

impl Drop for HangUp {
    /// Also after the end of the operation: the connection is not used again then.
    fn drop(&mut self) {
        self.now();
    }
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    lingers: bool,
    /// This process has asked it to stay.
    kept: bool,
    holder: Option<Holder>,
    idle: Vec<Connection>,
}

/// What keeps the shim of an open vessel alive.
#[derive(Debug)]
pub(crate) struct Lease {
    dir: Arc<OwnedFd>,
    state: Mutex<State>,
    /// One opens the vessel again, the others wait for it.
    opening: tokio::sync::Mutex<()>,
}

impl Lease {
    pub(crate) fn new(dir: Arc<OwnedFd>, holder: Holder) -> Self {
        let state = State { holder: Some(holder), ..State::default() };
        Self { dir, state: Mutex::new(state), opening: tokio::sync::Mutex::default() }
    }

    /// The vessel's directory.
    pub(crate) fn dir(&self) -> &Arc<OwnedFd> {
        &self.dir
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection whose operation has ended for the next one.
    pub(crate) fn give_back(&self, connection: Connection) {
        let mut state = self.state();
        if !state.closed && state.idle.len() < IDLE {
            state.idle.push(connection);
        }
    }

    /// A connection that waits for something to do.
    fn idle(&self) -> Result<Option<Connection>> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::conflict("the vessel is closed"));
        }
        while let Some(connection) = state.idle.pop() {
            if is_quiet(&connection) {
                return Ok(Some(connection));
            }
        }
        Ok(None)
    }

    fn is_alive(&self) -> bool {
        self.state().holder.as_ref().is_some_and(Holder::is_alive)
    }

    /// Whether this process has started the shim.
    fn is_ours(&self) -> bool {
        self.state().holder.as_ref().is_some_and(|holder| holder.ours.is_some())
    }

    /// Takes a new shim for the one that is gone. False when the vessel was closed meanwhile.
    fn replace(&self, holder: Holder) -> bool {
        let mut state = self.state();
        if state.closed {
            return false;
        }
        state.idle.clear();
        state.holder = Some(holder);
        true
    }

    /// Lets go of the shim, so that the next operation opens the vessel again.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.idle.clear();
        state.holder = None;
    }

    /// Lets go of the shim for good and waits for it, if this process started it and nobody else keeps it.
    pub(crate) async fn close(&self) {
        let holder = {
            let mut state = self.state();
            state.closed = true;
            state.idle.clear();
            // It is not waited for.
            let stays = state.lingers || state.kept;
            state.holder.take().filter(|_| !stays)
        };
        let Some(Holder { connection, ours: Some(mut ours) }) = holder else { return };
        drop(connection);
        let end = tokio::time::Instant::now() + LEAVE;
        while tokio::time::Instant::now() < end {
            if tokio::time::timeout(LOOK, ours.gone()).await.is_ok() || self.others_have_it().await {
                return;
            }
        }
    }

    /// The shim says, a while after our last connection was closed, that it is kept, that others have it open, or that
    /// detached processes run in it.
    async fn others_have_it(&self) -> bool {
        let dir = Arc::clone(&self.dir);
        let used = move || {
            let Some(mut connection) = Connection::open(dir.as_fd())? else { return Ok(false) };
            let stays = |reply| matches!(reply, Reply::Hello { others, kept, .. } if others > 0 || kept);
            let works = |reply| matches!(reply, Reply::Processes(running) if !running.is_empty());
            Ok(stays(connection.call(&Request::Hello, &[])?.0)
                || works(connection.call(&Request::Processes, &[])?.0))
        };
        blocking(used).await.unwrap_or(false)
    }
}

impl VesselInner {
    /// A connection for one operation. The vessel is opened again when its shim is gone.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        self.connect_holding(false).await
    }

    /// [`Self::connect`]; `ops_held`: the caller holds the vessel's `ops.lock`.
    pub(crate) async fn connect_holding(&self, ops_held: bool) -> Result<Connection> {
        if let Some(connection) = self.lease.idle()? {
            return Ok(connection);
        }
        if let Some(connection) = self.connect_to_running(ops_held).await? {
            return Ok(connection);
        }
        let _one = self.lease.opening.lock().await;
        // Another operation may have opened it by now.
        if let Some(connection) = self.connect_to_running(ops_held).await? {
            return Ok(connection);
        }
        self.reopen(ops_held).await?;
        let connection = self.connect_to_running(ops_held).await?;
        connection
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the vessel's shim left right after its start"))
    }

    async fn connect_to_running(&self, ops_held: bool) -> Result<Option<Connection>> {
        if !self.lease.is_alive() {
            return Ok(None);
        }
        let (dir, ours) = (Arc::clone(&self.lease.dir), self.lease.is_ours());
        blocking(move || {
            if open::is_interrupted(dir.as_fd(), ops_held)? {
                return Ok(None);
            }
            Ok(if ours { Connection::open_own(dir.as_fd())? } else { Connection::open(dir.as_fd())? })
        })
        .await
    }

    /// Opens the vessel again; `ops_held`: the caller holds its `ops.lock`.
    pub(crate) async fn reopen(&self, ops_held: bool) -> Result<()> {
        self.lease.abandon();
        let opened = open::hold(&self.manager, &self.id, Some(&self.lease.dir), ops_held).await?;
        if self.lease.replace(opened.holder) { Ok(()) } else { Err(Error::conflict("the vessel is closed")) }
    }

    /// One request, or several on one connection. The connection is used again unless it broke.
    pub(crate) async fn request<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T> {
        let mut connection = self.connect().await?;
        let (connection, result) = blocking(move || {
            let result = work(&mut connection);
            Ok((connection, result))
        })
        .await?;
        match &result {
            Ok(_) | Err(CallError::Fault(_)) => self.lease.give_back(connection),
            // The shim is gone: the other connections to it, and its socket, may be so only a moment later.
            Err(CallError::Lost(_)) => self.lease.abandon(),
            Err(_) => {}
        }
        Ok(result?)
    }

    /// See [`Vessel::keep`](super::Vessel::keep).
    pub(super) async fn keep(&self, keep: bool) -> Result<()> {
        self.request(move |connection| connection.call_done(&Request::Keep(keep), &[])).await?;
        self.lease.state().kept = keep;
        Ok(())
    }

    /// See [`Vessel::linger`](super::Vessel::linger).
    pub(super) async fn linger(&self, time: Duration) -> Result<()> {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.request(move |connection| connection.call_done(&Request::Linger { millis }, &[])).await?;
        self.lease.state().lingers = millis > 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    fn lease() -> (Lease, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dir = crate::store::dirs::open_path(std::path::Path::new("/")).unwrap();
        (Lease::new(Arc::new(dir), Holder::joined(Connection::new(ours))), theirs)
    }

    #[test]
    fn a_shim_that_is_gone_is_noticed_without_asking_it() {
        let (lease, theirs) = lease();
        assert!(lease.is_alive());
        drop(theirs);
        assert!(!lease.is_alive());
    }

    #[test]
    fn broken_connections_are_not_used_again_and_a_closed_vessel_has_none() {
        let (lease, _theirs) = lease();
        let (good, _peer) = UnixStream::pair().unwrap();
        let (bad, gone) = UnixStream::pair().unwrap();
        drop(gone);
        lease.give_back(Connection::new(good));
        lease.give_back(Connection::new(bad));
        assert!(lease.idle().unwrap().is_some());
        assert!(lease.idle().unwrap().is_none());
        lease.state().closed = true;
        assert_eq!(lease.idle().unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[tokio::test]
    async fn children_are_reaped() {
        let child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        let dir = crate::store::dirs::open_path(std::path::Path::new("/")).unwrap();
        Reaper::new(child, dir).unwrap().gone().await;
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
