//! How a process ended, on disk.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{read, write};
use crate::shim::protocol::ExitStatus;

const NAME: &str = "end.json";
/// Bytes of the file, now and always.
const SIZE: usize = 512;

/// What made a process end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The process itself, or a signal that somebody sent to it.
    Itself,
    /// Its time was up.
    Timeout,
    /// The vessel was stopped.
    Stop,
    /// The shim was killed, and with it the process; or the one that wrote its log.
    Lost,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Exit code or signal, where somebody was there to see it.
    pub status: Option<ExitStatus>,
    /// What made it end.
    pub cause: Cause,
    /// Microseconds since 1970; of the time when it was noticed, for one that is lost.
    pub ended_us: u64,
    /// Offset of the end of its log, where it is known.
    pub log_end: Option<u64>,
    /// Bytes that it wrote and that could not be logged.
    pub log_lost: u64,
}

impl End {
    /// Nobody knows how.
    #[must_use]
    pub fn lost(now_us: u64) -> Self {
        Self { status: None, cause: Cause::Lost, ended_us: now_us, log_end: None, log_lost: 0 }
    }

    /// Makes room for the end of the process in this directory.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn reserve(dir: impl AsFd) -> io::Result<()> {
        write(dir, NAME, &[b' '; SIZE])
    }

    /// Writes it into the room that was made for it, in one piece: readers see blanks or all of it.
    ///
    /// # Errors
    /// Those of writing; `NotFound` when there is no room for it, as in a record that is being removed.
    pub fn write(&self, dir: impl AsFd) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        if bytes.len() > SIZE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        bytes.resize(SIZE, b' ');
        open(dir, OFlags::WRONLY)?.write_all_at(&bytes, 0)
    }

    /// Waits until it is on disk.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn sync(dir: impl AsFd) -> io::Result<()> {
        open(dir, OFlags::RDONLY)?.sync_all()
    }

    /// How the process in this directory ended, if it did: what is half written, or was when the power was cut, is no end.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(dir: impl AsFd) -> io::Result<Option<Self>> {
        let bytes = read(dir, NAME, SIZE as u64)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

fn open(dir: impl AsFd, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, NAME, flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_takes_the_room_of_the_blanks_and_half_of_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        assert_eq!(End::read(&fd).unwrap(), None);
        End::reserve(&fd).unwrap();
        assert_eq!(End::read(&fd).unwrap(), None);
        let end = End {
            status: Some(ExitStatus::Signal(i32::MAX)),
            cause: Cause::Timeout,
            ended_us: u64::MAX,
            log_end: Some(u64::MAX),
            log_lost: u64::MAX,
        };
        end.write(&fd).unwrap();
        assert_eq!(End::read(&fd).unwrap(), Some(end));
        assert_eq!(std::fs::metadata(dir.path().join(NAME)).unwrap().len(), SIZE as u64);
        let torn: Vec<u8> = std::fs::read(dir.path().join(NAME)).unwrap()[..20].to_vec();
        std::fs::write(dir.path().join(NAME), torn).unwrap();
        assert_eq!(End::read(&fd).unwrap(), None);
    }
}
