//! One 512-byte header block.
#![forbid(unsafe_code)]

use super::BLOCK;
use super::field::{header_number, header_unsigned};
use super::reader::ParseError;

/// What a header block says, uninterpreted.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    /// Major and minor number; only for devices.
    pub(crate) device: Option<(u64, u64)>,
}

/// Which fields after the link name mean something.
#[derive(PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Reads a block that is not all zero.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, ParseError> {
        verify_checksum(block)?;
        let format = format_of(block);
        let flag = block[156];
        let number = |name, range: std::ops::Range<usize>| {
            header_unsigned(&block[range]).map_err(|source| ParseError::Field { field: name, source })
        };
        let signed = |name, range: std::ops::Range<usize>| {
            header_number(&block[range]).map_err(|source| ParseError::Field { field: name, source })
        };
        let is_device = format != Format::V7 && matches!(flag, b'3' | b'4');
        Ok(Self {
            name: full_name(block, &format),
            link: text(&block[157..257]),
            flag,
            // The type bits that some writers add are not ours to believe.
            mode: (number("mode", 100..108)? & 0o7777) as u32,
            uid: signed("uid", 108..116)?,
            gid: signed("gid", 116..124)?,
            size: number("size", 124..136)?,
            mtime: signed("mtime", 136..148)?,
            device: match is_device {
                true => Some((number("devmajor", 329..337)?, number("devminor", 337..345)?)),
                false => None,
            },
        })
    }
}

/// A text field: up to the first NUL or the whole field.
fn text(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    field[..end].to_vec()
}

fn format_of(block: &[u8; BLOCK]) -> Format {
    match (&block[257..265], &block[508..512]) {
        (b"ustar  \0", _) => Format::Gnu,
        (magic, b"tar\0") if magic.starts_with(b"ustar\0") => Format::Star,
        (magic, _) if magic.starts_with(b"ustar\0") => Format::Ustar,
        _ => Format::V7,
    }
}

fn full_name(block: &[u8; BLOCK], format: &Format) -> Vec<u8> {
    let name = text(&block[..100]);
    let prefix = match format {
        Format::Ustar => text(&block[345..500]),
        Format::Star => text(&block[345..476]),
        Format::V7 | Format::Gnu => Vec::new(),
    };
    if prefix.is_empty() {
        return name;
    }
    [prefix.as_slice(), b"/", name.as_slice()].concat()
}

/// The sum of all bytes with the checksum field as spaces. Old writers summed signed bytes; everyone reads both.
fn verify_checksum(block: &[u8; BLOCK]) -> Result<(), ParseError> {
    let stored = header_number(&block[148..156]).map_err(|_| ParseError::Checksum)?;
    let mut unsigned: i64 = 0;
    let mut signed: i64 = 0;
    for (at, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    if stored == unsigned || stored == signed { Ok(()) } else { Err(ParseError::Checksum) }
}
