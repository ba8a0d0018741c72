//! A store for once: made near the real one, so that it is on the same file system, and removed whatever happens.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
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
    pub(crate) fn near(store: &Path) -> Outcome<Self> {
        let mut random = [0u8; 6];
        getrandom(&mut random, GetRandomFlags::empty()).map_err(|e| Failure::io("get random bytes", e))?;
        let name = random.iter().fold(String::from(".vesselrt-"), |name, byte| format!("{name}{byte:02x}"));
        let mut last = Failure::internal("no directory takes a temporary store");
        for parent in candidates(store, std::env::var_os("TMPDIR").map(PathBuf::from)) {
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

/// Directories that might take it, in order. Never the root directory, which is no place for it even where it is writable.
fn candidates(store: &Path, temporary: Option<PathBuf>) -> Vec<PathBuf> {
    let above =
        store.ancestors().skip(1).filter(|dir| dir.file_name().is_some_and(|name| name != OsStr::new("")));
    let nearest = above.filter(|dir| dir.is_dir()).map(Path::to_owned);
    let temporary = temporary.filter(|dir| dir.is_absolute());
    temporary.into_iter().chain(nearest).chain([PathBuf::from("/tmp")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temporary_directory_comes_first_and_the_root_never() {
        let store = Path::new("/usr/lib/not-there/vesselrt");
        let found = candidates(store, Some("/var/tmp".into()));
        assert_eq!(found, ["/var/tmp", "/usr/lib", "/usr", "/tmp"].map(PathBuf::from));
        assert_eq!(candidates(Path::new("/store"), Some("relative".into())), [PathBuf::from("/tmp")]);
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
