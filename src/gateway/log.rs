//! The log of denied connections: lines of JSON in the vessel's directory, in two files of bounded size.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// The file that is written.
pub(crate) const NAME: &str = "network.log";
/// The one that was, before the other became full.
pub(crate) const OLD_NAME: &str = "network.log.1";
/// How large each becomes.
pub(crate) const MAX_BYTES: u64 = 512 << 10;
/// Longest name that is written down: one of the DNS has 253 characters.
const MAX_HOST: usize = 256;
/// Most lines of a second; what is more is only counted.
const MAX_A_SECOND: u32 = 100;

/// A connection that the proxy of a vessel denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeniedConnection {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// How it was asked for: `connect`, `http` or `socks5`.
    pub via: String,
    /// What was asked for, as it was: anything, chosen by what runs inside.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Why it was denied.
    pub reason: String,
    /// How many before it were denied and not written down, because they were too many.
    #[serde(default)]
    pub omitted: u64,
}

pub(super) use DeniedConnection as Denial;

impl DeniedConnection {
    pub(super) fn new(via: &str, host: &str, port: u16, reason: String) -> Self {
        let host = host.chars().take(MAX_HOST).collect();
        Self { time: OffsetDateTime::now_utc(), via: via.to_owned(), host, port, reason, omitted: 0 }
    }

    /// The entries of a file; a line that is none is left out.
    pub(crate) fn read(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
    }
}

/// The log as it is written.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Mutex<Writer>>);

#[derive(Debug)]
struct Writer {
    dir: OwnedFd,
    file: File,
    size: u64,
    second: Instant,
    written: u32,
    omitted: u64,
}

impl Log {
    /// Opens it in the vessel's directory.
    pub(super) fn open(dir: OwnedFd) -> io::Result<Self> {
        let file = open(&dir)?;
        let size = file.metadata()?.len();
        let writer = Writer { dir, file, size, second: Instant::now(), written: 0, omitted: 0 };
        Ok(Self(Arc::new(Mutex::new(writer))))
    }

    /// Adds an entry. One that cannot be written is lost: a full disk must not open a way out.
    pub(super) async fn add(&self, denial: Denial) {
        let log = Arc::clone(&self.0);
        let add = move || log.lock().unwrap_or_else(PoisonError::into_inner).add(denial);
        let _ = tokio::task::spawn_blocking(add).await;
    }
}

impl Writer {
    fn add(&mut self, mut denial: Denial) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.written) = (Instant::now(), 0);
        }
        if self.written >= MAX_A_SECOND {
            self.omitted = self.omitted.saturating_add(1);
            return;
        }
        denial.omitted = self.omitted;
        if self.write(&denial).is_ok() {
            self.written += 1;
            self.omitted = 0;
        }
    }

    fn write(&mut self, denial: &Denial) -> io::Result<()> {
        let mut line = serde_json::to_vec(denial)?;
        line.push(b'\n');
        let length = line.len() as u64;
        if self.size + length > MAX_BYTES {
            rustix::fs::renameat(&self.dir, NAME, &self.dir, OLD_NAME)?;
            self.file = open(&self.dir)?;
            self.size = 0;
        }
        self.file.write_all(&line)?;
        self.size += length;
        Ok(())
    }
}

fn open(dir: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, NAME, flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(dir: &std::path::Path) -> Writer {
        let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let file = open(&dir).unwrap();
        Writer { dir, file, size: 0, second: Instant::now(), written: 0, omitted: 0 }
    }

    #[test]
    fn entries_read_back_whatever_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path());
        for host in ["a.test", "x\n{\"host\":1}\u{1b}[2J\"", ""] {
            writer.add(Denial::new("connect", host, 443, "the name is not allowed".into()));
        }
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        let hosts: Vec<String> = Denial::read(&bytes).map(|denial| denial.host).collect();
        assert_eq!(hosts, ["a.test", "x\n{\"host\":1}\u{1b}[2J\"", ""]);
    }

    #[test]
    fn a_flood_is_counted_and_the_files_stay_small() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path());
        let long = "\u{1}".repeat(10_000);
        for _ in 0..40 {
            for _ in 0..MAX_A_SECOND + 10 {
                writer.add(Denial::new("socks5", &long, 1, "no".into()));
            }
            writer.written = 0;
        }
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size(NAME) <= MAX_BYTES && size(OLD_NAME) <= MAX_BYTES);
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        assert!(Denial::read(&bytes).any(|denial| denial.omitted == 10));
        assert!(Denial::read(&bytes).all(|denial| denial.host.len() == MAX_HOST));
    }
}
