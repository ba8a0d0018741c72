//! PAX extended headers: the records and what we take from them.
#![forbid(unsafe_code)]

use super::field::{Mtime, decimal, pax_time};
use super::reader::ParseError;
use super::sparse::parse_list;
use super::writer::{OPAQUE_KEY, XATTR_KEY, decode_name};
use crate::layer::limits::Limits;
use crate::layer::path::escape;

/// What one extended header says about the entry after it.
#[derive(Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Mtime>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) opaque: bool,
    pub(crate) sparse: Option<PaxSparse>,
    /// Keys that were there, to refuse a second one.
    seen: Vec<&'static str>,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default)]
pub(crate) struct PaxSparse {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    pub(crate) numbers: Vec<u64>,
    /// Whether a map was there at all (it may be empty).
    pub(crate) has_map: bool,
}

/// Calls `each` with every record of an extended header. A record is `LENGTH KEY=VALUE\n`, its length counting all.
fn for_each_record(
    mut data: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), ParseError>,
) -> Result<(), ParseError> {
    let bad = |why| ParseError::Record { why };
    while !data.is_empty() {
        let space = data.iter().take(21).position(|&b| b == b' ').ok_or(bad("no length"))?;
        let len = decimal(&data[..space]).map_err(|_| bad("the length is not a number"))?;
        let len = usize::try_from(len).ok().filter(|&len| len <= data.len()).ok_or(bad("too long"))?;
        if len < space + 4 {
            return Err(bad("too short"));
        }
        let (record, rest) = data.split_at(len);
        let body = record[space + 1..].strip_suffix(b"\n").ok_or(bad("no newline at its end"))?;
        let equals = body.iter().position(|&b| b == b'=').ok_or(bad("no `=`"))?;
        if equals == 0 || body[..equals].contains(&0) {
            return Err(bad("a bad keyword"));
        }
        each(&body[..equals], &body[equals + 1..])?;
        data = rest;
    }
    Ok(())
}

impl Pax {
    /// Reads the payload of an `x` header.
    pub(crate) fn parse(data: &[u8], limits: &Limits) -> Result<Self, ParseError> {
        let mut pax = Self::default();
        for_each_record(data, |key, value| pax.take(key, value, limits))?;
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), ParseError> {
        match key {
            b"path" => self.once("path")?.path = non_empty(value),
            b"linkpath" => self.once("linkpath")?.link = non_empty(value),
            b"size" => self.once("size")?.size = number("size", value)?,
            b"uid" => self.once("uid")?.uid = number("uid", value)?,
            b"gid" => self.once("gid")?.gid = number("gid", value)?,
            b"mtime" => self.once("mtime")?.mtime = time("mtime", value)?,
            key if key == OPAQUE_KEY.as_bytes() => self.take_opaque(value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.take_xattr(name.to_vec(), value, limits)?;
                } else if let Some(name) = key.strip_prefix(XATTR_KEY.as_bytes()) {
                    let name = decode_name(name).ok_or_else(|| bad_value(XATTR_KEY, name))?;
                    self.take_xattr(name, value, limits)?;
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.take_sparse(name, value, limits)?;
                }
            }
        }
        Ok(())
    }

    /// Refuses a second record of a key that decides what an entry is: readers differ on which one counts.
    fn once(&mut self, key: &'static str) -> Result<&mut Self, ParseError> {
        if self.seen.contains(&key) {
            return Err(ParseError::Duplicate { key: key.to_owned() });
        }
        self.seen.push(key);
        Ok(self)
    }

    fn take_opaque(&mut self, value: &[u8]) -> Result<(), ParseError> {
        if value != b"y" {
            return Err(bad_value(OPAQUE_KEY, value));
        }
        self.once(OPAQUE_KEY)?.opaque = true;
        Ok(())
    }

    fn take_xattr(&mut self, name: Vec<u8>, value: &[u8], limits: &Limits) -> Result<(), ParseError> {
        if self.xattrs.len() >= limits.xattrs {
            return Err(ParseError::TooManyXattrs { limit: limits.xattrs });
        }
        if self.xattrs.iter().any(|(known, _)| *known == name) {
            return Err(ParseError::Duplicate { key: format!("SCHILY.xattr.{}", escape(&name)) });
        }
        self.xattrs.push((name, value.to_vec()));
        Ok(())
    }

    fn take_sparse(&mut self, name: &[u8], value: &[u8], limits: &Limits) -> Result<(), ParseError> {
        let sparse = self.sparse.get_or_insert_default();
        match name {
            b"major" => sparse.major = number("GNU.sparse.major", value)?,
            b"minor" => sparse.minor = number("GNU.sparse.minor", value)?,
            b"name" => sparse.name = non_empty(value),
            b"realsize" | b"size" => {
                let size = number("GNU.sparse.realsize", value)?;
                if sparse.real_size.is_some() && sparse.real_size != size {
                    return Err(ParseError::Duplicate { key: "GNU.sparse.realsize".to_owned() });
                }
                sparse.real_size = size;
            }
            b"numblocks" => sparse.has_map = true,
            b"offset" | b"numbytes" => sparse.push(name == b"offset", value, limits.sparse)?,
            b"map" if sparse.has_map && !sparse.numbers.is_empty() => {
                return Err(ParseError::Duplicate { key: "GNU.sparse.map".to_owned() });
            }
            b"map" => {
                sparse.has_map = true;
                if !value.is_empty() {
                    sparse.numbers = parse_list(value, limits.sparse)?;
                }
            }
            _ => return Err(ParseError::Sparse { why: "an unknown GNU.sparse record" }),
        }
        Ok(())
    }
}

impl PaxSparse {
    /// One number of a PAX 0.0 map, where offsets and lengths must alternate.
    fn push(&mut self, is_offset: bool, value: &[u8], limit: usize) -> Result<(), ParseError> {
        if is_offset != self.numbers.len().is_multiple_of(2) {
            return Err(ParseError::Sparse { why: "offsets and lengths do not alternate" });
        }
        if self.numbers.len() >= limit.saturating_mul(2) {
            return Err(ParseError::SparseTooMany { limit });
        }
        let value = decimal(value).map_err(|source| ParseError::Field { field: "GNU.sparse", source })?;
        self.has_map = true;
        self.numbers.push(value);
        Ok(())
    }
}

/// An empty value takes the record back: the header block's own value counts (pax(1), and Go and GNU tar do so).
fn non_empty(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

fn number(key: &'static str, value: &[u8]) -> Result<Option<u64>, ParseError> {
    match value {
        b"" => Ok(None),
        value => decimal(value).map(Some).map_err(|source| ParseError::Field { field: key, source }),
    }
}

fn time(key: &'static str, value: &[u8]) -> Result<Option<Mtime>, ParseError> {
    match value {
        b"" => Ok(None),
        value => pax_time(value).map(Some).map_err(|source| ParseError::Field { field: key, source }),
    }
}

fn bad_value(key: &str, value: &[u8]) -> ParseError {
    ParseError::Value { key: key.to_owned(), value: escape(value) }
}

/// Checks a `g` header. What it says about owners, times and comments is ignored, as containerd does; what would move
/// or resize every following entry is refused, because readers differ.
pub(crate) fn check_global(data: &[u8]) -> Result<(), ParseError> {
    for_each_record(data, |key, _| {
        let decides = matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.");
        if decides { Err(ParseError::Global { key: escape(key) }) } else { Ok(()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(data: &[u8]) -> Result<Pax, ParseError> {
        Pax::parse(data, &Limits::default())
    }

    #[test]
    fn records_are_taken() {
        let pax = parse(b"9 path=a\n10 size=12\n30 mtime=-1.5\n").unwrap_err();
        assert!(matches!(pax, ParseError::Record { .. }), "{pax}");
        let pax = parse(b"9 path=a\n11 size=12\n14 mtime=-1.5\n24 SCHILY.xattr.user.k=\n18 comment=ignore\n")
            .unwrap();
        assert_eq!((pax.path.as_deref(), pax.size), (Some(&b"a"[..]), Some(12)));
        assert_eq!(pax.mtime, Some(Mtime { seconds: -2, nanos: 500_000_000 }));
        assert_eq!(pax.xattrs, [(b"user.k".to_vec(), Vec::new())]);
    }

    #[test]
    fn lying_lengths_are_refused() {
        for data in [
            &b"8 path=a\n"[..], // one short: no newline at its end
            b"11 path=a\n",     // one long
            b"9 path=ab\n",
            b"1 \n",
            b"5 =a\n",
            b"9 path+a\n",
            b"path=a\n",
            b"-9 path=a\n",
            b"99999999999999999999999 path=a\n",
            b"9 path=a",
        ] {
            assert!(matches!(parse(data), Err(ParseError::Record { .. })), "{data:?}");
        }
    }

    #[test]
    fn two_sizes_or_paths_are_refused() {
        for data in [&b"10 size=1\n10 size=1\n"[..], b"9 path=a\n9 path=b\n"] {
            assert!(matches!(parse(data), Err(ParseError::Duplicate { .. })), "{data:?}");
        }
    }

    #[test]
    fn odd_numbers_are_refused() {
        for value in ["-1", "+1", "0x10", " 1", "1 ", "1e3", "9223372036854775808"] {
            let body = format!("size={value}\n");
            let record = format!("{} {body}", body.len() + 3);
            let record = if body.len() + 3 > 9 { record } else { format!("{} {body}", body.len() + 2) };
            assert!(matches!(parse(record.as_bytes()), Err(ParseError::Field { .. })), "{record:?}");
        }
    }

    #[test]
    fn global_headers_may_not_move_entries() {
        assert!(check_global(b"18 comment=ignore\n9 uid=12\n").is_ok());
        assert!(matches!(check_global(b"9 path=a\n"), Err(ParseError::Global { .. })));
    }
}
