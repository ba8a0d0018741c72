//! Archives on their way between host and vessel: owners and privileges do not travel.
//!
//! What is copied in belongs to root of the vessel, whoever it belongs to here. What is copied out belongs to whoever copies,
//! so a set-user-ID bit or a file capability that the vessel gave would become one of the host's: they are taken away.
//!
//! This reads what the runtime packs: ustar headers and PAX records (POSIX.1-2017, pax(1), "ustar Interchange Format" and
//! "pax Extended Header"). It changes headers and passes content on.
#![forbid(unsafe_code)]

use std::io::{self, Read};

const BLOCK: usize = 512;
/// The most that PAX records of one entry may take, in bytes: far above what the packer writes.
const MAX_RECORDS: u64 = 16 << 20;
/// Permission bits and the sticky bit, which gives no privilege.
const HARMLESS_MODE: u64 = 0o1777;

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Into a vessel: everything belongs to root.
    In,
    /// Out to the host: no set-id bits, no attributes but the user's own.
    Out,
}

/// An archive that is changed while it is read.
#[derive(Debug)]
pub(super) struct Rewritten<R> {
    inner: R,
    direction: Direction,
    /// Changed headers that were not read yet.
    ready: io::Cursor<Vec<u8>>,
    /// Bytes of content and padding that pass as they are.
    passing: u64,
    /// Size of the next entry as PAX records have it.
    size: Option<u64>,
}

impl<R: Read> Rewritten<R> {
    pub(super) fn new(inner: R, direction: Direction) -> Self {
        Self { inner, direction, ready: io::Cursor::default(), passing: 0, size: None }
    }

    /// Takes in the next header. False at the end of the input.
    fn advance(&mut self) -> io::Result<bool> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.ready = io::Cursor::new(match block[156] {
            _ if block == [0; BLOCK] => block.to_vec(),
            b'x' => self.records(block)?,
            _ => self.entry(block)?,
        });
        Ok(true)
    }

    fn entry(&mut self, mut block: [u8; BLOCK]) -> io::Result<Vec<u8>> {
        let size = match self.size.take() {
            Some(size) => size,
            None => number(&block[124..136])?,
        };
        // Links and directories have no content, whatever their size says.
        let content = if matches!(block[156], b'1'..=b'6') { 0 } else { size };
        self.passing = padded(content)?;
        match self.direction {
            Direction::In => {
                put_number(&mut block[108..116], 0);
                put_number(&mut block[116..124], 0);
            }
            Direction::Out => {
                let mode = number(&block[100..108])? & HARMLESS_MODE;
                put_number(&mut block[100..108], mode);
            }
        }
        seal(&mut block);
        Ok(block.to_vec())
    }

    /// The records of the next entry, without those that must not travel. Nothing where none is left.
    fn records(&mut self, mut block: [u8; BLOCK]) -> io::Result<Vec<u8>> {
        let size = number(&block[124..136])?;
        if size > MAX_RECORDS {
            return Err(malformed("the records of an entry are too long"));
        }
        let mut body = Vec::new();
        (&mut self.inner).take(padded(size)?).read_to_end(&mut body)?;
        if body.len() as u64 != padded(size)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let body = usize::try_from(size).ok().and_then(|size| body.get(..size));
        let kept = self.kept(body.ok_or(io::ErrorKind::UnexpectedEof)?)?;
        if kept.is_empty() {
            return Ok(kept);
        }
        put_number(&mut block[124..136], kept.len() as u64);
        seal(&mut block);
        let mut rewritten = block.to_vec();
        rewritten.extend(&kept);
        rewritten.resize(rewritten.len().next_multiple_of(BLOCK), 0);
        Ok(rewritten)
    }

    fn kept(&mut self, mut body: &[u8]) -> io::Result<Vec<u8>> {
        let mut kept = Vec::with_capacity(body.len());
        while !body.is_empty() {
            let (record, rest) = split_record(body)?;
            if record.key == b"size" {
                let text = std::str::from_utf8(record.value).ok();
                self.size =
                    Some(text.and_then(|t| t.parse().ok()).ok_or_else(|| malformed("a size is no number"))?);
            }
            if travels(self.direction, record.key) {
                kept.extend(record.whole);
            }
            body = rest;
        }
        Ok(kept)
    }
}

impl<R: Read> Read for Rewritten<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let ready = self.ready.read(buffer)?;
            if ready > 0 {
                return Ok(ready);
            }
            if self.passing > 0 {
                let room = usize::try_from(self.passing).unwrap_or(usize::MAX).min(buffer.len());
                let read = self.inner.read(&mut buffer[..room])?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.passing -= read as u64;
                return Ok(read);
            }
            if !self.advance()? {
                return Ok(0);
            }
        }
    }
}

struct Record<'a> {
    whole: &'a [u8],
    key: &'a [u8],
    value: &'a [u8],
}

/// `LENGTH KEY=VALUE\n`, where the length is that of all of it.
fn split_record(body: &[u8]) -> io::Result<(Record<'_>, &[u8])> {
    let wrong = || malformed("a record is malformed");
    let space = body.iter().position(|&b| b == b' ').ok_or_else(wrong)?;
    let length: usize =
        std::str::from_utf8(&body[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    let (whole, rest) = body.split_at_checked(length).ok_or_else(wrong)?;
    let content = whole.get(space + 1..).and_then(|c| c.strip_suffix(b"\n")).ok_or_else(wrong)?;
    let equals = content.iter().position(|&b| b == b'=').ok_or_else(wrong)?;
    Ok((Record { whole, key: &content[..equals], value: &content[equals + 1..] }, rest))
}

fn travels(direction: Direction, key: &[u8]) -> bool {
    match direction {
        Direction::In => !matches!(key, b"uid" | b"gid" | b"uname" | b"gname"),
        Direction::Out => {
            let attribute = [&b"SCHILY.xattr."[..], b"LIBARCHIVE.xattr.", b"VESSELRT.xattr.", b"SCHILY.acl."]
                .iter()
                .find_map(|prefix| key.strip_prefix(*prefix));
            attribute.is_none_or(|name| name.starts_with(b"user."))
        }
    }
}

fn padded(size: u64) -> io::Result<u64> {
    size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| malformed("a size is impossible"))
}

/// Octal digits, or GNU's base 256 for what does not fit.
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        let leading = field.len() - 8;
        if field[0] != 0x80 || field[1..leading].iter().any(|&b| b != 0) {
            return Err(malformed("a number is too large"));
        }
        return Ok(field[leading..].iter().fold(0, |value, &b| value << 8 | u64::from(b)));
    }
    let text = field.split(|&b| b == 0).next().unwrap_or_default().trim_ascii();
    let digits = std::str::from_utf8(text).map_err(|_| malformed("a number is malformed"))?;
    if digits.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(digits, 8).map_err(|_| malformed("a number is malformed"))
}

/// `value` always fits: it is not larger than what was there, or small.
fn put_number(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}\0", width = field.len() - 1);
    if digits.len() == field.len() {
        field.copy_from_slice(digits.as_bytes());
    }
}

/// The checksum is the sum of all bytes, itself counted as spaces.
fn seal(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed archive: {what}"))
}

#[cfg(test)]
mod tests;
