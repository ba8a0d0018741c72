//! [`Members`]: the files of a seekable tar by name.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::scan::{Kind, Member, ScanError, Scanner, Source, clean};
use super::{ArchiveError, ImportLimits, read_document};
use crate::error::{Result, StorageError};

/// How many links may lie between a name and its file.
const MAX_LINKS: usize = 8;

/// An index of a tar.
pub(super) struct Members<'a> {
    file: &'a File,
    path: &'a Path,
    by_name: HashMap<String, Member>,
}

impl<'a> Members<'a> {
    /// Reads all headers. Of members with one name the last counts, as it would when extracting.
    pub(super) fn scan(file: &'a File, path: &'a Path, limits: &ImportLimits) -> Result<Self> {
        let failed = |e| StorageError::io("read", path, e);
        let size = file.metadata().map_err(failed)?.len();
        let mut scanner = Scanner::new(Section::new(file, 0, size));
        let mut by_name = HashMap::new();
        let mut count = 0;
        while let Some(member) = scanner.next_member().map_err(|e| scan_error(e, path))? {
            count += 1;
            if count > limits.members {
                let what = format!("the members of {}", path.display());
                return Err(StorageError::LimitExceeded { what, limit: limits.members as u64 });
            }
            if let Some(name) = member.name.clone() {
                by_name.insert(name, member);
            }
        }
        Ok(Self { file, path, by_name })
    }

    /// Where the file `name` begins, and its size; links are followed inside the archive.
    pub(super) fn find(&self, name: &str) -> Result<(u64, u64)> {
        let missing = || self.corrupt(ArchiveError::Missing { name: crate::error::quoted(name) });
        let mut at = clean(name).ok_or_else(missing)?;
        for _ in 0..=MAX_LINKS {
            let member = self.by_name.get(&at).ok_or_else(missing)?;
            at = match &member.kind {
                Kind::File => return Ok((member.offset, member.size)),
                Kind::Symlink(target) => beside(&at, target).ok_or_else(missing)?,
                Kind::Hardlink(target) => clean(target).ok_or_else(missing)?,
                Kind::Directory | Kind::Other => return Err(missing()),
            };
        }
        Err(missing())
    }

    /// The content at `offset`.
    pub(super) fn section(&self, (offset, size): (u64, u64)) -> Section<'a> {
        Section::new(self.file, offset, size)
    }

    /// All of a small file.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let found = self.find(name)?;
        read_document(self.section(found), found.1, self.path)
    }

    fn corrupt(&self, error: ArchiveError) -> StorageError {
        StorageError::corrupt(self.path.display().to_string(), error)
    }
}

/// The target of the symbolic link `name`, without leaving the archive.
fn beside(name: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { name.split('/').collect() };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    clean(&parts.join("/"))
}

/// What an error of the scanner is to the caller.
pub(super) fn scan_error(error: ScanError, path: &Path) -> StorageError {
    match error {
        ScanError::Io(error) => StorageError::io("read", path, error),
        ScanError::Archive(error) => StorageError::corrupt(path.display().to_string(), error),
    }
}

/// A part of a file, read by offset.
#[derive(Debug)]
pub(super) struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl<'a> Section<'a> {
    pub(super) fn new(file: &'a File, at: u64, size: u64) -> Self {
        Self { file, at, left: size }
    }
}

impl Source for Section<'_> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(n).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.at += n;
        Ok(())
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let n = self.file.read_at(&mut buf[..most], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
