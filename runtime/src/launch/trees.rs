//! What of the host is mounted in a vessel, on its way to the shim.
//!
//! A mount can only be copied in the mount namespace that it is in. Real root copies it here, where any path can be walked, and
//! lets ids on disk be the same ids inside, if the file system can do that. For others the new process copies it, before it
//! changes its user, in the copy of this mount namespace that it begins with; it goes by the path, and compares what it found.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::mount::OpenTreeFlags;

use super::{LaunchError, path_of, step};
use crate::settings::{Mount, Settings};
use crate::shim::protocol::Origin;
use crate::sys;

/// The mounts of a vessel, in their order.
pub(super) struct Trees<'a> {
    mounts: &'a [Mount],
    all: Vec<Tree<'a>>,
}

enum Tree<'a> {
    InMemory,
    /// To be copied from this path by the new process, which gets the descriptor to compare.
    There(Vec<u8>, BorrowedFd<'a>),
    /// A copy that is attached nowhere yet.
    Copied(OwnedFd),
}

impl<'a> Trees<'a> {
    /// `sources` are open on what is mounted, in the order of the settings; `None` for a file system in memory.
    pub(super) fn new(settings: &'a Settings, sources: &'a [Option<OwnedFd>]) -> Result<Self, LaunchError> {
        let mounts = &settings.mounts;
        if mounts.len() != sources.len() {
            let problem = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(step("match mounts and what was opened for them", problem));
        }
        let all = mounts.iter().zip(sources).map(|(mount, source)| match source {
            None => Ok(Tree::InMemory),
            // What is in a volume belongs to the ids of the store already.
            Some(source) if mount.volume_name().is_none() => Self::of_host(source.as_fd()),
            Some(source) => Ok(Tree::There(path_of(source.as_fd())?, source.as_fd())),
        });
        Ok(Self { mounts, all: all.collect::<Result<_, LaunchError>>()? })
    }

    fn of_host(source: BorrowedFd<'a>) -> Result<Tree<'a>, LaunchError> {
        if rustix::process::geteuid().is_root() {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE
                | OpenTreeFlags::AT_EMPTY_PATH;
            // A root that may not mount is like any other user.
            if let Ok(copy) = rustix::mount::open_tree(source, "", flags) {
                return Ok(Tree::Copied(copy));
            }
        }
        Ok(Tree::There(path_of(source)?, source))
    }

    /// Paths that the new process copies from.
    pub(super) fn paths(&self) -> Vec<Vec<u8>> {
        let path = |tree: &Tree<'_>| match tree {
            Tree::There(path, _) => Some(path.clone()),
            Tree::InMemory | Tree::Copied(_) => None,
        };
        self.all.iter().filter_map(path).collect()
    }

    /// What the shim is told of each.
    pub(super) fn origins(&self) -> Vec<Origin> {
        let origin = |tree: &Tree<'_>| match tree {
            Tree::InMemory => Origin::InMemory,
            Tree::There(..) => Origin::There,
            Tree::Copied(_) => Origin::Copied,
        };
        self.all.iter().map(origin).collect()
    }

    /// The descriptors that go with that.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().filter_map(|tree| match tree {
            Tree::InMemory => None,
            Tree::There(_, fd) => Some(*fd),
            Tree::Copied(copy) => Some(copy.as_fd()),
        })
    }

    /// Confines the copies, now that there is a process `pid` in the user namespace of the vessel.
    pub(super) fn confine(&self, pid: u32) -> Result<(), LaunchError> {
        let is_copied = |tree: &Tree<'_>| matches!(tree, Tree::Copied(_));
        if !self.all.iter().any(is_copied) {
            return Ok(());
        }
        // A root that may not look at other processes may not map ids either.
        let ids = File::open(format!("/proc/{pid}/ns/user")).ok();
        for (mount, tree) in self.mounts.iter().zip(&self.all) {
            let Tree::Copied(copy) = tree else { continue };
            let read_only = mount.is_read_only();
            // Where the file system cannot do it, or one below it: files there are nobody's.
            sys::confine_mount(copy, read_only, ids.as_ref().map(AsFd::as_fd))
                .or_else(|_| sys::confine_mount(copy, read_only, None))
                .map_err(|e| step(format!("confine the mount at {:?}", mount.destination()), e))?;
        }
        Ok(())
    }
}
