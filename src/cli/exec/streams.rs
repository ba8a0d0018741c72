//! Which of our standard streams a command gets as they are, and which are copied.
//!
//! A descriptor is more than a stream: with that of a file the command could map it, truncate it or find the rest of it through
//! `/proc/self/fd`; with that of a terminal it could type into our session (TIOCSTI). So only what carries bytes and nothing
//! else is handed over: pipes, sockets and `/dev/null`. Everything else is copied through a pipe.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat, fstat, major, minor};
use vesselrt::ExecOptions;

use crate::cli::{Failure, Outcome};

/// One of our streams as a command gets it.
enum Way {
    HandOver(OwnedFd),
    Copy(tokio::fs::File),
}

/// Joins the command with our streams; with its standard input only if asked to.
pub(super) fn join(options: ExecOptions, interactive: bool) -> Outcome<ExecOptions> {
    let options = match way(std::io::stdout().as_fd(), "standard output")? {
        Way::HandOver(fd) => options.stdout_fd(fd),
        Way::Copy(file) => options.stdout(file),
    };
    let options = match way(std::io::stderr().as_fd(), "standard error")? {
        Way::HandOver(fd) => options.stderr_fd(fd),
        Way::Copy(file) => options.stderr(file),
    };
    if !interactive {
        return Ok(options);
    }
    Ok(match way(std::io::stdin().as_fd(), "standard input")? {
        Way::HandOver(fd) => options.stdin_fd(fd),
        Way::Copy(file) => options.stdin(file),
    })
}

/// Joins the terminal of the command with our input and output: both are copied, whatever they are.
pub(super) fn join_terminal(options: ExecOptions) -> Outcome<ExecOptions> {
    let input = duplicate(std::io::stdin().as_fd(), "standard input")?;
    let output = duplicate(std::io::stdout().as_fd(), "standard output")?;
    Ok(options.stdin(into_file(input)).stdout(into_file(output)))
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
