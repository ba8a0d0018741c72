//! [`TarReader`]: entries out of a stream, one at a time.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, ErrorKind};

use super::field::{FieldError, Mtime};
use super::header::Header;
use super::pax::{Pax, PaxSparse, check_global};
use super::sparse::{self, MapText, Segment};
use super::{BLOCK, padding};
use crate::layer::limits::Limits;
use crate::layer::path::escape;

/// Why bytes are no tar archive that we read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The source failed.
    #[error("failed to read the archive")]
    Io(#[source] io::Error),
    /// The source ended inside an entry, or without the two zero blocks that end an archive.
    #[error("the archive is truncated")]
    Truncated,
    /// The header's checksum is wrong: this is no tar, or the reader would be out of step.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// One zero block with more after it.
    #[error("a lone zero block inside the archive")]
    LoneZeroBlock,
    /// A malformed field or record value.
    #[error("the field `{field}` is malformed")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: FieldError,
    },
    /// A malformed PAX record.
    #[error("a malformed extended header record: {why}")]
    Record {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A PAX record with a value that it cannot have.
    #[error("the extended header `{key}` cannot be `{value}`")]
    Value {
        /// The keyword.
        key: String,
        /// The value, escaped.
        value: String,
    },
    /// The same PAX keyword twice.
    #[error("two extended header records `{key}` for one entry")]
    Duplicate {
        /// The keyword.
        key: String,
    },
    /// A global PAX header that would rename or resize every following entry.
    #[error("a global extended header sets `{key}`")]
    Global {
        /// The keyword, escaped.
        key: String,
    },
    /// A metadata header that is followed by no entry, or by another of its kind.
    #[error("a metadata header of type `{flag}` does not belong to an entry")]
    Orphan {
        /// Its type.
        flag: char,
    },
    /// A metadata header above [`Limits::metadata`].
    #[error("a metadata header of {size} bytes, more than {limit}")]
    MetadataTooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// More metadata headers than [`Limits::pending`].
    #[error("more than {limit} metadata headers before one entry")]
    TooManyPending {
        /// The limit.
        limit: u32,
    },
    /// More extended attributes than [`Limits::xattrs`].
    #[error("more than {limit} extended attributes on one entry")]
    TooManyXattrs {
        /// The limit.
        limit: usize,
    },
    /// A sparse map that describes no file.
    #[error("a malformed sparse map: {why}")]
    Sparse {
        /// What is wrong with it.
        why: &'static str,
    },
    /// More segments than [`Limits::sparse`].
    #[error("a sparse map of more than {limit} segments")]
    SparseTooMany {
        /// The limit.
        limit: usize,
    },
    /// A type of entry that no layer has (multi-volume, dump directory, vendor types).
    #[error("an entry of the unknown type {flag:#04x}")]
    UnknownType {
        /// The type byte.
        flag: u8,
    },
    /// More bytes after the end than [`Limits::trailing`].
    #[error("more than {limit} bytes after the end of the archive")]
    TooMuchTrailing {
        /// The limit.
        limit: u64,
    },
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Fifo,
    CharDevice,
    BlockDevice,
}

/// One entry, its header and its extended header joined. Nothing in it has been judged yet.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    /// `None` when negative or beyond 63 bits: an id that nobody has.
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Mtime,
    /// Bytes of payload that follow.
    pub(crate) stored: u64,
    /// Size of the file, holes counted.
    pub(crate) size: u64,
    pub(crate) sparse: Option<Vec<Segment>>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) opaque: bool,
    pub(crate) device: Option<(u64, u64)>,
}

/// Metadata headers waiting for their entry.
#[derive(Debug, Default)]
struct Pending {
    count: u32,
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// The type of the last one that must be followed by an entry.
    open: Option<u8>,
}

/// Reads entries from `input`. After an entry its payload is read with [`TarReader::data`], or left: the next call
/// skips it.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    limits: Limits,
    remaining: u64,
    padding: u64,
    entries: u64,
    /// Whether an input that just stops after a whole entry is complete. Only where a digest proves it.
    allow_missing_end: bool,
    ended: bool,
}

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(input: R, limits: Limits, allow_missing_end: bool) -> Self {
        Self { input, limits, remaining: 0, padding: 0, entries: 0, allow_missing_end, ended: false }
    }

    /// How many entries have been returned.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// The next entry, or `None` at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ParseError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_payload()?;
        let mut pending = Pending::default();
        loop {
            let Some(block) = self.header_block()? else {
                self.ended = true;
                return match pending.open {
                    Some(flag) => Err(ParseError::Orphan { flag: char::from(flag) }),
                    None => Ok(None),
                };
            };
            let header = Header::parse(&block)?;
            if !self.take_metadata(&header, &mut pending)? {
                let entry = self.join(&block, header, pending)?;
                self.entries += 1;
                return Ok(Some(entry));
            }
        }
    }

    /// The next bytes of the current entry's payload; empty when there are no more.
    pub(crate) fn data(&mut self) -> Result<&[u8], ParseError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let buffer = fill(&mut self.input)?;
        if buffer.is_empty() {
            return Err(ParseError::Truncated);
        }
        let len = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        Ok(&buffer[..len])
    }

    /// Marks `len` bytes of what [`TarReader::data`] returned as read.
    pub(crate) fn consume(&mut self, len: usize) {
        self.input.consume(len);
        self.remaining -= len as u64;
    }

    /// Reads what follows the end of the archive, so that a digest of the whole stream is complete. A second archive
    /// after the first is not looked at.
    pub(crate) fn drain(&mut self) -> Result<u64, ParseError> {
        let mut trailing = 0u64;
        loop {
            let len = fill(&mut self.input)?.len();
            if len == 0 {
                return Ok(trailing);
            }
            trailing += len as u64;
            if trailing > self.limits.trailing {
                return Err(ParseError::TooMuchTrailing { limit: self.limits.trailing });
            }
            self.input.consume(len);
        }
    }

    /// A block that is not the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, ParseError> {
        let Some(block) = self.block()? else {
            return if self.allow_missing_end { Ok(None) } else { Err(ParseError::Truncated) };
        };
        if block.iter().any(|&b| b != 0) {
            return Ok(Some(block));
        }
        match self.block()? {
            Some(second) if second.iter().any(|&b| b != 0) => Err(ParseError::LoneZeroBlock),
            Some(_) => Ok(None),
            None if self.allow_missing_end => Ok(None),
            None => Err(ParseError::Truncated),
        }
    }

    /// One whole block; `None` when the input ends before its first byte.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ParseError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let buffer = fill(&mut self.input)?;
            if buffer.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(ParseError::Truncated) };
            }
            let len = buffer.len().min(BLOCK - filled);
            block[filled..filled + len].copy_from_slice(&buffer[..len]);
            self.input.consume(len);
            filled += len;
        }
        Ok(Some(block))
    }

    fn skip_payload(&mut self) -> Result<(), ParseError> {
        let mut left = self.remaining.checked_add(self.padding).ok_or(ParseError::Truncated)?;
        (self.remaining, self.padding) = (0, 0);
        while left > 0 {
            let available = fill(&mut self.input)?.len();
            if available == 0 {
                return Err(ParseError::Truncated);
            }
            let len = available.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.input.consume(len);
            left -= len as u64;
        }
        Ok(())
    }

    /// Takes a header that describes the next entry instead of being one.
    fn take_metadata(&mut self, header: &Header, pending: &mut Pending) -> Result<bool, ParseError> {
        if !matches!(header.flag, b'x' | b'g' | b'L' | b'K' | b'V') {
            return Ok(false);
        }
        pending.count += 1;
        if pending.count > self.limits.pending {
            return Err(ParseError::TooManyPending { limit: self.limits.pending });
        }
        let data = self.metadata(header.size)?;
        let orphan = ParseError::Orphan { flag: char::from(header.flag) };
        let is_long = matches!(header.flag, b'L' | b'K');
        // GNU tar writes `K` and `L` together; nobody writes them beside an `x`, and readers disagree on which wins.
        let clash = match header.flag {
            b'L' => pending.long_name.is_some() || pending.pax.is_some(),
            b'K' => pending.long_link.is_some() || pending.pax.is_some(),
            _ => pending.open.is_some(),
        };
        if clash {
            return Err(orphan);
        }
        match header.flag {
            b'x' => pending.pax = Some(Pax::parse(&data, &self.limits)?),
            b'g' => check_global(&data)?,
            b'L' => pending.long_name = Some(long_text(data)?),
            b'K' => pending.long_link = Some(long_text(data)?),
            _ => {}
        }
        if is_long || header.flag == b'x' {
            pending.open = Some(header.flag);
        }
        Ok(true)
    }

    /// The payload of a metadata header, in memory.
    fn metadata(&mut self, size: u64) -> Result<Vec<u8>, ParseError> {
        if size > self.limits.metadata {
            return Err(ParseError::MetadataTooLarge { size, limit: self.limits.metadata });
        }
        (self.remaining, self.padding) = (size, padding(size));
        let mut data = Vec::with_capacity(size as usize);
        while self.remaining > 0 {
            let chunk = self.data()?;
            let len = chunk.len();
            data.extend_from_slice(chunk);
            self.consume(len);
        }
        self.skip_payload()?;
        Ok(data)
    }

    /// Joins a header with the metadata before it, and makes its payload the current one.
    fn join(&mut self, block: &[u8; BLOCK], header: Header, pending: Pending) -> Result<Entry, ParseError> {
        let pax = pending.pax.unwrap_or_default();
        let size = pax.size.unwrap_or(header.size);
        (self.remaining, self.padding) = (size, padding(size));
        let has_slash = |name: &[u8]| name.last() == Some(&b'/');
        let path = pax.path.or(pending.long_name).unwrap_or(header.name);
        let mut entry = Entry {
            kind: kind_of(header.flag, has_slash(&path))?,
            path,
            link: pax.link.or(pending.long_link).unwrap_or(header.link),
            mode: header.mode,
            uid: pax.uid.or(u64::try_from(header.uid).ok()),
            gid: pax.gid.or(u64::try_from(header.gid).ok()),
            mtime: pax.mtime.unwrap_or(Mtime { seconds: header.mtime, nanos: 0 }),
            stored: size,
            size,
            sparse: None,
            xattrs: pax.xattrs,
            opaque: pax.opaque,
            device: header.device,
        };
        match pax.sparse {
            Some(_) if entry.kind != Kind::File || header.flag == b'S' => {
                return Err(ParseError::Sparse { why: "a sparse map on what is no regular file" });
            }
            Some(sparse) => self.join_pax_sparse(&mut entry, sparse)?,
            None if header.flag == b'S' => self.join_old_gnu_sparse(&mut entry, block)?,
            None => {}
        }
        Ok(entry)
    }

    fn join_pax_sparse(&mut self, entry: &mut Entry, sparse: PaxSparse) -> Result<(), ParseError> {
        let map = match (sparse.major.unwrap_or(0), sparse.minor.unwrap_or(0)) {
            (1, 0) => self.map_text()?,
            (0, 0 | 1) if sparse.has_map => sparse::from_numbers(&sparse.numbers)?,
            _ => return Err(ParseError::Sparse { why: "an unknown version, or no map" }),
        };
        entry.size = sparse.real_size.ok_or(ParseError::Sparse { why: "no size of the file" })?;
        entry.path = sparse.name.unwrap_or_else(|| std::mem::take(&mut entry.path));
        self.set_sparse(entry, map)
    }

    /// The map of PAX 1.0, which is the beginning of the payload.
    fn map_text(&mut self) -> Result<Vec<Segment>, ParseError> {
        let mut text = MapText::default();
        loop {
            self.remaining = self
                .remaining
                .checked_sub(BLOCK as u64)
                .ok_or(ParseError::Sparse { why: "the map is longer than the payload" })?;
            let block = self.block()?.ok_or(ParseError::Truncated)?;
            if text.push(&block, self.limits.sparse)? {
                return text.finish();
            }
        }
    }

    fn join_old_gnu_sparse(&mut self, entry: &mut Entry, block: &[u8; BLOCK]) -> Result<(), ParseError> {
        let limit = self.limits.sparse;
        let mut map = Vec::new();
        let mut more = sparse::push_old_gnu(&block[386..482], &mut map, limit)?;
        let mut extended = block[482] != 0;
        while extended {
            let block = self.block()?.ok_or(ParseError::Truncated)?;
            if more {
                more = sparse::push_old_gnu(&block[..504], &mut map, limit)?;
            } else {
                return Err(ParseError::Sparse { why: "an extension after the end of the map" });
            }
            extended = block[504] != 0;
        }
        entry.size = super::field::header_unsigned(&block[483..495])
            .map_err(|source| ParseError::Field { field: "realsize", source })?;
        self.set_sparse(entry, map)
    }

    fn set_sparse(&mut self, entry: &mut Entry, map: Vec<Segment>) -> Result<(), ParseError> {
        sparse::validate(&map, entry.size, self.remaining)?;
        entry.stored = self.remaining;
        entry.sparse = Some(map);
        Ok(())
    }
}

fn kind_of(flag: u8, has_slash: bool) -> Result<Kind, ParseError> {
    Ok(match flag {
        // Before ustar a directory was a file whose name ends in a slash.
        0 if has_slash => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        flag => return Err(ParseError::UnknownType { flag }),
    })
}

/// The payload of a long name or link: the text, with the NUL that ends it and nothing after.
fn long_text(mut data: Vec<u8>) -> Result<Vec<u8>, ParseError> {
    let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    if data[end..].iter().any(|&b| b != 0) {
        return Err(ParseError::Value { key: "long name".to_owned(), value: escape(&data) });
    }
    data.truncate(end);
    Ok(data)
}

fn fill<R: BufRead>(input: &mut R) -> Result<&[u8], ParseError> {
    // A second look at the buffer, because the borrow of a failed attempt would last to the end of the loop.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(ParseError::Truncated),
            Err(error) => return Err(ParseError::Io(error)),
        }
    }
    input.fill_buf().map_err(ParseError::Io)
}
