//! [`Staged`]: a file that becomes visible whole, or not at all.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::Dir;
use crate::digest::to_hex;
use crate::error::{Result, StorageError};
use crate::id::random_bytes;

/// What the name of every staged file starts with; no id, reference or digest does.
const PREFIX: &str = ".stage-";

/// A file under a temporary name of its own, removed again unless it is committed.
///
/// It is locked (flock(2)) for as long as it is staged: [`sweep`] removes those that nobody holds any more,
/// which a crash left behind.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    dir: &'a Dir,
    name: String,
    file: File,
    live: bool,
}

impl<'a> Staged<'a> {
    /// Makes a new, empty, private file in `dir`.
    pub(crate) fn new(dir: &'a Dir) -> Result<Self> {
        loop {
            let name = format!("{PREFIX}{}", to_hex(&random_bytes::<8>()));
            let failed = |e: Errno| StorageError::io("stage", dir.path_of(&name), e);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(dir, name.as_str(), flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => fd,
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(failed(e)),
            };
            let file = File::from(fd);
            rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(failed)?;
            // A sweep may have come between the creation and the lock; then the name is gone.
            if rustix::fs::fstat(&file).map_err(failed)?.st_nlink > 0 {
                return Ok(Self { dir, name, file, live: true });
            }
        }
    }

    /// What was written so far, to be read.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Writes `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| StorageError::io("write", self.dir.path_of(&self.name), e))
    }

    /// Makes the content durable and gives it its name in `target`, a directory of the same file system.
    pub(crate) fn commit(self, target: &Dir, name: &str) -> Result<()> {
        let failed = |e: io::Error| StorageError::io("commit", target.path_of(name), e);
        self.file.sync_all().map_err(failed)?;
        self.rename(target, name)?;
        target.sync()
    }

    fn rename(mut self, target: &Dir, name: &str) -> Result<()> {
        rustix::fs::renameat(self.dir, self.name.as_str(), target, name)
            .map_err(|e| StorageError::io("commit", target.path_of(name), e))?;
        self.live = false;
        Ok(())
    }
}

impl Write for Staged<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if self.live {
            // Nothing can be done about a failure here; the next sweep tries again.
            let _ = rustix::fs::unlinkat(self.dir, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// Replaces the file `name` of `dir` by `bytes`, atomically and durably.
pub(crate) fn replace(dir: &Dir, name: &str, bytes: &[u8]) -> Result<()> {
    let mut staged = Staged::new(dir)?;
    staged.write(bytes)?;
    staged.commit(dir, name)
}

/// [`replace`], but after a power cut it may be the old file, none, or an empty one.
pub(crate) fn replace_unsynced(dir: &Dir, name: &str, bytes: &[u8]) -> Result<()> {
    let mut staged = Staged::new(dir)?;
    staged.write(bytes)?;
    staged.rename(dir, name)
}

/// Removes the staged files of `dir` that no living process holds.
pub(crate) fn sweep(dir: &Dir) -> Result<()> {
    for name in dir.names()? {
        if let Some(lock) = name.starts_with(PREFIX).then(|| abandoned(dir, &name)).flatten() {
            // What cannot be removed must not keep anybody from saving.
            let _ = dir.remove_file(&name);
            // Not before: whoever has just created the file waits for this lock, and then looks whether it is
            // still there.
            drop(lock);
        }
    }
    Ok(())
}

/// The staged file `name`, locked, if it is there and nobody else holds it. Anything odd under such a name is
/// left alone.
fn abandoned(dir: &Dir, name: &str) -> Option<File> {
    let (file, _) = dir.open_file(name).ok()??;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_is_gone_and_committed_is_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let mut staged = Staged::new(&dir).unwrap();
        staged.write(b"half").unwrap();
        drop(staged);
        assert!(dir.names().unwrap().is_empty());
        replace(&dir, "x", b"one").unwrap();
        replace(&dir, "x", b"two").unwrap();
        assert_eq!(dir.names().unwrap(), ["x"]);
        assert_eq!(dir.read_file("x", 10).unwrap().unwrap(), b"two");
    }

    #[test]
    fn sweep_removes_what_a_crash_left_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        std::fs::write(tmp.path().join(".stage-0011223344556677"), "left").unwrap();
        std::fs::write(tmp.path().join("data"), "keep").unwrap();
        let alive = Staged::new(&dir).unwrap();
        sweep(&dir).unwrap();
        let mut names = dir.names().unwrap();
        names.sort();
        assert_eq!(names, [alive.name.as_str(), "data"]);
    }

    #[test]
    fn sweepers_do_not_disturb_those_who_stage() {
        let tmp = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 0..4 {
                let dir = Dir::open(tmp.path()).unwrap();
                scope.spawn(move || {
                    for _ in 0..300 {
                        sweep(&dir).unwrap();
                        let mut staged = Staged::new(&dir).unwrap();
                        staged.write(b"x").unwrap();
                        let target = format!("file-{n}");
                        rustix::fs::renameat(&dir, staged.name.as_str(), &dir, &target).unwrap();
                        staged.live = false;
                    }
                });
            }
        });
        assert_eq!(Dir::open(tmp.path()).unwrap().names().unwrap().len(), 4);
    }
}
