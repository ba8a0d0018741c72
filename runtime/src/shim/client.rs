//! The client's end: one connection, one operation at a time. Blocking; callers of an async world use their own
//! blocking threads.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::protocol::{Fault, Reply, Request, VERSION};
use super::wire;

/// Name of the socket in a vessel's directory.
pub const SOCKET: &str = "shim.sock";

/// A call that did not end as asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The shim says why not.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The connection broke: the shim is gone.
    #[error("lost the connection to the shim")]
    Lost(#[source] io::Error),
    /// The shim answered something else than the protocol has there.
    #[error("unexpected reply of the shim: {0}")]
    Unexpected(&'static str),
    /// The running shim is of another version of vesselrt.
    #[error("the running shim speaks protocol version {theirs}, this vesselrt {ours}; stop the vessel first")]
    Version {
        /// Of the shim.
        theirs: u32,
        /// Of this library.
        ours: u32,
    },
}

/// A connection to a shim.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
}

impl Connection {
    /// Takes a connected socket.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket }
    }

    /// Connects to the shim of the vessel whose directory is given; `None` when none runs.
    ///
    /// # Errors
    /// Those of connect(2) other than "nobody there"; [`CallError::Version`].
    pub fn open(vessel_dir: BorrowedFd<'_>) -> Result<Option<Self>, CallError> {
        match Self::open_own(vessel_dir)? {
            Some(connection) => connection.greeted().map(Some).or_else(gone_is_none),
            None => Ok(None),
        }
    }

    /// [`Self::open`] for a shim that this process has started: it is known to be of this version.
    ///
    /// # Errors
    /// Those of connect(2) other than "nobody there".
    pub fn open_own(vessel_dir: BorrowedFd<'_>) -> Result<Option<Self>, CallError> {
        // A path through /proc is short whatever the store's path is: sun_path holds 107 bytes.
        let path = format!("/proc/self/fd/{}/{SOCKET}", vessel_dir.as_raw_fd());
        match UnixStream::connect(path) {
            Ok(socket) => Ok(Some(Self::new(socket))),
            Err(error) if nobody_there(&error) => Ok(None),
            Err(error) => Err(CallError::Lost(error)),
        }
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    fn greeted(mut self) -> Result<Self, CallError> {
        match self.call(&Request::Hello, &[])?.0 {
            Reply::Hello { version: VERSION, .. } => Ok(self),
            Reply::Hello { version, .. } => Err(CallError::Version { theirs: version, ours: VERSION }),
            _ => Err(CallError::Unexpected("hello")),
        }
    }

    /// Sends a request and waits for its reply and the descriptors with it. A [`Reply::Failed`] becomes the error.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), CallError> {
        self.send(request, fds)?;
        self.receive()
    }

    /// [`Self::call`] for requests whose reply is [`Reply::Done`].
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call_done(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), CallError> {
        match self.call(request, fds)?.0 {
            Reply::Done => Ok(()),
            _ => Err(CallError::Unexpected("not done")),
        }
    }

    /// Sends a request only.
    ///
    /// # Errors
    /// [`CallError::Lost`].
    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), CallError> {
        wire::send(&self.socket, request, fds).map_err(CallError::Lost)
    }

    /// Waits for a reply.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn receive(&mut self) -> Result<(Reply, Vec<OwnedFd>), CallError> {
        match wire::recv::<Reply>(&self.socket).map_err(CallError::Lost)? {
            Some((Reply::Failed(fault), _)) => Err(CallError::Fault(fault)),
            Some(reply) => Ok(reply),
            None => Err(CallError::Lost(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Lets every later reply take so long at most.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(patience)
    }

    /// Waits until the shim closes the connection, as it does when it is gone.
    ///
    /// # Errors
    /// [`CallError::Lost`] when it is not gone within `timeout`.
    pub fn wait_closed(&mut self, timeout: Duration) -> Result<(), CallError> {
        self.socket.set_read_timeout(Some(timeout)).map_err(CallError::Lost)?;
        match wire::recv::<Reply>(&self.socket) {
            Ok(None) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Ok(Some(_)) => Err(CallError::Unexpected("a reply instead of the end")),
            Err(e) => Err(CallError::Lost(e)),
        }
    }

    /// A second handle on the same connection (to send a signal while another thread waits, or to shut it down).
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// Ends the connection now, waking whoever waits on a clone of it; the shim kills the command it runs.
    pub fn hang_up(&self) {
        // ENOTCONN only says that it has ended already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn nobody_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// A shim that leaves between our connect and its answer is one that is not there.
fn gone_is_none(error: CallError) -> Result<Option<Connection>, CallError> {
    match error {
        CallError::Lost(_) => Ok(None),
        other => Err(other),
    }
}
