//! Headers as we write them: ustar, and a PAX header only for what ustar cannot hold.
//!
//! The same entry always gives the same bytes: records are sorted, no user names, no access or change times.
#![forbid(unsafe_code)]

use super::field::{Mtime, pax_time_text};
use super::sparse::Segment;
use super::{BLOCK, padding};

/// PAX keyword of our own archives: this directory hides everything below it in lower layers.
pub(crate) const OPAQUE_KEY: &str = "VESSELRT.opaque";

/// PAX keyword of our own for extended attributes whose name has a `=`, which would end the keyword of
/// `SCHILY.xattr.NAME`. In the name `=` is `%3D` and `%` is `%25`.
pub(crate) const XATTR_KEY: &str = "VESSELRT.xattr.";

/// The largest number that eleven octal digits hold, and seven.
const MAX_11: u64 = 0o77_777_777_777;
const MAX_7: u64 = 0o7_777_777;

/// A PAX record to be written.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// What a header says.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// Type byte.
    pub(crate) flag: u8,
    /// Path; a directory's ends in a slash.
    pub(crate) path: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    /// Bytes of payload.
    pub(crate) size: u64,
}

/// The record of an extended attribute.
pub(crate) fn xattr_record(name: &[u8], value: Vec<u8>) -> Record {
    if !name.contains(&b'=') {
        return ([b"SCHILY.xattr.", name].concat(), value);
    }
    let mut key = XATTR_KEY.as_bytes().to_vec();
    for &byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            byte => key.push(byte),
        }
    }
    (key, value)
}

/// The name in a [`XATTR_KEY`] record.
pub(crate) fn decode_name(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    while let Some((&byte, rest)) = text.split_first() {
        text = rest;
        if byte != b'%' {
            name.push(byte);
        } else if let Some(rest) = text.strip_prefix(b"3D") {
            name.push(b'=');
            text = rest;
        } else {
            name.push(b'%');
            text = text.strip_prefix(b"25")?;
        }
    }
    Some(name)
}

/// Appends the header block of an entry, and before it a PAX header with `records` and whatever does not fit.
pub(crate) fn push_headers(out: &mut Vec<u8>, head: &Head<'_>, mut records: Vec<Record>) {
    push_overflow(head, &mut records);
    if !records.is_empty() {
        records.sort();
        let data = encode_records(&records);
        let pax = Head {
            flag: b'x',
            path: b"PaxHeader",
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            size: data.len() as u64,
        };
        out.extend_from_slice(&block(&pax));
        let end = out.len() + data.len() + padding(data.len() as u64) as usize;
        out.extend_from_slice(&data);
        out.resize(end, 0);
    }
    out.extend_from_slice(&block(head));
}

/// Records for the fields that a ustar header cannot hold.
fn push_overflow(head: &Head<'_>, records: &mut Vec<Record>) {
    let mut binary = false;
    for (key, value) in [("path", head.path), ("linkpath", head.link)] {
        if value.len() > 100 {
            binary |= std::str::from_utf8(value).is_err();
            records.push((key.into(), value.to_vec()));
        }
    }
    if binary {
        // POSIX: the values of a header are UTF-8 unless it says otherwise.
        records.push((b"hdrcharset".to_vec(), b"BINARY".to_vec()));
    }
    for (key, id) in [("uid", head.uid), ("gid", head.gid)] {
        if u64::from(id) > MAX_7 {
            records.push((key.into(), id.to_string().into_bytes()));
        }
    }
    if head.size > MAX_11 {
        records.push((b"size".to_vec(), head.size.to_string().into_bytes()));
    }
    if head.mtime.nanos != 0 || !(0..=MAX_11 as i64).contains(&head.mtime.seconds) {
        records.push((b"mtime".to_vec(), pax_time_text(head.mtime).into_bytes()));
    }
}

fn encode_records(records: &[Record]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        // The length counts its own digits.
        let mut len = body + 1;
        while len != body + len.to_string().len() {
            len = body + len.to_string().len();
        }
        data.extend_from_slice(len.to_string().as_bytes());
        data.push(b' ');
        data.extend_from_slice(key);
        data.push(b'=');
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    data
}

/// The ustar block. What does not fit is cut or zero: a PAX record before it has the truth.
fn block(head: &Head<'_>) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    put_text(&mut block[..100], head.path);
    put_octal(&mut block[100..108], u64::from(head.mode & 0o7777));
    put_octal(&mut block[108..116], fitting(u64::from(head.uid), MAX_7));
    put_octal(&mut block[116..124], fitting(u64::from(head.gid), MAX_7));
    put_octal(&mut block[124..136], fitting(head.size, MAX_11));
    put_octal(&mut block[136..148], u64::try_from(head.mtime.seconds).map_or(0, |s| fitting(s, MAX_11)));
    block[148..156].fill(b' ');
    block[156] = head.flag;
    put_text(&mut block[157..257], head.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    if matches!(head.flag, b'3' | b'4') {
        put_octal(&mut block[329..337], 0);
        put_octal(&mut block[337..345], 0);
    }
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    put_octal(&mut block[148..155], sum);
    block
}

fn fitting(value: u64, max: u64) -> u64 {
    if value > max { 0 } else { value }
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// Octal digits and a final NUL. `value` must fit.
fn put_octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for byte in field[..digits].iter_mut().rev() {
        *byte = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

/// The map of a PAX 1.0 sparse file, padded to a block. It stands before the data.
pub(crate) fn encode_sparse_map(map: &[Segment]) -> Vec<u8> {
    let mut text = format!("{}\n", map.len()).into_bytes();
    for segment in map {
        text.extend_from_slice(format!("{}\n{}\n", segment.offset, segment.len).as_bytes());
    }
    text.resize(text.len().next_multiple_of(BLOCK), 0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::limits::Limits;
    use crate::layer::tar::{Kind, TarReader};

    fn round(head: &Head<'_>, records: Vec<Record>) -> crate::layer::tar::Entry {
        let mut out = Vec::new();
        push_headers(&mut out, head, records);
        out.extend_from_slice(&vec![b'x'; head.size.min(512) as usize]);
        out.resize(out.len().next_multiple_of(BLOCK) + 1024, 0);
        TarReader::new(&out[..], Limits::default(), false).next_entry().unwrap().unwrap()
    }

    #[test]
    fn everything_that_overflows_ustar_reads_back() {
        let path = [b"d/".repeat(60), b"\xff".to_vec()].concat();
        let head = Head {
            flag: b'0',
            path: &path,
            link: b"",
            mode: 0o4755,
            uid: 3_000_000,
            gid: 7,
            mtime: Mtime { seconds: -7, nanos: 5 },
            size: 9 << 33,
        };
        let entry = round(&head, vec![xattr_record(b"user.a=%b", b"v\n".to_vec())]);
        assert_eq!((entry.path, entry.mode, entry.size), (path.clone(), 0o4755, 9 << 33));
        assert_eq!((entry.uid, entry.gid, entry.mtime), (Some(3_000_000), Some(7), head.mtime));
        assert_eq!(entry.xattrs, [(b"user.a=%b".to_vec(), b"v\n".to_vec())]);
    }

    #[test]
    fn a_plain_entry_has_no_pax_header() {
        let head = Head {
            flag: b'5',
            path: b"usr/",
            link: b"",
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Mtime { seconds: 1_700_000_000, nanos: 0 },
            size: 0,
        };
        let mut out = Vec::new();
        push_headers(&mut out, &head, Vec::new());
        assert_eq!(out.len(), BLOCK);
        assert_eq!(round(&head, Vec::new()).kind, Kind::Directory);
    }

    #[test]
    fn record_lengths_count_their_own_digits() {
        for len in 0..2000 {
            let data = encode_records(&[(b"k".to_vec(), vec![b'v'; len])]);
            let text = std::str::from_utf8(&data).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, data.len());
        }
    }
}
