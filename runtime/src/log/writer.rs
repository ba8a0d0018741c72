//! Writing a log.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, OFlags};

use super::frame::{HEADER, Header, MAX_DATA};
use super::{MIN_LIMIT, Stream, open_segment, segment_name};

/// A log has so many segments at most: a new one replaces the oldest.
const SEGMENTS: u64 = 4;

/// Appends to a log that nobody else writes. What cannot be written is left out, and its bytes are counted: the
/// process that is logged must not fail because a disk is full.
#[derive(Debug)]
pub struct LogWriter {
    dir: OwnedFd,
    /// Bytes on disk of one segment.
    segment: u64,
    /// Oldest first, with their bytes on disk; the last is the one that grows.
    kept: Vec<(u64, u64)>,
    file: Option<File>,
    offset: u64,
    lost: u64,
}

impl LogWriter {
    /// Begins a log in a directory that has none. It takes at most `limit` bytes on disk, and at least [`MIN_LIMIT`].
    #[must_use]
    pub fn new(dir: OwnedFd, limit: u64) -> Self {
        let segment = limit.max(MIN_LIMIT) / SEGMENTS;
        Self { dir, segment, kept: Vec::new(), file: None, offset: 0, lost: 0 }
    }

    /// Most bytes that should be appended at once.
    #[must_use]
    pub fn portion(&self) -> usize {
        usize::try_from(self.segment / 2).unwrap_or(MAX_DATA).saturating_sub(HEADER).clamp(1, MAX_DATA)
    }

    /// The offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that could not be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Appends what was read from `stream` at that time (microseconds since 1970).
    pub fn append(&mut self, stream: Stream, micros: u64, data: &[u8]) {
        for part in data.chunks(self.portion()) {
            let header = Header::of(stream, self.offset, micros, part);
            if self.write(&header, part).is_err() {
                self.lost += part.len() as u64;
            }
            self.offset += part.len() as u64;
        }
    }

    /// Waits until what was written is on disk.
    ///
    /// # Errors
    /// Those of fdatasync(2).
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    fn write(&mut self, header: &Header, data: &[u8]) -> io::Result<()> {
        let size = (HEADER + data.len()) as u64;
        if self.kept.last().is_none_or(|(_, used)| used + size > self.segment) {
            self.file = None;
        }
        if self.file.is_none() {
            self.rotate()?;
        }
        let (Some(file), Some((_, used))) = (&self.file, self.kept.last_mut()) else { return Ok(()) };
        let mut frame = Vec::with_capacity(HEADER + data.len());
        frame.extend_from_slice(&header.encode());
        frame.extend_from_slice(data);
        if let Err(error) = file.write_all_at(&frame, *used) {
            // Half a frame would hide what comes later. Where this fails too, what comes later is written over it.
            let _ = file.set_len(*used);
            return Err(error);
        }
        *used += size;
        Ok(())
    }

    /// Room first: on a full disk it is the oldest segment that makes it.
    fn rotate(&mut self) -> io::Result<()> {
        while self.kept.len() as u64 >= SEGMENTS {
            let (oldest, _) = self.kept.remove(0);
            let removed = rustix::fs::unlinkat(&self.dir, segment_name(oldest), AtFlags::empty());
            if let Err(error) = removed
                && error != rustix::io::Errno::NOENT
            {
                self.kept.insert(0, (oldest, 0));
                return Err(error.into());
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = open_segment(self.dir.as_fd(), self.offset, flags)?;
        self.kept.push((self.offset, 0));
        self.file = Some(File::from(file));
        Ok(())
    }
}
