//! Output that goes to a file of ours: its descriptor must not enter the vessel (a command could truncate or map the file, or
//! read what else is in it), so the command gets a pipe, and what comes out of it is written here.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::cli::{Failure, Outcome};

/// Bytes that are copied at once.
const BUFFER: usize = 64 << 10;
/// Bytes that a pipe holds, where the user's limit of pipe memory allows it.
const PIPE: usize = 1 << 20;

/// One stream.
#[derive(Debug)]
pub(super) struct Copied {
    /// `None` at its end, and when nothing more can be written.
    from: Option<OwnedFd>,
    to: File,
    name: &'static str,
    failure: Option<io::Error>,
}

impl Copied {
    /// A stream to `to`, and the end of it for the command.
    pub(super) fn new(to: OwnedFd, name: &'static str) -> io::Result<(Self, OwnedFd)> {
        let (from, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Ours alone: the two ends are two open files.
        rustix::fs::fcntl_setfl(&from, OFlags::NONBLOCK)?;
        // A smaller pipe works too: the user may be over the soft limit of pipe memory.
        let _ = rustix::pipe::fcntl_setpipe_size(&theirs, PIPE);
        Ok((Self { from: Some(from), to: File::from(to), name, failure: None }, theirs))
    }

    /// What is readable when there is something to copy, and at the end.
    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.from.as_ref().map(AsFd::as_fd)
    }

    /// Copies what is there, up to a buffer; whether it may be that there is more.
    pub(super) fn copy(&mut self) -> bool {
        let Some(from) = &self.from else { return false };
        let mut buffer = [0; BUFFER];
        let read = match rustix::io::read(from, &mut buffer) {
            Ok(0) => None,
            Ok(read) => Some(Ok(read)),
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => return false,
            Err(error) => Some(Err(io::Error::from(error))),
        };
        match read.map(|read| read.and_then(|read| self.to.write_all(&buffer[..read]))) {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                // The command meets a broken pipe.
                (self.from, self.failure) = (None, Some(error));
                false
            }
            None => {
                self.from = None;
                false
            }
        }
    }

    /// Copies what is left when the command has ended, which is in the pipe. Somebody else may have got hold of its other end:
    /// nobody waits for that one.
    ///
    /// # Errors
    /// The first one of the file.
    pub(super) fn end(mut self) -> Outcome {
        for _ in 0..=(PIPE / BUFFER) {
            if !self.copy() {
                break;
            }
        }
        match self.failure {
            None => Ok(()),
            Some(error) => Err(Failure::io(format!("write to {}", self.name), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_written_is_copied_although_somebody_holds_the_pipe() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (copied, theirs) = Copied::new(file.reopen().unwrap().into(), "standard output").unwrap();
        let held = theirs.try_clone().unwrap();
        let text = "x".repeat(BUFFER * 3 / 4);
        File::from(theirs).write_all(text.as_bytes()).unwrap();
        copied.end().unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
        drop(held);
    }

    #[test]
    fn a_file_that_takes_nothing_ends_the_pipe() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (mut copied, theirs) = Copied::new(full.into(), "standard output").unwrap();
        let mut theirs = File::from(theirs);
        theirs.write_all(b"x").unwrap();
        assert!(!copied.copy() && copied.watched().is_none());
        assert_eq!(theirs.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let failure = copied.end().unwrap_err();
        assert!(failure.text().contains("failed to write to standard output: "), "{}", failure.text());
    }
}
