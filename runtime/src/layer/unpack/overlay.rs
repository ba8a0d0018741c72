//! Whiteouts and opaque directories, in the kernel overlay's form.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, mknodat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::dirs::Dir;
use super::fault::{During, Step};
use super::lower::Below;
use super::tree::{Missing, Tree, is_whiteout, open_child};
use crate::layer::TreeFormat;
use crate::layer::path::{TreePath, components};
use crate::layer::report::{Warning, WarningKind};

impl Tree<'_> {
    /// Hides a name of the layers below. What this layer itself has there stays.
    pub(super) fn whiteout(&mut self, path: &TreePath) -> Step<()> {
        if self.format == TreeFormat::Plain {
            self.warnings.push(Warning::new(WarningKind::WhiteoutIgnored, path.as_bytes(), b""));
            return Ok(());
        }
        let Some(parent) = self.parent_if(path.parent(), Missing::Stop)? else { return Ok(()) };
        // The overlay lists a whiteout that has nothing to hide as a file that cannot be opened.
        if self.dirs.under_opaque(parent.ino) || self.all_below && self.nothing_below(&parent, path.name())? {
            return Ok(());
        }
        match mknodat(&parent.fd, path.name(), FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                let name = path.name().to_vec();
                self.dirs.charge(name.len() + 48, self.limits.deferred)?;
                self.whiteouts.push((parent.ino, name));
                Ok(())
            }
            Err(Errno::EXIST) => self.whiteout_over(&parent, path.name()),
            Err(errno) => Err(errno).during("create the whiteout"),
        }
    }

    /// Whether no layer below has that name in a directory.
    fn nothing_below(&self, parent: &Dir, name: &[u8]) -> Step<bool> {
        let Some(path) = self.dirs.path(parent.ino) else { return Ok(false) };
        let names: Vec<&[u8]> = components(path).chain([name]).collect();
        Ok(matches!(self.lowers.lookup(&names)?, Below::Nothing))
    }

    /// A whiteout of a name that this layer has: of a directory only the lower content goes.
    fn whiteout_over(&mut self, parent: &Dir, name: &[u8]) -> Step<()> {
        match open_child(&parent.fd, name) {
            Ok(dir) => {
                if let Some(state) = self.dirs.get_mut(dir.ino) {
                    state.opaque = true;
                }
                Ok(())
            }
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(errno).during("open the directory"),
        }
    }

    /// Hides everything that the layers below have in a directory.
    pub(super) fn opaque(&mut self, path: &TreePath) -> Step<()> {
        if self.format == TreeFormat::Plain {
            self.warnings.push(Warning::new(WarningKind::WhiteoutIgnored, path.as_bytes(), b""));
            return Ok(());
        }
        let dir = self.parent(path.as_bytes())?;
        if let Some(state) = self.dirs.get_mut(dir.ino) {
            state.opaque = true;
        }
        Ok(())
    }

    /// Removes the whiteouts that came before the opaque mark of a directory above them.
    pub(super) fn drop_hidden_whiteouts(&mut self) -> Step<()> {
        let mut hidden: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
        for (ino, name) in std::mem::take(&mut self.whiteouts) {
            if self.dirs.under_opaque(ino) {
                hidden.entry(ino).or_default().push(name);
            }
        }
        for (ino, names) in hidden {
            let Some(path) = self.dirs.path(ino).map(<[u8]>::to_vec) else { continue };
            let Some(dir) = self.open_known(&path, ino)? else { continue };
            for name in names {
                match statat(&dir.fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if is_whiteout(&stat) => {
                        unlinkat(&dir.fd, name, AtFlags::empty()).during("remove the whiteout in")?;
                    }
                    Ok(_) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno).during("look at the whiteout in"),
                }
            }
        }
        Ok(())
    }

    /// Opens the directory at a path without links if it is still the one with this inode number.
    pub(super) fn open_known(&mut self, path: &[u8], ino: u64) -> Step<Option<std::rc::Rc<Dir>>> {
        let names: Vec<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        match self.open_names(&names) {
            Ok(dir) => Ok((dir.ino == ino).then_some(dir)),
            Err(super::fault::Fault::Io { source, .. }) if is_gone(&source) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// An opaque root: the overlay does not look at the mark there, so that every name below is hidden by itself.
    pub(super) fn hide_below_root(&mut self) -> Step<()> {
        let root = self.parent(b"")?;
        for at in 0..self.lowers.0.len() {
            for name in names_in(self.lowers.0[at])? {
                match mknodat(&root.fd, name.as_slice(), FileType::CharacterDevice, Mode::empty(), 0) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => self.whiteout_over(&root, &name)?,
                    Err(errno) => return Err(errno).during("create a whiteout in"),
                }
            }
        }
        Ok(())
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn names_in(dir: impl AsFd) -> Step<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd: OwnedFd = openat(dir, ".", flags, Mode::empty()).during("open the layer below")?;
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut reader = RawDir::new(fd, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = reader.next() {
        let name = entry.during("list the layer below")?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}
