//! The log of a process: what it wrote to its streams, in files that grow at the end and are removed at the beginning.
//!
//! ```text
//! log.00000000000000000000    a segment: frames one after the other
//! log.00000000000000262144    the next one; its name is the offset of its first byte
//! ```
//!
//! **Offsets** count the bytes of both streams together, in the order in which they were read from the process. An offset
//! names the same byte for ever: whoever has read up to it goes on from there and gets every later byte once, or is told
//! which bytes are gone: those before the oldest segment that is kept, and those that could not be written (a full disk).
//!
//! A frame is a header of 28 bytes, little endian, and the bytes themselves:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | how many bytes follow the header |
//! | 4 | stream: 1 standard output, or the terminal; 2 standard error |
//! | 5..8 | 0 |
//! | 8..16 | offset of the first of them |
//! | 16..24 | when they were read, in microseconds since 1970 |
//! | 24..28 | CRC-32 of all that is before it and of the bytes |
//!
//! One process writes; any number read meanwhile, without a lock. A frame that is not whole is one that is being written,
//! or what a crash left: a reader stops before it.
#![forbid(unsafe_code)]

mod frame;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags};

pub use frame::Stream;
pub use reader::{Chunk, LogReader, Read};
pub use writer::LogWriter;

/// The smallest log that makes sense, in bytes.
pub const MIN_LIMIT: u64 = 4 << 10;
/// Bytes that a log may have on disk unless something else is asked for.
pub const DEFAULT_LIMIT: u64 = 16 << 20;

const PREFIX: &str = "log.";
const DIGITS: usize = 20;

fn segment_name(offset: u64) -> String {
    format!("{PREFIX}{offset:0DIGITS$}")
}

/// The offsets at which the segments in a directory begin, oldest first.
///
/// # Errors
/// Those of reading a directory.
fn segments(dir: impl AsFd) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let digits = entry.file_name().to_str().ok().and_then(|name| name.strip_prefix(PREFIX));
        found.extend(digits.filter(|d| d.len() == DIGITS).and_then(|d| d.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

fn open_segment(dir: impl AsFd, offset: u64, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, segment_name(offset), flags, Mode::RUSR | Mode::WUSR)?)
}
