//! The way through a tree: depth first, sorted, without recursion and with few open directories.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::PackError;
use super::list::NameList;
use super::node::Packer;
use crate::layer::path::escape;
use crate::layer::stream::ChunkSink;
use crate::layer::{Dialect, TreeFormat};

/// How many directories of one branch are held open; those above are found again through `..`.
const OPEN: usize = 32;

/// How the names of fuse-overlayfs's own files begin.
const FUSE_MARK: &[u8] = b".wh.";
const FUSE_OPAQUE: &[u8] = b".wh..wh..opq";

const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory on the way down.
struct Level {
    fd: Option<OwnedFd>,
    id: (u64, u64),
    names: NameList,
    /// Length of its path.
    path_len: usize,
}

impl<S: ChunkSink> Packer<'_, S> {
    /// The root and everything below.
    pub(super) fn tree(&mut self, root: BorrowedFd<'_>) -> Result<(), PackError> {
        let level = self.enter(root, b".")?;
        self.descend(level)
    }

    /// One name of a directory under another name, and everything below.
    pub(super) fn one(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        stored: &[u8],
    ) -> Result<(), PackError> {
        self.path = stored.to_vec();
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| PackError::io("look at", name, errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let level = self.enter(parent, name)?;
                self.descend(level)
            }
            kind => self.leaf(parent, name, kind),
        }
    }

    fn descend(&mut self, first: Level) -> Result<(), PackError> {
        let mut levels = vec![first];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path_len);
            let Some((name, kind)) = level.names.next() else {
                self.leave(&mut levels)?;
                continue;
            };
            let here = level.fd.as_ref().expect("the deepest directory is open").as_fd();
            if self.options.format == TreeFormat::FuseOverlay && name.starts_with(FUSE_MARK) {
                self.fuse_mark(&name)?;
                continue;
            }
            self.push_name(&name)?;
            let kind = if kind == FileType::Unknown { self.kind_of(here, &name)? } else { kind };
            if kind != FileType::Directory {
                // What was refused already is only read on for the other names to refuse.
                if !self.is_refused() {
                    self.leaf(here, &name, kind)?;
                }
                continue;
            }
            let next = self.enter(here, &name)?;
            if levels.len() >= self.options.limits.depth {
                return Err(self.too_much("directories deep", self.options.limits.depth as u64));
            }
            if let Some(far) = levels.len().checked_sub(OPEN) {
                levels[far].fd = None;
            }
            levels.push(next);
        }
        Ok(())
    }

    /// A file by which fuse-overlayfs says that a name is deleted. That a directory is opaque its attribute says too.
    fn fuse_mark(&mut self, name: &[u8]) -> Result<(), PackError> {
        let hidden = &name[FUSE_MARK.len()..];
        if name == FUSE_OPAQUE || hidden.is_empty() {
            return Ok(());
        }
        self.push_name(hidden)?;
        let path = self.path.clone();
        self.whiteout(&path)
    }

    /// Appends a name to the path and checks what the dialect can hold.
    fn push_name(&mut self, name: &[u8]) -> Result<(), PackError> {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        if self.path.len() > self.options.limits.path_len {
            return Err(self.too_much("bytes of path", self.options.limits.path_len as u64));
        }
        if self.options.dialect == Dialect::Oci && name.starts_with(b".wh.") {
            self.refuse_name();
        }
        Ok(())
    }

    fn kind_of(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<FileType, PackError> {
        let stat: Stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| PackError::io("look at", &self.path, errno))?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    /// Opens a directory, writes its entry and reads its names.
    fn enter(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<Level, PackError> {
        let failed = |action, path: &[u8], errno: Errno| PackError::io(action, path, errno);
        let fd = openat(parent, name, READ, Mode::empty())
            .map_err(|errno| failed("open the directory", &self.path, errno))?;
        let stat = fstat(&fd).map_err(|errno| failed("look at", &self.path, errno))?;
        let attributes = self.attributes(fd.as_fd())?;
        self.directory(&stat, attributes)?;
        let names = NameList::read(fd.as_fd()).map_err(|errno| failed("list", &self.path, errno))?;
        Ok(Level { fd: Some(fd), id: (stat.st_dev, stat.st_ino), names, path_len: self.path.len() })
    }

    /// Goes back up, through `..` where the directory above was closed.
    fn leave(&mut self, levels: &mut Vec<Level>) -> Result<(), PackError> {
        let done = levels.pop().expect("only called inside a directory");
        let Some(above) = levels.last_mut() else { return Ok(()) };
        if above.fd.is_some() {
            return Ok(());
        }
        let child = done.fd.as_ref().expect("the deepest directory is open");
        let fd = openat(child, "..", READ, Mode::empty())
            .map_err(|errno| PackError::io("go up from", &self.path, errno))?;
        let stat = fstat(&fd).map_err(|errno| PackError::io("look above", &self.path, errno))?;
        if (stat.st_dev, stat.st_ino) != above.id {
            return Err(PackError::Changed { path: escape(&self.path) });
        }
        above.fd = Some(fd);
        Ok(())
    }
}
