//! How the file of an embedded database is opened: to be changed, or only to be read, which changes and syncs nothing.
//!
//! redb trusts what it opens: of a file that was cut off or overwritten it ends the program. So it is looked at before.
#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "vm"), allow(dead_code, reason = "the service keeps its database open by itself"))]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Builder, Database, StorageBackend};

use crate::error::{Error, Result};

/// Bytes that redb keeps in memory: there is little.
const CACHE: usize = 1 << 20;
/// How every file of redb begins (its design.md, "Database header").
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// Bytes of a page, and pages with data of a region, of any file that we make.
const PAGE: u64 = 4096;
const REGION: u64 = 1 << 20;
/// The part of the header that says how large the file is.
const HEADER: usize = 32;

/// The database, to be changed.
pub(crate) fn open(path: &Path) -> Result<Database> {
    let file = File::options().read(true).write(true).open(path).map_err(|e| io_failed(path, e))?;
    check(path, &file)?;
    Builder::new().set_cache_size(CACHE).create_file(file).map_err(|e| failed("open", path, e))
}

/// The database as it is now, to be read.
pub(crate) fn read(path: &Path) -> Result<Database> {
    let file = File::open(path).map_err(|e| io_failed(path, e))?;
    check(path, &file)?;
    let len = file.metadata().map_err(|e| io_failed(path, e))?.len();
    let view = View { file, changed: Mutex::new(Changed { len, writes: Vec::new() }) };
    Builder::new().set_cache_size(CACHE).create_with_backend(view).map_err(|e| failed("open", path, e))
}

pub(crate) fn failed(doing: &str, path: &Path, error: impl Into<redb::Error>) -> Error {
    let message = format!("failed to {doing} the database {}", path.display());
    match error.into() {
        redb::Error::Io(e) if e.kind() != io::ErrorKind::InvalidData => Error::io(message, e),
        e @ (redb::Error::Corrupted(_) | redb::Error::Io(_) | redb::Error::UpgradeRequired(_)) => {
            Error::integrity(message).with_source(e)
        }
        e => Error::internal(message).with_source(e),
    }
}

fn io_failed(path: &Path, error: io::Error) -> Error {
    failed("open", path, redb::Error::Io(error))
}

/// Whether it begins as it should, and has all the pages that it says it has.
///
/// # Errors
/// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) if not.
pub(crate) fn check(path: &Path, file: &File) -> Result<()> {
    let damaged = || {
        Error::integrity(format!("{} is not a database, or is damaged", path.display()))
            .with_remedy("put it back from a backup, or move it away: what it lists is forgotten then")
    };
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).map_err(|_| damaged())?;
    let len = file.metadata().map_err(|e| io_failed(path, e))?.len();
    match pages(&header).and_then(|pages| pages.checked_mul(PAGE)) {
        Some(bytes) if bytes <= len => Ok(()),
        _ => Err(damaged()),
    }
}

/// How many pages there are by the header: itself, regions that are full, and a last one that is not.
fn pages(header: &[u8; HEADER]) -> Option<u64> {
    let number = |at: usize| {
        let bytes = header.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    let (page, above, most) = (number(12)?, number(16)?, number(20)?);
    if !header.starts_with(&MAGIC) || (page, most) != (PAGE, REGION) || above > REGION {
        return None;
    }
    let (full, last) = (number(24)?, number(28)?);
    let last = if last == 0 { 0 } else { last + above };
    full.checked_mul(above + most)?.checked_add(last)?.checked_add(1)
}

/// A file as it is, with what redb changes on opening and closing it kept in memory.
#[derive(Debug)]
struct View {
    file: File,
    changed: Mutex<Changed>,
}

#[derive(Debug)]
struct Changed {
    len: u64,
    /// In the order in which they were made.
    writes: Vec<(u64, Vec<u8>)>,
}

impl View {
    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for View {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changed().len)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut read = 0;
        // What it has been made longer by is zeros.
        while let n @ 1.. = self.file.read_at(&mut bytes[read..], offset + read as u64)? {
            read += n;
        }
        for (at, written) in &self.changed().writes {
            overlay(&mut bytes, offset, written, *at);
        }
        Ok(bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.changed().len = len;
        Ok(())
    }

    fn sync_data(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.changed().writes.push((offset, data.to_vec()));
        Ok(())
    }
}

/// Puts what was written at `at` over what was read at `offset`, where they meet.
fn overlay(bytes: &mut [u8], offset: u64, written: &[u8], at: u64) {
    let (begin, end) = (offset.max(at), (offset + bytes.len() as u64).min(at + written.len() as u64));
    if begin >= end {
        return;
    }
    let within = |from: u64| usize::try_from(begin - from).ok().zip(usize::try_from(end - from).ok());
    if let (Some((a, b)), Some((c, d))) = (within(offset), within(at)) {
        bytes[a..b].copy_from_slice(&written[c..d]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::{ReadableTable, TableDefinition};

    const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("t");

    fn put(database: &Database, key: &str) {
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TABLE).unwrap().insert(key, &[7; 3000][..]).unwrap();
        transaction.commit().unwrap();
    }

    fn count(database: &Database) -> usize {
        let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
        table.iter().unwrap().map(Result::unwrap).count()
    }

    #[test]
    fn what_is_changed_in_a_view_is_seen_there_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        put(&Database::create(&path).unwrap(), "one");
        let before = std::fs::read(&path).unwrap();
        let view = read(&path).unwrap();
        for n in 0..50 {
            put(&view, &n.to_string());
        }
        assert_eq!((count(&view), count(&read(&path).unwrap())), (51, 1));
        drop(view);
        assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
        put(&open(&path).unwrap(), "two");
        assert_eq!(count(&read(&path).unwrap()), 2);
    }

    #[test]
    fn one_that_was_not_closed_can_be_read_and_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("f"), dir.path().join("copy"));
        let database = Database::create(&path).unwrap();
        put(&database, "one");
        std::fs::copy(&path, &copy).unwrap();
        assert_eq!(count(&read(&copy).unwrap()), 1);
        put(&open(&copy).unwrap(), "two");
        assert_eq!(count(&read(&copy).unwrap()), 2);
    }

    #[test]
    fn one_that_was_cut_off_anywhere_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        put(&Database::create(&path).unwrap(), "one");
        let whole = std::fs::read(&path).unwrap();
        for len in [0, 1, 8, 31, 32, 319, 4095, 4096, 10_000, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            for error in [open(&path).unwrap_err(), read(&path).unwrap_err()] {
                assert_eq!(error.kind(), crate::ErrorKind::IntegrityViolation, "{len}: {error:?}");
            }
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(count(&read(&path).unwrap()), 1);
    }
}
