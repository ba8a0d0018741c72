//! A store for once: made near the real one, so that it is on the same file system, and removed whatever happens.
#![forbid(unsafe_code)]

use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::rand::{GetRandomFlags, getrandom};
use vesselrt_runtime::layer::remove_tree;

use crate::cli::{Failure, Outcome};

/// A directory that disappears.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    /// Makes one in `$TMPDIR` if that is set, otherwise in the nearest directory above `store` that takes it, otherwise in
    /// `/tmp`.
    pub(crate) fn anywhere(store: &Path) -> Outcome<Self> {
        Self::in_first_of(temporary().into_iter().chain(above(store)))
    }

    /// Makes one in the nearest directory above `store` that takes it, where most is as it will be in the store; otherwise in
    /// `$TMPDIR` or `/tmp`.
    pub(crate) fn near(store: &Path) -> Outcome<Self> {
        Self::in_first_of(above(store).chain(temporary()))
    }

    /// Makes one in `/tmp`: for what must have a short path.
    pub(crate) fn short() -> Outcome<Self> {
        Self::in_first_of(std::iter::empty())
    }

    fn in_first_of(parents: impl Iterator<Item = PathBuf>) -> Outcome<Self> {
        let mut random = [0u8; 6];
        getrandom(&mut random, GetRandomFlags::empty()).map_err(|e| Failure::io("get random bytes", e))?;
        let name = random.iter().fold(String::from(".vesselrt-"), |name, byte| format!("{name}{byte:02x}"));
        let mut last = Failure::internal("no directory takes a temporary store");
        for parent in parents.chain([PathBuf::from("/tmp")]) {
            let path = parent.join(&name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path, kept: false }),
                Err(e) => last = Failure::io(format!("make {}", path.display()), e),
            }
        }
        Err(last)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// Removes it.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub(crate) fn remove(mut self) -> Outcome {
        self.kept = true;
        self.remove_now().map_err(|e| Failure::io(format!("remove {}", self.path.display()), e))
    }

    fn remove_now(&self) -> io::Result<()> {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(CWD, parent, flags, Mode::empty())?;
        remove_tree(parent.as_fd(), name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            // On the way out of an error, which is the one to be told.
            let _ = self.remove_now();
        }
    }
}

/// `$TMPDIR`.
fn temporary() -> Option<PathBuf> {
    std::env::var_os("TMPDIR").map(PathBuf::from).filter(|dir| dir.is_absolute())
}

/// The directories above `store` that are there, the nearest first; not the root directory, which is no place for it even
/// where it is writable.
fn above(store: &Path) -> impl Iterator<Item = PathBuf> {
    let named = store.ancestors().skip(1).filter(|dir| dir.file_name().is_some());
    named.filter(|dir| dir.is_dir()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_in_what_there_is_above_the_store() {
        let found: Vec<PathBuf> = above(Path::new("/usr/lib/not-there/vesselrt")).collect();
        assert_eq!(found, ["/usr/lib", "/usr"].map(PathBuf::from));
        assert_eq!(above(Path::new("/store")).count(), 0);
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::near(&dir.path().join("store")).unwrap();
        assert_eq!(scratch.path().parent().unwrap(), dir.path());
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn it_is_private_and_disappears_with_directories_that_nobody_may_enter() {
        use std::os::unix::fs::PermissionsExt;
        let above = tempfile::tempdir().unwrap();
        let scratch = Scratch { path: above.path().join("s"), kept: false };
        DirBuilder::new().mode(0o700).create(scratch.path()).unwrap();
        let closed = scratch.path().join("work");
        std::fs::create_dir(&closed).unwrap();
        std::fs::write(closed.join("f"), "x").unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
        scratch.remove().unwrap();
        assert_eq!(std::fs::read_dir(above.path()).unwrap().count(), 0);
    }
}
