//! [`Twins`]: archives that are the same are one file.
//!
//! `archives/KEY` is one more name of every archive; KEY is made from its length and its last bytes, where an archive of
//! ours has the checksums of all that is before. An archive that is about to be saved under a key that is taken is
//! compared with that file byte by byte, and becomes another name of it if they are the same. The link count of the
//! file system says when the last snapshot is gone: nothing else is kept that could be wrong after a crash.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::AtFlags;

use crate::digest::Digest;
use crate::dir::Dir;
use crate::dir::stage::Staged;
use crate::error::Result;

/// Bytes at the end of an archive that its key is made from.
const TAIL: u64 = 64 << 10;
/// Bytes that are compared at once.
const STEP: usize = 1 << 20;

/// The second names of all archives.
#[derive(Debug)]
pub(super) struct Twins(Dir);

impl Twins {
    pub(super) fn new(dir: Dir) -> Self {
        Self(dir)
    }

    /// Gives what is staged its name in `dir`, durably: as a file of its own, or as another name of one that is the same.
    pub(super) fn commit(&self, staged: Staged<'_>, dir: &Dir, name: &str) -> Result<()> {
        let key = key_of(staged.file());
        if let Ok(key) = &key
            && self.link_twin(key, staged.file(), dir, name).unwrap_or(false)
        {
            return dir.sync();
        }
        staged.commit(dir, name)?;
        if let Ok(key) = key {
            // Without it the next one is stored a second time, which is all. Nor need it survive a power cut.
            let _ = rustix::fs::linkat(dir, name, &self.0, key.as_str(), AtFlags::empty());
        }
        Ok(())
    }

    /// True when `name` is another name now of an archive that is the same as `new`, and on disk for good.
    fn link_twin(&self, key: &str, new: &File, dir: &Dir, name: &str) -> io::Result<bool> {
        let Ok(Some((twin, _))) = self.0.open_file(key) else { return Ok(false) };
        if !same_content(&twin, new)? {
            return Ok(false);
        }
        // Not over one that is there, nor where the file system has no (more) links.
        let linked = rustix::fs::linkat(&self.0, key, dir, name, AtFlags::empty());
        let there = dir.open_file(name).map_err(io::Error::from)?;
        if there.is_some_and(|(file, _)| is_same_file(&file, &twin)) {
            return Ok(true);
        }
        if linked.is_ok() {
            // The key became another archive's meanwhile.
            let _ = dir.remove_file(name);
        }
        Ok(false)
    }

    /// Removes the archive `name` of `dir`; false if there was none.
    pub(super) fn remove(&self, dir: &Dir, name: &str) -> Result<bool> {
        let Ok(Some((file, _))) = dir.open_file(name) else { return dir.remove_file(name) };
        // First, so that a crash leaves no name that nobody would remove; and again, for those who remove the last two
        // at the same time.
        self.forget(&file, 2);
        let removed = dir.remove_file(name)?;
        self.forget(&file, 1);
        Ok(removed)
    }

    /// Removes every archive of `dir`.
    pub(super) fn remove_all(&self, dir: &Dir) -> Result<()> {
        for name in dir.names()? {
            self.remove(dir, &name)?;
        }
        Ok(())
    }

    /// How many snapshots have the archive `file`.
    pub(super) fn holders(&self, file: &File) -> io::Result<u64> {
        let links = file.metadata()?.nlink();
        let twin = self.0.open_file(&key_of(file)?).ok().flatten();
        Ok(links - u64::from(twin.is_some_and(|(twin, _)| is_same_file(&twin, file))).min(links))
    }

    /// Removes the second name of `file` if it has `links` names. One that stays only takes room.
    pub(super) fn forget(&self, file: &File, links: u64) {
        let forget = || -> io::Result<()> {
            if file.metadata()?.nlink() != links {
                return Ok(());
            }
            let key = key_of(file)?;
            if let Ok(Some((twin, _))) = self.0.open_file(&key)
                && is_same_file(&twin, file)
            {
                self.0.remove_file(&key)?;
            }
            Ok(())
        };
        let _ = forget();
    }

    /// Removes the names that crashes left without a snapshot.
    pub(super) fn sweep(&self) -> Result<()> {
        for key in self.0.names()? {
            if let Ok(Some((file, _))) = self.0.open_file(&key) {
                self.forget(&file, 1);
            }
        }
        Ok(())
    }
}

/// A name that archives have in common if they are the same, and hardly otherwise.
fn key_of(file: &File) -> io::Result<String> {
    let len = file.metadata()?.len();
    let mut tail = vec![0; usize::try_from(len.min(TAIL)).expect("at most 64 KiB")];
    file.read_exact_at(&mut tail, len - len.min(TAIL))?;
    Ok(format!("{len}-{}", Digest::sha256(&tail).hex()))
}

fn same_content(a: &File, b: &File) -> io::Result<bool> {
    let len = a.metadata()?.len();
    if b.metadata()?.len() != len {
        return Ok(false);
    }
    let (mut left, mut right, mut at) = (vec![0; STEP], vec![0; STEP], 0);
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(STEP).min(STEP);
        a.read_exact_at(&mut left[..step], at)?;
        b.read_exact_at(&mut right[..step], at)?;
        if left[..step] != right[..step] {
            return Ok(false);
        }
        at += step as u64;
    }
    Ok(true)
}

fn is_same_file(a: &File, b: &File) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
