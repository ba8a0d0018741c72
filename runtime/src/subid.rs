//! Subordinate id ranges: which uids and gids the host lets a user map into a user namespace.
//!
//! Sources: subuid(5), subgid(5): lines `owner:start:count`, the owner a login name or a decimal uid (in both files).
//! Ranges from other sources of nsswitch.conf (`subid: sss`) are not seen.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Subordinate uids.
pub const SUBUID: &str = "/etc/subuid";
/// Subordinate gids.
pub const SUBGID: &str = "/etc/subgid";

/// Larger files are refused: a line takes about 30 bytes, and the file is read at every start.
const MAX_FILE: u64 = 16 << 20;

/// Consecutive host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdRange {
    /// First id.
    pub start: u32,
    /// How many; never 0, and `start + count` is at most 4294967295 (the id that means "no id").
    pub count: u32,
}

impl IdRange {
    /// The first id after the range.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.start.saturating_add(self.count)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// What a user may map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubIds {
    /// Of `/etc/subuid`, in its order.
    pub uids: Vec<IdRange>,
    /// Of `/etc/subgid`, in its order.
    pub gids: Vec<IdRange>,
}

/// What is wrong with one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Not three fields.
    #[error("not of the form owner:start:count")]
    Form,
    /// A field is not a decimal number of 32 bits.
    #[error("start or count is not a decimal number below 4294967296")]
    Number,
    /// `count` is 0.
    #[error("the range is empty")]
    Empty,
    /// `start + count` is above 4294967295.
    #[error("the range goes beyond the last id")]
    Overflow,
    /// The range has id 0, which must never be mapped.
    #[error("the range contains id 0, the host's root")]
    HostRoot,
}

/// Why the ranges of a user cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubIdError {
    /// The file cannot be read. (A missing one is an empty one.)
    #[error("failed to read {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is larger than 16 MiB.
    #[error("failed to read {path:?}: larger than {limit} bytes")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Bytes allowed.
        limit: u64,
    },
    /// A line of this user is malformed.
    #[error("failed to parse {path:?} line {line}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: LineError,
    },
}

/// The ranges that `/etc/subuid` and `/etc/subgid` give to `user` (or to `uid` as a number).
///
/// A range that overlaps an earlier one of the user is left out: the kernel refuses a map with both.
///
/// # Errors
/// A file that exists but cannot be read, or a malformed line of this user. Malformed lines of others are skipped.
pub fn subid_ranges(user: Option<&str>, uid: u32) -> Result<SubIds, SubIdError> {
    let ranges = |path: &str| ranges_of_file(Path::new(path), user, uid);
    Ok(SubIds { uids: ranges(SUBUID)?, gids: ranges(SUBGID)? })
}

/// The login name of `uid` in the host's user database, getpwuid(3).
#[must_use]
pub fn login_name(uid: u32) -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

fn ranges_of_file(path: &Path, user: Option<&str>, uid: u32) -> Result<Vec<IdRange>, SubIdError> {
    let text = read_bounded(path)?;
    parse(&text, user, uid).map_err(|(line, source)| SubIdError::Line { path: path.into(), line, source })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, SubIdError> {
    let failed = |source| SubIdError::Read { path: path.into(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(SubIdError::TooLarge { path: path.into(), limit: MAX_FILE });
    }
    Ok(text)
}

/// The ranges of `user` or `uid` in the text of a subuid(5) file.
///
/// # Errors
/// The number, from 1, of the first malformed line of this user, and what is wrong with it.
pub fn parse(text: &[u8], user: Option<&str>, uid: u32) -> Result<Vec<IdRange>, (usize, LineError)> {
    let number = uid.to_string();
    let mut ranges: Vec<IdRange> = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let owner = line.split(|&byte| byte == b':').next().unwrap_or_default();
        let ours = user.is_some_and(|user| !user.is_empty() && owner == user.as_bytes());
        if !ours && owner != number.as_bytes() {
            continue;
        }
        let range = parse_line(line).map_err(|error| (index + 1, error))?;
        if !ranges.iter().any(|earlier| earlier.overlaps(&range)) {
            ranges.push(range);
        }
    }
    Ok(ranges)
}

fn parse_line(line: &[u8]) -> Result<IdRange, LineError> {
    let mut fields = line.split(|&byte| byte == b':').skip(1);
    let (Some(start), Some(count), None) = (fields.next(), fields.next(), fields.next()) else {
        return Err(LineError::Form);
    };
    let (start, count) = (decimal(start)?, decimal(count)?);
    match (start, count) {
        (_, 0) => Err(LineError::Empty),
        (0, _) => Err(LineError::HostRoot),
        _ if start.checked_add(count).is_none() => Err(LineError::Overflow),
        _ => Ok(IdRange { start, count }),
    }
}

/// Digits only: [`str::parse`] would take a `+`.
fn decimal(field: &[u8]) -> Result<u32, LineError> {
    let digits =
        std::str::from_utf8(field).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(LineError::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u32, count: u32) -> IdRange {
        IdRange { start, count }
    }

    #[test]
    fn ranges_by_name_and_by_number_in_file_order() {
        let text =
            b"# comment\nroot:1:1\nann:100000:65536\n\nbob:165536:65536\n1000:300000:10\nann:5000:1000\n";
        let ranges = parse(text, Some("ann"), 1000).unwrap();
        assert_eq!(ranges, [range(100_000, 65536), range(300_000, 10), range(5000, 1000)]);
        assert_eq!(parse(text, None, 1000).unwrap(), [range(300_000, 10)]);
        assert_eq!(parse(text, Some(""), 7).unwrap(), []);
    }

    #[test]
    fn an_overlapping_range_is_left_out() {
        let text = b"ann:1000:100\n7:1000:100\nann:1099:5\nann:1100:5";
        assert_eq!(parse(text, Some("ann"), 7).unwrap(), [range(1000, 100), range(1100, 5)]);
    }

    #[test]
    fn malformed_lines_of_the_user_are_errors_with_their_number() {
        for (line, error) in [
            ("ann", LineError::Form),
            ("ann:1", LineError::Form),
            ("ann:1:2:3", LineError::Form),
            ("ann::2", LineError::Number),
            ("ann:+1:2", LineError::Number),
            ("ann: 1:2", LineError::Number),
            ("ann:1:2\r", LineError::Number),
            ("ann:0x10:2", LineError::Number),
            ("ann:-1:2", LineError::Number),
            ("ann:4294967296:1", LineError::Number),
            ("ann:1:0", LineError::Empty),
            ("ann:0:65536", LineError::HostRoot),
            ("ann:4294967295:1", LineError::Overflow),
            ("ann:2147483648:2147483648", LineError::Overflow),
        ] {
            let text = format!("bob:x:y\n{line}\n");
            assert_eq!(parse(text.as_bytes(), Some("ann"), 7), Err((2, error)), "{line}");
        }
    }

    #[test]
    fn the_last_id_is_usable() {
        assert_eq!(parse(b"a:4294967294:1", Some("a"), 7).unwrap(), [range(u32::MAX - 1, 1)]);
    }

    #[test]
    fn a_missing_file_is_empty_and_a_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ranges_of_file(&dir.path().join("none"), Some("a"), 1).unwrap().is_empty());
        assert!(matches!(ranges_of_file(dir.path(), Some("a"), 1), Err(SubIdError::Read { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_give_disjoint_ranges_without_root(text in "(a|b|7|:|0|1|9|\n){0,80}") {
            if let Ok(ranges) = parse(text.as_bytes(), Some("a"), 7) {
                for (index, one) in ranges.iter().enumerate() {
                    prop_assert!(one.start > 0 && one.count > 0 && one.start.checked_add(one.count).is_some());
                    prop_assert!(ranges[..index].iter().all(|other| !other.overlaps(one)));
                }
            }
        }
    }
}
