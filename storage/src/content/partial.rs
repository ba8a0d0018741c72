//! [`Partial`]: a blob that arrives in pieces, possibly of several processes, one after the other.
//!
//! It is the file `HEX.partial` of the ingest directory, locked (flock(2)) by whoever writes it. What a crash leaves
//! is the beginning of the blob, or whatever a power cut made of it: the digest over all of it decides.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{ContentStore, file_name};
use crate::digest::{Digest, Hasher};
use crate::dir::FileError;
use crate::error::{Result, StorageError};
use crate::image::descriptor::Descriptor;
use crate::reference::Reference;
use crate::verify::VerifyError;

const SUFFIX: &str = ".partial";
/// How much is read at once for hashing, in bytes.
const CHUNK: usize = 256 * 1024;

/// Whose a blob is.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Everybody's: it is stored.
    Stored,
    /// The caller's.
    Mine(Partial),
    /// Somebody else's at the moment.
    Busy,
}

/// A blob in the making; locked until this is dropped.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
    hasher: Hasher,
    /// How much is written, and hashed.
    done: u64,
}

impl ContentStore {
    /// Takes the blob into the caller's hands unless it is stored, or in others'. Hold a [`super::Lease`].
    pub(crate) fn claim(&self, digest: &Digest, size: u64) -> Result<Claim> {
        let name = format!("{}{SUFFIX}", file_name(digest)?);
        let path = self.ingest.path_of(&name);
        let failed = |op: &'static str| {
            let path = path.clone();
            move |e: Errno| StorageError::io(op, &path, e)
        };
        loop {
            if self.has_blob(digest, size)? {
                return Ok(Claim::Stored);
            }
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&self.ingest, name.as_str(), flags, Mode::RUSR | Mode::WUSR);
            let file = File::from(opened.map_err(failed("open"))?);
            let stat = rustix::fs::fstat(&file).map_err(failed("stat"))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(StorageError::corrupt(path.display().to_string(), FileError::NotRegular));
            }
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(Claim::Busy),
                other => other.map_err(failed("lock"))?,
            }
            // Whoever had it before may have finished it, or given it up.
            let named = rustix::fs::statat(&self.ingest, name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
            if !named.is_ok_and(|named| (named.st_ino, named.st_dev) == (stat.st_ino, stat.st_dev)) {
                continue;
            }
            if self.has_blob(digest, size)? {
                self.ingest.remove_file(&name)?;
                return Ok(Claim::Stored);
            }
            let hasher = Hasher::new(digest.algorithm());
            let partial = Partial { file, path: path.clone(), digest: digest.clone(), size, hasher, done: 0 };
            return partial.take_stock().map(Claim::Mine);
        }
    }

    /// What the index or a blob of the store says that `reference` is.
    pub(crate) fn known(&self, reference: &Reference) -> Result<Option<Descriptor>> {
        if let Some(digest) = reference.digest() {
            return self.guess_descriptor(digest);
        }
        let name = reference.to_string();
        let entries = self.read_index()?.manifests;
        Ok(entries.into_iter().find(|entry| entry.ref_name() == Some(&name)))
    }

    /// Removes what nobody is writing.
    pub(super) fn sweep_partials(&self) -> Result<()> {
        for name in self.ingest.names()?.into_iter().filter(|name| name.ends_with(SUFFIX)) {
            let Ok(Some((file, _))) = self.ingest.open_file(&name) else { continue };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // Under the lock: who waits for it looks at the name again.
                self.ingest.remove_file(&name)?;
            }
        }
        Ok(())
    }
}

impl Partial {
    /// How many bytes are there.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| self.failed("write", e))?;
        self.hasher.update(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what is there.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| io::Seek::rewind(&mut self.file));
        emptied.map_err(|e| self.failed("truncate", e))?;
        self.hasher = Hasher::new(self.digest.algorithm());
        self.done = 0;
        Ok(())
    }

    /// Verifies the whole and stores it, durably.
    pub(crate) fn finish(&self, store: &ContentStore) -> Result<()> {
        let (expected, actual) = (self.size, self.done);
        if actual < expected {
            return Err(VerifyError::TooShort { expected, actual }.of(&self.digest));
        }
        if actual > expected {
            return Err(VerifyError::TooLong { expected }.of(&self.digest));
        }
        let actual = self.hasher.clone().finish();
        if actual != self.digest {
            return Err(VerifyError::Digest { expected: self.digest.clone(), actual }.of(&self.digest));
        }
        self.file.sync_all().map_err(|e| self.failed("sync", e))?;
        let (from, to) = (format!("{}{SUFFIX}", self.digest.hex()), self.digest.hex());
        rustix::fs::renameat(&store.ingest, from.as_str(), &store.blobs, to)
            .map_err(|e| self.failed("store", e.into()))?;
        store.blobs.sync()
    }

    /// Removes it.
    pub(crate) fn discard(self, store: &ContentStore) -> Result<()> {
        store.ingest.remove_file(&format!("{}{SUFFIX}", self.digest.hex())).map(drop)
    }

    /// Hashes what an earlier writer left; more than the blob can have is nothing.
    fn take_stock(mut self) -> Result<Self> {
        let length = self.file.metadata().map_err(|e| self.failed("stat", e))?.len();
        if length > self.size {
            self.restart()?;
            return Ok(self);
        }
        let mut buf = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
        while self.done < length {
            let most = usize::try_from(length - self.done).unwrap_or(CHUNK).min(buf.len());
            self.file.read_exact(&mut buf[..most]).map_err(|e| self.failed("read", e))?;
            self.hasher.update(&buf[..most]);
            self.done += most as u64;
        }
        // Not only by reading: an empty file has not been read at all.
        io::Seek::seek(&mut self.file, io::SeekFrom::Start(length)).map_err(|e| self.failed("seek in", e))?;
        Ok(self)
    }

    fn failed(&self, op: &'static str, error: io::Error) -> StorageError {
        StorageError::io(op, &self.path, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::StorageErrorKind;

    fn store() -> (tempfile::TempDir, ContentStore) {
        let tmp = tempfile::tempdir().unwrap();
        let store = ContentStore::open(tmp.path()).unwrap();
        (tmp, store)
    }

    fn mine(store: &ContentStore, content: &[u8]) -> Partial {
        match store.claim(&Digest::sha256(content), content.len() as u64).unwrap() {
            Claim::Mine(partial) => partial,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pieces_of_several_writers_become_a_blob() {
        let (_tmp, store) = store();
        let mut first = mine(&store, b"hello world");
        first.write(b"hello").unwrap();
        assert!(matches!(store.claim(&Digest::sha256(b"hello world"), 11).unwrap(), Claim::Busy));
        drop(first);
        let mut second = mine(&store, b"hello world");
        assert_eq!(second.done(), 5);
        second.write(b" world").unwrap();
        second.finish(&store).unwrap();
        assert!(matches!(store.claim(&Digest::sha256(b"hello world"), 11).unwrap(), Claim::Stored));
        assert!(store.ingest.names().unwrap().is_empty());
    }

    #[test]
    fn other_content_is_not_stored() {
        let (_tmp, store) = store();
        for wrong in [&b"hellO"[..], b"hell", b"hello!"] {
            let mut partial = mine(&store, b"hello");
            partial.restart().unwrap();
            partial.write(wrong).unwrap();
            let error = partial.finish(&store).unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation);
            assert!(!store.has_blob(&Digest::sha256(b"hello"), 5).unwrap());
        }
        let mut partial = mine(&store, b"hello");
        partial.restart().unwrap();
        partial.write(b"hello").unwrap();
        partial.finish(&store).unwrap();
    }

    #[test]
    fn a_partial_file_that_is_too_long_starts_over() {
        let (tmp, store) = store();
        let name = format!("{}.partial", Digest::sha256(b"x").hex());
        std::fs::write(tmp.path().join(".ingest").join(name), b"much more").unwrap();
        assert_eq!(mine(&store, b"x").done(), 0);
    }

    #[test]
    fn odd_files_are_no_partials() {
        let (tmp, store) = store();
        let path = tmp.path().join(".ingest").join(format!("{}.partial", Digest::sha256(b"x").hex()));
        std::fs::write(tmp.path().join("victim"), "").unwrap();
        std::os::unix::fs::symlink(tmp.path().join("victim"), &path).unwrap();
        assert!(store.claim(&Digest::sha256(b"x"), 1).is_err());
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(store.claim(&Digest::sha256(b"x"), 1).is_err());
    }

    #[test]
    fn pruning_removes_what_nobody_writes() {
        let (_tmp, store) = store();
        mine(&store, b"left").write(b"le").unwrap();
        let held = mine(&store, b"held");
        store.prune_blobs(&[]).unwrap();
        assert_eq!(store.ingest.names().unwrap(), [format!("{}.partial", Digest::sha256(b"held").hex())]);
        drop(held);
        assert_eq!(mine(&store, b"left").done(), 0);
    }
}
