//! Reading a log, while it grows or when it is complete.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;

use super::frame::{HEADER, Header, MAX_DATA};
use super::{Stream, open_segment, segments};

/// Bytes that are read at once: the largest frame fits.
const BUFFER: usize = 2 * MAX_DATA;

/// Bytes that a process wrote at once to one of its streams, or a part of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which stream.
    pub stream: Stream,
    /// Offset of the first byte.
    pub offset: u64,
    /// When it was read from the process, in microseconds since 1970.
    pub micros: u64,
    /// The bytes.
    pub data: Vec<u8>,
}

/// What a reader finds next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Bytes.
    Chunk(Chunk),
    /// The bytes from one offset up to another are not in the log any more, or never were.
    Gone {
        /// The first of them.
        from: u64,
        /// The first after them.
        to: u64,
    },
    /// Nothing yet, or nothing more.
    End,
}

/// Reads a log from an offset on. It may be ahead of the log.
#[derive(Debug)]
pub struct LogReader {
    dir: OwnedFd,
    next: u64,
    segment: Option<Segment>,
}

#[derive(Debug)]
struct Segment {
    base: u64,
    file: File,
    /// Where `buffer` begins in the file.
    at: u64,
    buffer: Vec<u8>,
    /// How much of it has been looked at.
    seen: usize,
}

impl LogReader {
    /// Reads the log in `dir` from `offset` on.
    #[must_use]
    pub fn new(dir: OwnedFd, offset: u64) -> Self {
        Self { dir, next: offset, segment: None }
    }

    /// The offset of the oldest byte that is kept; 0 when nothing was written yet.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn begin(&self) -> io::Result<u64> {
        Ok(segments(&self.dir)?.first().copied().unwrap_or(0))
    }

    /// An offset near the end of the log, from where reading to its end is quick.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn near_end(&self) -> io::Result<u64> {
        Ok(segments(&self.dir)?.last().copied().unwrap_or(0))
    }

    /// The offset of what is read next.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.next
    }

    /// What comes next. After [`Read::End`] it may be asked again.
    ///
    /// # Errors
    /// Those of reading files.
    #[expect(clippy::should_implement_trait, reason = "an end is not for ever")]
    pub fn next(&mut self) -> io::Result<Read> {
        loop {
            let Some(segment) = &mut self.segment else {
                if !self.find()? {
                    return Ok(Read::End);
                }
                continue;
            };
            if let Some((header, data)) = segment.frame()? {
                if let Some(read) = self.take(&header, data) {
                    return Ok(read);
                }
            } else if !self.leave()? {
                return Ok(Read::End);
            }
        }
    }

    /// What of a frame is new.
    fn take(&mut self, header: &Header, data: Vec<u8>) -> Option<Read> {
        let end = header.offset + data.len() as u64;
        if header.offset > self.next {
            // The frame is read again afterwards.
            if let Some(segment) = &mut self.segment {
                segment.seen -= HEADER + data.len();
            }
            let from = std::mem::replace(&mut self.next, header.offset);
            return Some(Read::Gone { from, to: header.offset });
        }
        if end <= self.next {
            return None;
        }
        let old = usize::try_from(self.next - header.offset).unwrap_or(0);
        let (offset, data) = (self.next, if old == 0 { data } else { data[old..].to_vec() });
        self.next = end;
        Some(Read::Chunk(Chunk { stream: header.stream, offset, micros: header.micros, data }))
    }

    /// Opens the segment that has the next byte, or the first after it; false when there is none.
    fn find(&mut self) -> io::Result<bool> {
        let bases = segments(&self.dir)?;
        let before = bases.iter().rev().find(|base| **base <= self.next);
        let Some(&base) = before.or(bases.first()) else { return Ok(false) };
        self.open(base)
    }

    fn open(&mut self, base: u64) -> io::Result<bool> {
        match open_segment(&self.dir, base, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => {
                self.segment = Some(Segment { base, file: fd.into(), at: 0, buffer: Vec::new(), seen: 0 });
                Ok(true)
            }
            // Removed since it was listed: there are later ones.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.segment = None;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Nothing more is in this segment: on to the next one, if there is one.
    fn leave(&mut self) -> io::Result<bool> {
        let Some(segment) = &mut self.segment else { return Ok(true) };
        let base = segment.base;
        let Some(later) = segments(&self.dir)?.into_iter().find(|other| *other > base) else {
            return Ok(false);
        };
        // It was complete before the next one was begun, but perhaps not yet when it was looked at.
        if segment.has_frame()? {
            return Ok(true);
        }
        self.open(later)
    }
}

impl Segment {
    /// The next frame, if it is whole.
    fn frame(&mut self) -> io::Result<Option<(Header, Vec<u8>)>> {
        let Some((header, data)) = self.parse() else {
            self.fill()?;
            return Ok(self.parse().map(|(header, data)| (header, data.to_vec())).inspect(|(_, data)| {
                self.seen += HEADER + data.len();
            }));
        };
        let data = data.to_vec();
        self.seen += HEADER + data.len();
        Ok(Some((header, data)))
    }

    fn has_frame(&mut self) -> io::Result<bool> {
        self.fill()?;
        Ok(self.parse().is_some())
    }

    fn parse(&self) -> Option<(Header, &[u8])> {
        let rest = self.buffer.get(self.seen..)?;
        let header = Header::decode(rest.first_chunk::<HEADER>()?)?;
        let data = rest.get(HEADER..HEADER + header.len)?;
        header.fits(data).then_some((header, data))
    }

    /// Reads on from what was looked at; what was read of it before may have been half written.
    fn fill(&mut self) -> io::Result<()> {
        self.at += self.seen as u64;
        self.seen = 0;
        self.buffer.resize(BUFFER, 0);
        let mut read = 0;
        while read < BUFFER {
            match self.file.read_at(&mut self.buffer[read..], self.at + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.truncate(read);
        Ok(())
    }
}
