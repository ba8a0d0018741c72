//! Where a log is read from.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use time::OffsetDateTime;
use vesselrt_runtime::log::{Chunk, LogReader, Read, Stream};

use crate::error::{Error, Result};
use crate::vessel::process::Process;

/// Most lines that are looked for.
const MOST_LINES: usize = 1 << 20;

/// Where a log is read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogStart {
    /// The oldest byte that is kept.
    #[default]
    Oldest,
    /// This offset.
    Offset(u64),
    /// So many lines before the end, of the streams that are asked for; a million at most.
    Tail(usize),
    /// What was written at that time or later.
    Since(OffsetDateTime),
    /// The end: only what is written from now on.
    Now,
}

/// Which part of a log is read. The setters return the changed value, to be chained. By default it is all that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    pub(super) start: LogStart,
    pub(super) follow: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl LogOptions {
    /// All that is there.
    #[must_use]
    pub fn new() -> Self {
        Self { start: LogStart::Oldest, follow: false, stdout: true, stderr: true }
    }

    /// Where to begin.
    #[must_use]
    pub fn start(mut self, start: LogStart) -> Self {
        self.start = start;
        self
    }

    /// Whether to wait for what is written later, until the process ends.
    #[must_use]
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// Whether standard output, or the terminal, is wanted.
    #[must_use]
    pub fn stdout(mut self, wanted: bool) -> Self {
        self.stdout = wanted;
        self
    }

    /// Whether standard error is wanted.
    #[must_use]
    pub fn stderr(mut self, wanted: bool) -> Self {
        self.stderr = wanted;
        self
    }
}

/// The offset to begin at.
pub(super) fn find(process: &Process, dir: &OwnedFd, start: &LogStart, options: &LogOptions) -> Result<u64> {
    let failed = |e| Error::io(format!("failed to read the log of process {}", process.id()), e);
    let reader = |offset| -> std::io::Result<LogReader> { Ok(LogReader::new(dir.try_clone()?, offset)) };
    let found = (|| -> std::io::Result<Result<u64>> {
        let begin = reader(0)?.begin()?;
        Ok(Ok(match start {
            LogStart::Oldest => begin,
            LogStart::Offset(offset) if *offset < begin => return Ok(Err(gone(process, *offset, begin))),
            LogStart::Offset(offset) => *offset,
            LogStart::Now => {
                let mut reader = reader(reader(0)?.near_end()?)?;
                each(&mut reader, |_| true)?;
                reader.offset()
            }
            LogStart::Since(time) => since(&mut reader(begin)?, *time)?,
            LogStart::Tail(lines) => tail(&mut reader(begin)?, *lines, options)?,
        }))
    })();
    found.map_err(failed)?
}

fn gone(process: &Process, offset: u64, begin: u64) -> Error {
    let id = process.id();
    Error::not_found(format!("the log of process {id} before offset {begin} is gone, {offset} was asked for"))
        .with_remedy(format!("it begins at {begin}: read from there"))
}

/// Calls `each` for every chunk until it is false.
fn each(reader: &mut LogReader, mut each: impl FnMut(&Chunk) -> bool) -> std::io::Result<()> {
    loop {
        match reader.next()? {
            Read::End => return Ok(()),
            Read::Chunk(chunk) if !each(&chunk) => return Ok(()),
            _ => {}
        }
    }
}

fn since(reader: &mut LogReader, time: OffsetDateTime) -> std::io::Result<u64> {
    let micros = u64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(0);
    let mut found = None;
    each(reader, |chunk| {
        found = (chunk.micros >= micros).then_some(chunk.offset);
        found.is_none()
    })?;
    Ok(found.unwrap_or_else(|| reader.offset()))
}

/// Lines of the streams that are wanted, as they come one after the other.
fn tail(reader: &mut LogReader, lines: usize, options: &LogOptions) -> std::io::Result<u64> {
    let lines = lines.min(MOST_LINES);
    // Where the last lines begin; the one that has begun last may have nothing in it yet.
    let mut begins: VecDeque<u64> = VecDeque::new();
    let mut fresh = true;
    each(reader, |chunk| {
        let wanted = match chunk.stream {
            Stream::Stdout => options.stdout,
            Stream::Stderr => options.stderr,
        };
        for (offset, byte) in (chunk.offset..).zip(&chunk.data).filter(|_| wanted) {
            if fresh {
                begins.push_back(offset);
                if begins.len() > lines {
                    begins.pop_front();
                }
            }
            fresh = *byte == b'\n';
        }
        true
    })?;
    Ok(begins.front().copied().unwrap_or_else(|| reader.offset()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use vesselrt_runtime::log::LogWriter;

    fn log(writes: &[(Stream, u64, &str)]) -> (tempfile::TempDir, LogReader) {
        let dir = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(File::open(dir.path()).unwrap());
        let mut writer = LogWriter::new(open(), 1 << 20);
        for (stream, micros, text) in writes {
            writer.append(*stream, *micros, text.as_bytes());
        }
        let reader = LogReader::new(open(), 0);
        (dir, reader)
    }

    const WRITES: [(Stream, u64, &str); 4] = [
        (Stream::Stdout, 10, "one\ntw"),
        (Stream::Stderr, 20, "err\n"),
        (Stream::Stdout, 30, "o\n"),
        (Stream::Stdout, 40, "three"),
    ];

    #[test]
    fn the_last_lines_are_those_of_the_streams_that_are_wanted() {
        for (lines, stdout, stderr, offset) in [
            (0, true, true, 17),
            (1, true, true, 12),
            (2, true, true, 10),
            (3, true, true, 4),
            (9, true, true, 0),
            (1, true, false, 12),
            (2, true, false, 4),
            (1, false, true, 6),
            (0, false, true, 17),
        ] {
            let options = LogOptions::new().stdout(stdout).stderr(stderr);
            let (_dir, mut reader) = log(&WRITES);
            let found = tail(&mut reader, lines, &options).unwrap();
            assert_eq!(found, offset, "{lines} {stdout} {stderr}");
        }
    }

    #[test]
    fn what_was_written_since_a_time_begins_with_the_first_of_it() {
        for (micros, offset) in [(0, 0), (10, 0), (11, 6), (40, 12), (41, 17)] {
            let (_dir, mut reader) = log(&WRITES);
            let time = OffsetDateTime::from_unix_timestamp_nanos(micros * 1000).unwrap();
            assert_eq!(since(&mut reader, time).unwrap(), offset, "{micros}");
        }
    }
}
