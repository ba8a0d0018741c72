//! Pipes between a command and the streams of a caller.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// Bytes that are copied at once.
const BUFFER: usize = 64 << 10;
/// Bytes that a pipe holds, where the user's limit of pipe memory allows it.
const PIPE: usize = 1 << 20;
/// How long a pipe may be silent after its command ended, before whoever still holds it is no longer listened to.
const IDLE: Duration = Duration::from_millis(100);
/// How long in all is waited for such a one.
const LINGER: Duration = Duration::from_secs(2);

/// A pipe to a command: its end, and ours.
pub(crate) fn input_pipe() -> Result<(OwnedFd, Sender)> {
    let (read, write) = pipe()?;
    let ours = Sender::from_owned_fd(write).map_err(|e| Error::io("failed to watch a pipe", e))?;
    Ok((read, ours))
}

/// A pipe from a command: our end, and its.
pub(crate) fn output_pipe() -> Result<(Receiver, OwnedFd)> {
    let (read, write) = pipe()?;
    let ours = Receiver::from_owned_fd(read).map_err(|e| Error::io("failed to watch a pipe", e))?;
    Ok((ours, write))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::io("failed to create a pipe", e))?;
    // A smaller pipe works too: the user may be over the soft limit of pipe memory.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE);
    Ok((read, write))
}

/// Lets a descriptor be awaited.
#[expect(
    deprecated,
    reason = "the replacement is unsafe; all that is watched here owns one descriptor and keeps it"
)]
pub(crate) fn watch<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owner)
}

/// A descriptor of `/dev/null`.
pub(crate) fn null() -> Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/null");
    Ok(file.map_err(|e| Error::io("failed to open /dev/null", e))?.into())
}

/// Copies until the end of `from`.
pub(crate) async fn copy(
    from: &mut (impl AsyncRead + Unpin + ?Sized),
    to: &mut (impl AsyncWrite + Unpin + ?Sized),
) -> io::Result<()> {
    tokio::io::copy_buf(&mut BufReader::with_capacity(BUFFER, from), to).await?;
    to.flush().await
}

/// Copies `from` to the pipe and closes it at the end, but not when `from` fails: the other end must not take what
/// it has for the whole. Whoever reads may stop early.
pub(crate) async fn feed(
    from: &mut (impl AsyncRead + Unpin + ?Sized),
    pipe: &mut Option<Sender>,
) -> io::Result<()> {
    let Some(open) = pipe.as_mut() else { return Ok(()) };
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        match open.write_all(&buffer[..read]).await {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
            other => other?,
        }
    }
    *pipe = None;
    Ok(())
}

/// Copies the output of a command until its end. `ended` turns true when the command itself has ended: all it wrote is
/// in the pipe then, and a process that it left behind is listened to for a moment only.
pub(crate) async fn drain(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let (mut lingered, mut after_end) = (Duration::ZERO, 0);
    while lingered < LINGER && after_end <= 2 * PIPE {
        let (since, over) = (Instant::now(), *ended.borrow());
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read?,
            () = silence(&mut ended) => 0,
        };
        if read == 0 {
            break;
        }
        if over {
            lingered += since.elapsed();
            after_end += read;
        }
        to.write_all(&buffer[..read]).await?;
    }
    to.flush().await
}

async fn silence(ended: &mut watch::Receiver<bool>) {
    // An error is the end of the sender: nobody waits for the command any more.
    let _ = ended.wait_for(|&ended| ended).await;
    tokio::time::sleep(IDLE).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn all_that_was_written_before_the_end_arrives_although_the_pipe_stays_open() {
        let (from, write) = output_pipe().unwrap();
        let mut file = File::from(write);
        // A user who has many pipes gets smaller ones (pipe(7), pipe-user-pages-soft).
        let room = rustix::pipe::fcntl_getpipe_size(&file).unwrap();
        let data = vec![7u8; room.min(60_000)];
        file.write_all(&data).unwrap();
        let (end, ended) = watch::channel(false);
        end.send(true).unwrap();
        let mut out = Vec::new();
        let started = Instant::now();
        drain(from, &mut out, ended).await.unwrap();
        assert_eq!(out, data);
        assert!(started.elapsed() >= IDLE && started.elapsed() < LINGER);
        drop(file);
    }

    #[tokio::test]
    async fn whoever_keeps_talking_after_the_end_is_cut_off() {
        let (end, ended) = watch::channel(true);
        let started = Instant::now();
        drain(tokio::io::repeat(1), tokio::io::sink(), ended).await.unwrap();
        assert!(started.elapsed() < LINGER * 2);
        drop(end);
    }

    #[tokio::test]
    async fn a_running_command_may_be_silent_for_longer() {
        let (from, write) = output_pipe().unwrap();
        let (end, ended) = watch::channel(false);
        let writer = std::thread::spawn(move || {
            std::thread::sleep(IDLE * 3);
            File::from(write).write_all(b"late").unwrap();
        });
        let mut out = Vec::new();
        drain(from, &mut out, ended).await.unwrap();
        assert_eq!(out, b"late");
        writer.join().unwrap();
        drop(end);
    }

    #[tokio::test]
    async fn a_failing_source_leaves_the_pipe_open_and_a_reader_that_stops_is_fine() {
        let (theirs, ours) = input_pipe().unwrap();
        let mut pipe = Some(ours);
        let mut broken = tokio_test_reader();
        assert!(feed(&mut broken, &mut pipe).await.is_err());
        assert!(pipe.is_some());
        drop(theirs);
        feed(&mut [1u8; 10].as_slice(), &mut pipe).await.unwrap();
        assert!(pipe.is_none());
    }

    /// Some bytes, then an error.
    fn tokio_test_reader() -> impl AsyncRead + Unpin {
        struct Broken(bool);
        impl AsyncRead for Broken {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                if std::mem::replace(&mut self.0, true) {
                    return std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                buf.put_slice(b"some");
                std::task::Poll::Ready(Ok(()))
            }
        }
        Broken(false)
    }
}
