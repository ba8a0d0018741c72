//! [`ProcessInput`]: the input of a detached process as a stream.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::termios::Winsize;
use tokio::io::AsyncWrite;
use tokio::net::unix::pipe::Sender;

use crate::error::{Error, Result};
use crate::vessel::terminal::Terminal;

/// The input of a detached process: a pipe, or its terminal. Any number may have it open.
#[derive(Debug)]
pub struct ProcessInput {
    stream: Stream,
}

#[derive(Debug)]
enum Stream {
    Pipe(Sender),
    Terminal(Terminal, OwnedFd),
}

impl ProcessInput {
    pub(super) fn new(fd: OwnedFd, terminal: bool) -> Result<Self> {
        let failed = |e| Error::io("failed to watch the input of a process", e);
        let stream = match terminal {
            false => Stream::Pipe(Sender::from_owned_fd(fd).map_err(failed)?),
            true => {
                let own = fd.try_clone().map_err(failed)?;
                Stream::Terminal(Terminal::new(fd).map_err(failed)?, own)
            }
        };
        Ok(Self { stream })
    }

    /// It is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.stream, Stream::Terminal(..))
    }

    /// Tells the terminal its new size.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a process without a terminal.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        let Stream::Terminal(_, terminal) = &self.stream else {
            return Err(Error::invalid("the process has no terminal"));
        };
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|e| Error::io("failed to resize the terminal", e))
    }
}

impl AsyncWrite for ProcessInput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Pipe(pipe) => Pin::new(pipe).poll_write(cx, data),
            Stream::Terminal(terminal, _) => Pin::new(terminal).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
