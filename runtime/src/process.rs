//! What is known of a vessel's detached processes on disk, whether a shim runs or not.
//!
//! ```text
//! vessels/ID/processes/      0700
//!   next                     number of the next one: none is given twice
//!   pN/                      one process, from its start until it is removed
//!     meta.json              what was started; never changed
//!     end.json               blanks until it has ended: they keep the room for it on a disk that gets full
//!     log.*                  what it wrote, see [`crate::log`]
//! ```
//!
//! The shim that started a process, and its forks, are the only ones that write. Nothing is synced before the end: a
//! process does not survive a power cut, and its record need not. What a shim that was killed left without an end is
//! marked as lost by the next one.
#![forbid(unsafe_code)]

mod end;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use end::{Cause, End};

/// The directory in that of a vessel.
const DIR: &str = "processes";
const NEXT: &str = "next";
const META: &str = "meta.json";
/// Bytes of arguments that are written down.
const MAX_ARGV: usize = 64 << 10;
/// Most bytes of a `meta.json`: every byte of an argument may be escaped.
const MAX_META: u64 = 1 << 20;
/// How many processes that have ended are remembered.
pub const KEPT: usize = 100;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// What was started. The environment is not among it: it may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Program and arguments to show: what is not UTF-8 is replaced, what is very long is cut.
    pub argv: Vec<String>,
    /// As it was asked for; empty is root.
    pub user: String,
    /// Directory inside, to show.
    pub cwd: String,
    /// Microseconds since 1970.
    pub started_us: u64,
    /// It has a terminal.
    pub terminal: bool,
    /// Its input is open.
    pub input: bool,
    /// What it writes to the vessel's files is thrown away.
    pub ephemeral: bool,
    /// How long it may run.
    pub timeout_ms: Option<u64>,
    /// Bytes that its log may have on disk.
    pub log_limit: u64,
}

impl Meta {
    /// Arguments as they are written down.
    #[must_use]
    pub fn shown(argv: &[Vec<u8>]) -> Vec<String> {
        let mut left = MAX_ARGV;
        let mut shown = Vec::new();
        for arg in argv {
            let part = &arg[..arg.len().min(left)];
            shown.push(String::from_utf8_lossy(part).into_owned());
            left -= part.len();
            if part.len() < arg.len() || left == 0 {
                break;
            }
        }
        shown
    }
}

/// The name of a process.
#[must_use]
pub fn name(number: u64) -> String {
    format!("p{number}")
}

/// The number in a name.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix('p')?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

/// The processes of a vessel.
#[derive(Debug)]
pub struct Records(OwnedFd);

impl Records {
    /// Those of the vessel with this directory; `None` when it never had any.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open(vessel: impl AsFd) -> io::Result<Option<Self>> {
        Ok(open_dir(vessel, DIR)?.map(Self))
    }

    /// Those in the directory that is open as `dir`.
    #[must_use]
    pub fn of(dir: OwnedFd) -> Self {
        Self(dir)
    }

    /// [`Self::open`], where they are begun.
    ///
    /// # Errors
    /// Those of mkdirat(2).
    pub fn create(vessel: impl AsFd) -> io::Result<Self> {
        make_dir(&vessel, DIR)?;
        Self::open(vessel)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// All that are remembered, in the order of their start.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            found.extend(entry?.file_name().to_str().ok().and_then(number));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The directory of a process, if it is remembered.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn get(&self, number: u64) -> io::Result<Option<OwnedFd>> {
        open_dir(&self.0, &name(number))
    }

    /// The descriptor of the directory.
    #[must_use]
    pub fn dir(&self) -> &OwnedFd {
        &self.0
    }

    /// A number that no process of this vessel had before. Only for the one who holds the vessel's lock.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn take_number(&self) -> io::Result<u64> {
        let written = read(&self.0, NEXT, 32)?.and_then(|b| String::from_utf8(b).ok()?.trim().parse().ok());
        let above = self.numbers()?.last().map_or(1, |last| last.saturating_add(1));
        let number = above.max(written.unwrap_or(1));
        let next = number.checked_add(1).ok_or(io::ErrorKind::Other)?;
        let staged = ".next";
        write(&self.0, staged, format!("{next}\n").as_bytes())?;
        rustix::fs::renameat(&self.0, staged, &self.0, NEXT)?;
        Ok(number)
    }

    /// Begins the record of a process, which is seen as a whole or not at all.
    ///
    /// # Errors
    /// Those of writing.
    pub fn begin(&self, number: u64, meta: &Meta) -> io::Result<OwnedFd> {
        let staged = format!(".{}", name(number));
        make_dir(&self.0, &staged)?;
        let dir = open_dir(&self.0, &staged)?.ok_or(io::ErrorKind::NotFound)?;
        let written = serde_json::to_vec(meta)
            .map_err(io::Error::other)
            .and_then(|json| write(&dir, META, &json))
            .and_then(|()| End::reserve(&dir))
            .and_then(|()| Ok(rustix::fs::renameat(&self.0, &staged, &self.0, name(number))?));
        if written.is_err() {
            // What cannot be removed either is not seen by anyone.
            let _ = remove_dir(&self.0, &staged, &dir);
        }
        written.map(|()| dir)
    }

    /// Forgets a process, log and all.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove(&self, number: u64) -> io::Result<()> {
        let (seen, unseen) = (name(number), format!(".{}", name(number)));
        match rustix::fs::renameat(&self.0, &seen, &self.0, &unseen) {
            Ok(()) => self.remove_unseen(&unseen),
            // Somebody else was faster.
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn remove_unseen(&self, unseen: &str) -> io::Result<()> {
        let Some(dir) = open_dir(&self.0, unseen)? else { return Ok(()) };
        remove_dir(&self.0, unseen, &dir)
    }

    /// Forgets the oldest of those that have ended, until [`KEPT`] of them are left.
    ///
    /// # Errors
    /// Those of reading and removing.
    pub fn prune(&self) -> io::Result<()> {
        let mut ended = Vec::new();
        for number in self.numbers()? {
            if let Some(dir) = self.get(number)?
                && End::read(&dir)?.is_some()
            {
                ended.push(number);
            }
        }
        let over = ended.len().saturating_sub(KEPT);
        ended[..over].iter().try_for_each(|number| self.remove(*number))
    }

    /// Marks those that have no end, and removes what was half made or half removed. Only for the one who holds the
    /// vessel's lock and has started none yet.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn mark_lost(&self, now_us: u64) -> io::Result<()> {
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            if let Ok(unseen) = entry.file_name().to_str()
                && unseen.strip_prefix('.').and_then(number).is_some()
            {
                self.remove_unseen(unseen)?;
            }
        }
        for number in self.numbers()? {
            if let Some(dir) = self.get(number)?
                && End::read(&dir)?.is_none()
            {
                // What a power cut left may be without it.
                End::reserve(&dir)?;
                End::lost(now_us).write(&dir)?;
            }
        }
        Ok(())
    }
}

/// What was started in the process with this directory; `None` for one that is being removed.
///
/// # Errors
/// `InvalidData` for a damaged file.
pub fn read_meta(dir: impl AsFd) -> io::Result<Option<Meta>> {
    let Some(bytes) = read(dir, META, MAX_META)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn make_dir(parent: impl AsFd, name: &str) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_dir(parent: impl AsFd, name: &str) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes a directory that has nothing but files.
fn remove_dir(parent: &OwnedFd, name: &str, dir: &OwnedFd) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            gone(rustix::fs::unlinkat(dir, entry.file_name(), AtFlags::empty()))?;
        }
    }
    gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

/// Somebody else may have been faster.
fn gone(removed: rustix::io::Result<()>) -> io::Result<()> {
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn write(dir: impl AsFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    File::from(file).write_all(bytes)
}

/// The content of a small file, if it is there.
fn read(dir: impl AsFd, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> (tempfile::TempDir, Records) {
        let dir = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(dir.path(), DIRECTORY, Mode::empty()).unwrap();
        assert!(Records::open(&fd).unwrap().is_none());
        let records = Records::create(&fd).unwrap();
        (dir, records)
    }

    fn meta() -> Meta {
        Meta {
            argv: vec!["sleep".into(), "1".into()],
            user: String::new(),
            cwd: "/work".into(),
            started_us: 7,
            terminal: false,
            input: true,
            ephemeral: false,
            timeout_ms: Some(3),
            log_limit: 4096,
        }
    }

    #[test]
    fn a_record_reads_back_and_numbers_are_never_given_twice() {
        let (_dir, records) = records();
        let first = records.take_number().unwrap();
        let dir = records.begin(first, &meta()).unwrap();
        assert_eq!((first, read_meta(&dir).unwrap()), (1, Some(meta())));
        assert_eq!(records.take_number().unwrap(), 2);
        records.remove(first).unwrap();
        assert_eq!((records.numbers().unwrap(), records.take_number().unwrap()), (vec![], 3));
        rustix::fs::unlinkat(records.dir(), NEXT, AtFlags::empty()).unwrap();
        records.begin(8, &meta()).unwrap();
        assert_eq!(records.take_number().unwrap(), 9, "a lost counter does not begin anew");
    }

    #[test]
    fn what_has_no_end_is_lost_and_the_oldest_ended_are_forgotten() {
        let (_dir, records) = records();
        for number in 1..=KEPT as u64 + 3 {
            let dir = records.begin(number, &meta()).unwrap();
            if number != 2 {
                End::lost(1).write(&dir).unwrap();
            }
        }
        records.prune().unwrap();
        let left = records.numbers().unwrap();
        assert_eq!((left.len(), left[0], left[1]), (KEPT + 1, 2, 4), "one that runs stays");
        records.mark_lost(5).unwrap();
        let end = End::read(records.get(2).unwrap().unwrap()).unwrap().unwrap();
        assert_eq!(end, End::lost(5));
        assert_eq!(End::read(records.get(4).unwrap().unwrap()).unwrap(), Some(End::lost(1)));
    }

    #[test]
    fn names_are_plain() {
        assert_eq!((number("p1"), number("p42")), (Some(1), Some(42)));
        for bad in ["", "p", "p0", "p01", "p+1", "p-1", "1", "px", "p1/", ".p1", "p99999999999999999999"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn long_arguments_are_cut() {
        let shown = Meta::shown(&[b"a\xff".to_vec(), vec![b'x'; 1 << 20], b"never".to_vec()]);
        assert_eq!((shown.len(), shown[0].as_str(), shown[1].len()), (2, "a\u{fffd}", MAX_ARGV - 2));
    }
}
