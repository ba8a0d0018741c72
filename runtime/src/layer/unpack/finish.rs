//! What is done when the last entry has been read: directories get their metadata, children before parents.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{OFlags, fstat};
use rustix::io::Errno;

use super::attrs::{apply, set_opaque};
use super::dirs::DirState;
use super::fault::{During, Step};
use super::lower::Below;
use super::tree::{Tree, open_physical};
use crate::root::open_in;

const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Tree<'_> {
    /// Completes the tree. The path names what failed.
    pub(super) fn finish(&mut self) -> Result<(), (Vec<u8>, super::fault::Fault)> {
        self.cache.clear();
        if !self.live {
            self.finish_root().map_err(|fault| (Vec::new(), fault))?;
            self.drop_hidden_whiteouts().map_err(|fault| (Vec::new(), fault))?;
        }
        for (ino, state) in self.dirs.drain() {
            self.finish_directory(ino, &state).map_err(|fault| (state.path, fault))?;
        }
        Ok(())
    }

    /// A layer without an entry for its root keeps what the layers below have.
    fn finish_root(&mut self) -> Step<()> {
        let root = self.parent(b"")?;
        let below = match self.lowers.lookup(&[])? {
            Below::Directory(fd, stat) => Some(self.copied_meta(&fd, &stat)?),
            _ => None,
        };
        let state = self.dirs.get_mut(root.ino).expect("the root is in the table from the start");
        state.meta = state.meta.take().or(below);
        if std::mem::take(&mut state.opaque) {
            self.hide_below_root()?;
        }
        Ok(())
    }

    fn finish_directory(&mut self, ino: u64, state: &DirState) -> Step<()> {
        let Some(fd) = self.reopen(state)? else { return Ok(()) };
        // Replaced since: its own state is here under its own number.
        if fstat(&fd).during("look at")?.st_ino != ino {
            return Ok(());
        }
        if state.opaque {
            set_opaque(fd.as_fd())?;
        }
        let meta = state.meta.clone().unwrap_or_else(|| self.implicit_meta());
        apply(fd.as_fd(), &state.path, &meta, None, &mut self.warnings)
    }

    /// Opens a directory again; `None` when it is no more.
    fn reopen(&mut self, state: &DirState) -> Step<Option<OwnedFd>> {
        let opened = if state.path.len() < 4000 {
            let path = if state.path.is_empty() { &b"."[..] } else { &state.path };
            open_in(self.root, Path::new(OsStr::from_bytes(path)), READ, 0)
        } else {
            open_physical(self.root, &state.path, READ).map_err(Into::into)
        };
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                _ => Err(error).during("open the directory"),
            },
        }
    }
}
