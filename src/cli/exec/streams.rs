//! Which of our standard streams a command gets as they are, and which are copied.
//!
//! A descriptor is more than a stream: with that of a file the command could map it, truncate it or find the rest of it through
//! `/proc/self/fd`; with that of a terminal it could type into our session (TIOCSTI). So only what carries bytes and nothing
//! else is handed over: pipes, sockets and `/dev/null`. Everything else is copied through a pipe.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rustix::fs::{FileType, Stat, fstat, major, minor};
use tokio::io::AsyncWrite;
use vesselrt::ExecOptions;

use super::copied::Copied;
use crate::cli::{Failure, Outcome};

const STDOUT: &str = "standard output";
const STDERR: &str = "standard error";

/// What went wrong with our own streams while a command wrote to them. The command sees a broken pipe and may say nothing of
/// it: the disk that is full must be told by us.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<Failure>>>);

impl Trouble {
    fn watch(&self, file: tokio::fs::File, name: &'static str) -> Watched {
        Watched { file, name, trouble: self.clone() }
    }

    /// The first failure that is worth telling.
    pub(super) fn take(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().filter(|failure| !failure.is_quiet())
    }
}

/// A stream whose first failure is remembered.
struct Watched {
    file: tokio::fs::File,
    name: &'static str,
    trouble: Trouble,
}

impl Watched {
    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(e)) = &polled {
            // The error itself goes on to the library.
            let copy = e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error);
            let mut first = self.trouble.0.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| Failure::io(format!("write to {}", self.name), copy));
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.file).poll_write(cx, data);
        self.note(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.file).poll_flush(cx);
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.file).poll_shutdown(cx);
        self.note(polled)
    }
}

/// One of our streams as a command gets it.
enum Way {
    HandOver(OwnedFd),
    Copy(tokio::fs::File),
}

/// Joins the command with our streams; with its standard input only if asked to.
pub(super) fn join(options: ExecOptions, interactive: bool, trouble: &Trouble) -> Outcome<ExecOptions> {
    let options = match way(std::io::stdout().as_fd(), STDOUT)? {
        Way::HandOver(fd) => options.stdout_fd(fd),
        Way::Copy(file) => options.stdout(trouble.watch(file, STDOUT)),
    };
    let options = match way(std::io::stderr().as_fd(), STDERR)? {
        Way::HandOver(fd) => options.stderr_fd(fd),
        Way::Copy(file) => options.stderr(trouble.watch(file, STDERR)),
    };
    if !interactive {
        return Ok(options);
    }
    Ok(match way(std::io::stdin().as_fd(), "standard input")? {
        Way::HandOver(fd) => options.stdin_fd(fd),
        Way::Copy(file) => options.stdin(file),
    })
}

/// [`join`] for a command that gets no input, where nothing but pipes is needed; what is to be copied to files.
pub(super) fn hand_over(options: ExecOptions) -> Option<(ExecOptions, Vec<Copied>)> {
    let mut copied = Vec::new();
    let mut own = |fd: BorrowedFd<'_>, name: &'static str| {
        let (stat, own) = (fstat(fd).ok()?, duplicate(fd, name).ok()?);
        if carries_bytes_only(&stat) {
            return Some(own);
        }
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(())?;
        let (stream, theirs) = Copied::new(own, name).ok()?;
        copied.push(stream);
        Some(theirs)
    };
    let (output, errors) = (own(std::io::stdout().as_fd(), STDOUT)?, own(std::io::stderr().as_fd(), STDERR)?);
    Some((options.stdout_fd(output).stderr_fd(errors), copied))
}

/// Joins the terminal of the command with our input and output: both are copied, whatever they are.
pub(super) fn join_terminal(options: ExecOptions, trouble: &Trouble) -> Outcome<ExecOptions> {
    let input = duplicate(std::io::stdin().as_fd(), "standard input")?;
    let output = into_file(duplicate(std::io::stdout().as_fd(), STDOUT)?);
    Ok(options.stdin(into_file(input)).stdout(trouble.watch(output, STDOUT)))
}

fn way(fd: BorrowedFd<'_>, name: &str) -> Outcome<Way> {
    let stat = fstat(fd).map_err(|e| Failure::io(format!("look at {name}"), e))?;
    let own = duplicate(fd, name)?;
    Ok(if carries_bytes_only(&stat) { Way::HandOver(own) } else { Way::Copy(into_file(own)) })
}

fn carries_bytes_only(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::Socket => true,
        // /dev/null (Documentation/admin-guide/devices.txt).
        FileType::CharacterDevice => (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3),
        _ => false,
    }
}

fn duplicate(fd: BorrowedFd<'_>, name: &str) -> Outcome<OwnedFd> {
    fd.try_clone_to_owned().map_err(|e| Failure::io(format!("duplicate {name}"), e))
}

fn into_file(fd: OwnedFd) -> tokio::fs::File {
    tokio::fs::File::from_std(std::fs::File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, open};

    fn judged(fd: impl AsFd) -> bool {
        carries_bytes_only(&fstat(fd).unwrap())
    }

    #[tokio::test]
    async fn the_first_failure_of_a_stream_is_remembered() {
        use tokio::io::AsyncWriteExt;
        let trouble = Trouble::default();
        let full = tokio::fs::OpenOptions::new().write(true).open("/dev/full").await.unwrap();
        let mut stream = trouble.watch(full, STDOUT);
        let written = stream.write_all(b"x").await.and(stream.flush().await);
        assert!(written.is_err());
        let failure = trouble.take().unwrap();
        assert!(failure.message().starts_with("failed to write to standard output: "), "{failure:?}");
        assert!(trouble.take().is_none());
    }

    #[test]
    fn only_what_carries_bytes_is_handed_over() {
        let at = |path: &str, flags| open(path, flags, Mode::empty()).unwrap();
        let (read, write) = std::io::pipe().unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(judged(&read) && judged(&write) && judged(&socket));
        assert!(judged(at("/dev/null", OFlags::RDWR)));
        assert!(!judged(at("/dev/zero", OFlags::RDONLY)));
        assert!(!judged(at("/proc/self/status", OFlags::RDONLY)));
        assert!(!judged(at("/", OFlags::RDONLY | OFlags::DIRECTORY)));
        assert!(!judged(tempfile::tempfile().unwrap()));
    }
}
