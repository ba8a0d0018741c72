//! The directories of a tree that is being unpacked: open ones, and what is still to be done to each.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::fault::{Fault, Step};
use crate::layer::entry::Meta;

/// How many directories are kept open. Archives are written depth first, so a few suffice.
const OPEN: usize = 64;

/// An open directory (`O_PATH`) and its inode number.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) ino: u64,
}

/// Open directories by the path under which they were asked for.
#[derive(Debug, Default)]
pub(super) struct DirCache {
    open: HashMap<Vec<u8>, (Rc<Dir>, u64)>,
    clock: u64,
}

impl DirCache {
    pub(super) fn get(&mut self, path: &[u8]) -> Option<Rc<Dir>> {
        self.clock += 1;
        let (dir, used) = self.open.get_mut(path)?;
        *used = self.clock;
        Some(Rc::clone(dir))
    }

    pub(super) fn insert(&mut self, path: &[u8], dir: Rc<Dir>) {
        if self.open.len() >= OPEN {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone());
            if let Some(oldest) = oldest {
                self.open.remove(&oldest);
            }
        }
        self.clock += 1;
        self.open.insert(path.to_vec(), (dir, self.clock));
    }

    /// Forgets everything: a directory or a link was replaced, and any path may mean something else now.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }
}

/// What is known of a directory that we made or were told about.
#[derive(Debug)]
pub(super) struct DirState {
    /// Inode number of its parent; its own for the root.
    pub(super) parent: u64,
    /// Where it is, without any symbolic link on the way; in a live tree as the archive named it.
    pub(super) path: Vec<u8>,
    pub(super) meta: Option<Meta>,
    pub(super) opaque: bool,
}

/// All directories of the tree by inode number, which a later rename of a parent does not change.
#[derive(Debug, Default)]
pub(super) struct DirTable {
    states: HashMap<u64, DirState>,
    /// Bytes held, against [`crate::layer::Limits::deferred`].
    bytes: usize,
}

impl DirTable {
    /// Remembers a directory, in place of whatever had its inode number before.
    pub(super) fn insert(&mut self, ino: u64, state: DirState, limit: usize) -> Step<()> {
        self.charge(size_of::<DirState>() + state.path.len() + size_of_meta(state.meta.as_ref()), limit)?;
        self.states.insert(ino, state);
        Ok(())
    }

    pub(super) fn get_mut(&mut self, ino: u64) -> Option<&mut DirState> {
        self.states.get_mut(&ino)
    }

    /// The path of a known directory.
    pub(super) fn path(&self, ino: u64) -> Option<&[u8]> {
        self.states.get(&ino).map(|state| state.path.as_slice())
    }

    /// Counts `bytes` more of held memory.
    pub(super) fn charge(&mut self, bytes: usize, limit: usize) -> Step<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > limit {
            return Err(Fault::Limit { what: "bytes of deferred work", limit: limit as u64 });
        }
        Ok(())
    }

    /// Whether the directory or one above it hides everything in the layers below.
    pub(super) fn under_opaque(&self, mut ino: u64) -> bool {
        // Bounded, should inode numbers that were used again ever close a circle.
        for _ in 0..self.states.len() {
            match self.states.get(&ino) {
                Some(state) if state.opaque => return true,
                Some(state) if state.parent != ino => ino = state.parent,
                _ => return false,
            }
        }
        false
    }

    /// All of them, children before parents.
    pub(super) fn drain(&mut self) -> Vec<(u64, DirState)> {
        let mut all: Vec<_> = self.states.drain().collect();
        all.sort_unstable_by(|(_, a), (_, b)| b.path.cmp(&a.path));
        all
    }
}

/// Memory that a directory's metadata holds.
pub(super) fn size_of_meta(meta: Option<&Meta>) -> usize {
    meta.map_or(0, |meta| meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum())
}
