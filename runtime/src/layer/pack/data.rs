//! The content of files: where their data is, and into the archive with it.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread};

use super::PackError;
use super::node::Packer;
use crate::layer::path::escape;
use crate::layer::stream::ChunkSink;
use crate::layer::tar::{Segment, padding};

/// Where a file of `size` bytes has data. When there are more than `limit` stretches, the smallest holes are filled in.
pub(crate) fn data_segments(fd: BorrowedFd<'_>, size: u64, limit: usize) -> Result<Vec<Segment>, Errno> {
    let limit = limit.max(2) - 1;
    let mut map: Vec<Segment> = Vec::new();
    let mut smallest_hole = 1;
    let mut at = 0;
    while at < size {
        let start = match seek(fd, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => break,
            // The file system knows no holes.
            Err(Errno::INVAL) => return Ok(vec![Segment { offset: 0, len: size }]),
            Err(errno) => return Err(errno),
        };
        at = seek(fd, SeekFrom::Hole(start))?.min(size);
        push(&mut map, Segment { offset: start, len: at - start }, smallest_hole);
        while map.len() > limit {
            smallest_hole *= 2;
            let before = std::mem::take(&mut map);
            for segment in before {
                push(&mut map, segment, smallest_hole);
            }
        }
    }
    Ok(map)
}

/// Appends a stretch, joined with the last one when the hole between them is smaller than `smallest_hole`.
fn push(map: &mut Vec<Segment>, segment: Segment, smallest_hole: u64) {
    match map.last_mut() {
        Some(last) if segment.offset - (last.offset + last.len) < smallest_hole => {
            last.len = segment.offset + segment.len - last.offset;
        }
        _ if segment.len > 0 => map.push(segment),
        _ => {}
    }
}

/// The map as it is written: a file that ends in a hole has an empty stretch at its end, as GNU tar writes it.
pub(super) fn with_end(mut map: Vec<Segment>, size: u64) -> Vec<Segment> {
    if map.last().is_none_or(|last| last.offset + last.len < size) {
        map.push(Segment { offset: size, len: 0 });
    }
    map
}

impl<S: ChunkSink> Packer<'_, S> {
    /// Appends a stretch of a file.
    pub(super) fn data(&mut self, fd: BorrowedFd<'_>, segment: Segment) -> Result<(), PackError> {
        let end = segment.offset + segment.len;
        let mut at = segment.offset;
        while at < end {
            let room = self.room()?;
            let want = room.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match pread(fd, &mut room[..want], at) {
                Ok(0) => return Err(PackError::Changed { path: escape(&self.path) }),
                Ok(len) => {
                    self.filled(len);
                    at += len as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(PackError::io("read", &self.path, errno)),
            }
        }
        Ok(())
    }

    /// Zeroes to the next block boundary after `size` bytes.
    pub(super) fn pad(&mut self, size: u64) -> Result<(), PackError> {
        let zeros = [0; 512];
        self.bytes(&zeros[..padding(size) as usize])
    }
}
