//! Bounded reading of the guest's `/etc/passwd` and `/etc/group`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{Kind, MAX_FILE, MAX_LINE, MAX_LINES, UserError, Wanted};
use crate::root::Root;

/// The text of a database. A missing file is an empty one.
pub(super) struct Table {
    kind: Kind,
    text: Vec<u8>,
}

impl Table {
    /// Reads it under the root: a symlink is followed inside; a FIFO or device is refused, and never waited for.
    pub(super) fn read(root: &Root, kind: Kind) -> Result<Self, UserError> {
        let failed = |source| UserError::Read { kind, source };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        // Looked at before it is opened: opening a device can act on it.
        let found = match root.open(Path::new(kind.path()), OFlags::PATH, 0) {
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOTDIR)) => {
                return Ok(Self { kind, text: Vec::new() });
            }
            other => other.map_err(failed)?,
        };
        require_regular(&found, kind)?;
        let file = root.open(Path::new(kind.path()), flags, 0).map_err(failed)?;
        require_regular(&file, kind)?;
        let mut text = Vec::new();
        File::from(file).take(MAX_FILE + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_FILE {
            return Err(UserError::Unusable { kind, problem: "it is larger than 1 MiB" });
        }
        Ok(Self { kind, text })
    }

    /// The first line that `look` makes something of.
    pub(super) fn find_map<'table, T>(
        &'table self,
        mut look: impl FnMut(&'table [u8]) -> Option<T>,
    ) -> Result<Option<T>, UserError> {
        for (index, line) in self.text.split(|&byte| byte == b'\n').enumerate() {
            let problem = match () {
                () if index >= MAX_LINES => "it has more than 100,000 lines",
                () if line.len() > MAX_LINE => "it has a line of more than 64 KiB",
                () => match look(line) {
                    None => continue,
                    found => return Ok(found),
                },
            };
            return Err(UserError::Unusable { kind: self.kind, problem });
        }
        Ok(None)
    }
}

fn require_regular(fd: &std::os::fd::OwnedFd, kind: Kind) -> Result<(), UserError> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| UserError::Read { kind, source: errno.into() })?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(UserError::Unusable { kind, problem: "it is not a regular file" }),
    }
}

/// A line `name:password:uid:gid:gecos:home:shell`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passwd {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: Vec<u8>,
}

impl Passwd {
    /// `None` for a line without a usable name, uid and gid, as the C library skips it.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b':');
        let name = name(fields.next()?)?;
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        let home = fields.nth(1).unwrap_or_default().to_vec();
        Some(Self { name: name.to_owned(), uid, gid, home })
    }

    pub(super) fn is(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Id(uid) => self.uid == *uid,
            Wanted::Name(name) => self.name == *name,
        }
    }
}

/// A line `name:password:gid:member,member`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group<'line> {
    pub(super) name: &'line [u8],
    pub(super) gid: u32,
    members: &'line [u8],
}

impl<'line> Group<'line> {
    /// `None` for a line without a usable name and gid, as the C library skips it.
    pub(super) fn parse(line: &'line [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b':');
        let name = name(fields.next()?)?.as_bytes();
        let gid = id(fields.nth(1)?)?;
        Some(Self { name, gid, members: fields.next().unwrap_or_default() })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.split(|&byte| byte == b',').any(|member| member == name.as_bytes())
    }
}

/// Comments and the `+` and `-` lines of NIS are no names.
fn name(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))
}

/// Decimal digits only, and never the id that means "no id".
fn id(field: &[u8]) -> Option<u32> {
    let digits =
        std::str::from_utf8(field).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|&id| id != u32::MAX)
}
