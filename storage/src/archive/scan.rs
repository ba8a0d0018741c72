//! [`Scanner`]: the members of a tar, with bounded memory and without reading their content.
//!
//! For archives of images only, which are flat; the layers inside are for the unpacker. Names, links and sizes
//! are understood as ustar, PAX and GNU have them; everything that those disagree on is refused. Sources:
//! tar(5), POSIX pax(1).
#![forbid(unsafe_code)]

use std::io::{self, Read};

use tar::EntryType;

use super::ArchiveError;
use crate::compression::is_tar_header;
use crate::content::copy;

const BLOCK: u64 = 512;
/// The largest extended header.
const MAX_EXTENSION: u64 = 1024 * 1024;

/// A byte stream that can be skipped forward.
pub(super) trait Source: Read {
    /// Skips `n` bytes; an error if there are fewer.
    fn skip(&mut self, n: u64) -> io::Result<()>;
}

/// Skips by reading.
pub(super) struct Streamed<R>(pub(super) R);

impl<R: Read> Read for Streamed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Read> Source for Streamed<R> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let mut part = self.0.by_ref().take(n);
        copy(&mut part, &mut io::sink())?;
        if part.limit() == 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// What a member is, as far as an image archive is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// To a path relative to the directory of the link.
    Symlink(String),
    /// To another member.
    Hardlink(String),
    /// Devices, FIFOs, sparse files: not in image archives.
    Other,
}

/// A member of a tar.
#[derive(Debug)]
pub(super) struct Member {
    /// Components joined by `/`; `None` for a name that cannot be referred to: with `..`, empty, or not UTF-8.
    pub(super) name: Option<String>,
    pub(super) kind: Kind,
    /// Where the content begins.
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Why a scan ended early: the stream, or the archive.
#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    Archive(ArchiveError),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        // The sources report their own end this way; decoders wrap theirs.
        if error.kind() == io::ErrorKind::UnexpectedEof && error.get_ref().is_none() {
            return Self::Archive(ArchiveError::Truncated);
        }
        Self::Io(error)
    }
}

/// Reads a tar member by member.
pub(super) struct Scanner<S> {
    source: S,
    /// Where the source is.
    position: u64,
    /// Where the next header is.
    next: u64,
    ended: bool,
}

/// What extended headers said about the next member.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl<S: Source> Scanner<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, position: 0, next: 0, ended: false }
    }

    /// The rest of the stream.
    pub(super) fn into_source(self) -> S {
        self.source
    }

    /// The next member, until the end of the archive: a block of zeros, or of the stream.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, ScanError> {
        let mut extension = Extension::default();
        loop {
            let Some(block) = self.header_block()? else { return Ok(None) };
            let header = tar::Header::from_byte_slice(&block);
            let size = self.entry_size(header)?;
            match header.entry_type() {
                EntryType::XHeader => self.pax(size, &mut extension)?,
                EntryType::GNULongName => extension.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extension.link = Some(self.long_name(size)?),
                EntryType::XGlobalHeader => self.set_next(size)?,
                other => return self.member(header, other, size, extension).map(Some),
            }
        }
    }

    /// The content of the member that was returned last, which has `size` bytes.
    pub(super) fn content(&mut self, size: u64) -> Result<Vec<u8>, ScanError> {
        let mut bytes = Vec::new();
        let read = self.source.by_ref().take(size).read_to_end(&mut bytes)? as u64;
        self.position += read;
        if read == size { Ok(bytes) } else { Err(ScanError::Archive(ArchiveError::Truncated)) }
    }

    fn member(
        &mut self,
        header: &tar::Header,
        entry_type: EntryType,
        size: u64,
        extension: Extension,
    ) -> Result<Member, ScanError> {
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extension.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let link = || link.and_then(|link| String::from_utf8(link).ok());
        let kind = match entry_type {
            // The content of a sparse file is not what lies in the archive.
            _ if extension.sparse => Kind::Other,
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => link().map_or(Kind::Other, Kind::Symlink),
            EntryType::Link => link().map_or(Kind::Other, Kind::Hardlink),
            _ => Kind::Other,
        };
        let size = if has_content(entry_type) { extension.size.unwrap_or(size) } else { 0 };
        self.set_next(size)?;
        let name = String::from_utf8(path).ok().and_then(|path| clean(&path));
        Ok(Member { name, kind, offset: self.position, size })
    }

    /// The next block that is a header; `None` at the end.
    fn header_block(&mut self) -> Result<Option<[u8; 512]>, ScanError> {
        if self.ended {
            return Ok(None);
        }
        if self.next > self.position {
            self.source.skip(self.next - self.position)?;
            self.position = self.next;
        }
        let mut block = [0; 512];
        let read = read_full(&mut self.source, &mut block)?;
        self.ended = read == 0 || (read == block.len() && block.iter().all(|b| *b == 0));
        if self.ended {
            return Ok(None);
        }
        if read < block.len() {
            return Err(ScanError::Archive(ArchiveError::Truncated));
        }
        if !is_tar_header(&block) {
            return Err(self.malformed());
        }
        self.position += BLOCK;
        Ok(Some(block))
    }

    fn entry_size(&self, header: &tar::Header) -> Result<u64, ScanError> {
        let field = &header.as_old().size;
        // Base-256: what does not fit into 63 bits is refused before it is cut off.
        if field[0] & 0x80 != 0 && (field[0] != 0x80 || field[1..4] != [0; 3]) {
            return Err(self.malformed());
        }
        header.entry_size().map_err(|_| self.malformed())
    }

    /// The next header comes after `size` bytes of content.
    fn set_next(&mut self, size: u64) -> Result<(), ScanError> {
        let padded = size.checked_next_multiple_of(BLOCK);
        let next = padded.and_then(|padded| self.position.checked_add(padded));
        self.next = next.filter(|next| i64::try_from(*next).is_ok()).ok_or_else(|| self.malformed())?;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ScanError> {
        if size > MAX_EXTENSION {
            return Err(self.malformed());
        }
        self.set_next(size)?;
        self.content(size)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, ScanError> {
        let mut name = self.extension(size)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        if name.contains(&0) { Err(self.malformed()) } else { Ok(name) }
    }

    fn pax(&mut self, size: u64, extension: &mut Extension) -> Result<(), ScanError> {
        let bytes = self.extension(size)?;
        let records = pax_records(&bytes).ok_or_else(|| self.malformed())?;
        for (key, value) in records {
            let nul = value.contains(&0);
            match key {
                b"path" | b"linkpath" if nul => return Err(self.malformed()),
                b"path" => extension.path = Some(value.to_vec()),
                b"linkpath" => extension.link = Some(value.to_vec()),
                b"size" => extension.size = Some(decimal(value).ok_or_else(|| self.malformed())?),
                key if key.starts_with(b"GNU.sparse.") => extension.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn malformed(&self) -> ScanError {
        ScanError::Archive(ArchiveError::Header { offset: self.position })
    }
}

/// Links, directories and devices have none, whatever their size field says (as GNU tar and Go have it).
fn has_content(entry_type: EntryType) -> bool {
    use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
    !matches!(entry_type, Link | Symlink | Char | Block | Directory | Fifo)
}

/// `LENGTH KEY=VALUE\n`, where the length counts all of it.
fn pax_records(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ')?;
        let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Some(records)
}

/// Digits only: no sign, no space.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `./a//b` as `a/b`; nothing for names with `..` and for the root.
pub(super) fn clean(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || parts.contains(&"..") || path.contains('\0') {
        None
    } else {
        Some(parts.join("/"))
    }
}

/// Fills `buf` as far as the stream goes.
fn read_full(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match reader.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
