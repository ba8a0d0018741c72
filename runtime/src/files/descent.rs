//! A walk down a tree of any depth by directory descriptors, with few of them open.
//!
//! `..` is never used: a guest that moves the directory elsewhere would send the walk somewhere else, in the end out of
//! the tree. A directory whose descriptor was closed is found again by the names that led to it.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

/// Descriptors of the deepest levels that are kept.
const WINDOW: usize = 64;
/// One level in so many is kept too, so that the way back to a closed one is short.
const MILESTONE: usize = 512;
/// Deepest level: with the milestones, some 260 descriptors.
const MAX_DEPTH: usize = 100_000;

#[derive(Debug)]
struct Level {
    name: CString,
    dir: Option<OwnedFd>,
}

#[derive(Debug)]
pub(super) struct Descent {
    base: OwnedFd,
    levels: Vec<Level>,
}

/// The guest moved, removed or replaced something under the walk.
pub(super) fn is_change(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

impl Descent {
    /// Starts in a directory of the tree.
    pub(super) fn new(base: BorrowedFd<'_>) -> std::io::Result<Self> {
        Ok(Self { base: base.try_clone_to_owned()?, levels: Vec::new() })
    }

    /// Where the walk is, found again if its descriptor was closed.
    pub(super) fn current(&mut self) -> Result<BorrowedFd<'_>> {
        let first = self.levels.iter().rposition(|level| level.dir.is_some()).map_or(0, |index| index + 1);
        for index in first..self.levels.len() {
            let dir = open(self.above(index), &self.levels[index].name)?;
            self.keep(index, dir);
        }
        Ok(self.above(self.levels.len()))
    }

    /// Goes down into `name`, a directory of the current one.
    pub(super) fn push(&mut self, name: CString) -> Result<()> {
        if self.levels.len() == MAX_DEPTH {
            return Err(Errno::TOOBIG);
        }
        let dir = open(self.current()?, &name)?;
        self.levels.push(Level { name, dir: None });
        self.keep(self.levels.len() - 1, dir);
        Ok(())
    }

    /// Goes up; the name of the directory that was left.
    pub(super) fn pop(&mut self) -> Option<CString> {
        self.levels.pop().map(|level| level.name)
    }

    /// The path of `name` in the current directory, from the base.
    pub(super) fn path_of(&self, name: &CStr) -> PathBuf {
        let levels = self.levels.iter().map(|level| level.name.as_c_str());
        levels.chain([name]).map(|name| OsStr::from_bytes(name.to_bytes())).collect()
    }

    /// The directory above level `index`, which is open.
    fn above(&self, index: usize) -> BorrowedFd<'_> {
        let level = index.checked_sub(1).and_then(|above| self.levels[above].dir.as_ref());
        level.unwrap_or(&self.base).as_fd()
    }

    fn keep(&mut self, index: usize, dir: OwnedFd) {
        self.levels[index].dir = Some(dir);
        if let Some(old) = index.checked_sub(WINDOW).filter(|old| !(old + 1).is_multiple_of(MILESTONE)) {
            self.levels[old].dir = None;
        }
    }
}

/// Opens a directory by a single name, never through a symlink.
pub(super) fn open(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}
