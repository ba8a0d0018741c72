//! The names in a directory, sorted.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

/// Names in one piece of memory: a directory may have millions.
#[derive(Debug, Default)]
pub(super) struct NameList {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    next: usize,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    len: usize,
    kind: FileType,
}

impl NameList {
    /// Reads a directory.
    pub(super) fn read(dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut list = Self::default();
        let mut buffer = Vec::with_capacity(64 << 10);
        seek(dir, SeekFrom::Start(0))?;
        let mut reader = RawDir::new(dir, buffer.spare_capacity_mut());
        while let Some(entry) = reader.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                list.spans.push(Span { start: list.bytes.len(), len: name.len(), kind: entry.file_type() });
                list.bytes.extend_from_slice(name);
            }
        }
        let bytes = &list.bytes;
        list.spans.sort_unstable_by(|a, b| bytes[a.start..][..a.len].cmp(&bytes[b.start..][..b.len]));
        Ok(list)
    }

    /// The next name and its type.
    pub(super) fn next(&mut self) -> Option<(Vec<u8>, FileType)> {
        let span = *self.spans.get(self.next)?;
        self.next += 1;
        Some((self.bytes[span.start..][..span.len].to_vec(), span.kind))
    }
}
