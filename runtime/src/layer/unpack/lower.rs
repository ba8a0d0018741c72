//! [`Lowers`]: looking names up in the layers below, as the overlay would merge them.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fgetxattr, openat, readlinkat, statat};
use rustix::io::Errno;

use super::fault::{During, Step};
use crate::layer::xattr::OPAQUE;

/// The layers below the one that is unpacked, the topmost first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lowers<'a>(pub(super) &'a [BorrowedFd<'a>]);

/// What the layers below have under a name.
#[derive(Debug)]
pub(super) enum Below {
    /// A directory, of which the topmost gives the metadata.
    Directory(OwnedFd, Stat),
    Symlink(Vec<u8>),
    /// A regular file: the directory that it is in.
    File(OwnedFd),
    Other,
    Nothing,
}

/// What one layer says about a name.
enum Layer {
    Found(Below),
    /// The name is not here, and nothing below counts.
    Hidden,
    Absent,
}

impl Lowers<'_> {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Looks `components` up. No symbolic link is followed: the caller has done that.
    pub(super) fn lookup(self, components: &[&[u8]]) -> Step<Below> {
        for lower in self.0 {
            match in_layer(*lower, components)? {
                Layer::Found(below) => return Ok(below),
                Layer::Hidden => return Ok(Below::Nothing),
                Layer::Absent => {}
            }
        }
        Ok(Below::Nothing)
    }
}

fn in_layer(lower: BorrowedFd<'_>, components: &[&[u8]]) -> Step<Layer> {
    let mut hidden = false;
    let mut dir = open_directory(lower, b".")?;
    let Some((last, parents)) = components.split_last() else {
        let stat = rustix::fs::fstat(&dir).during("look at the lower layer of")?;
        return Ok(Layer::Found(Below::Directory(dir, stat)));
    };
    for part in parents {
        match look(dir.as_fd(), part)? {
            None if hidden => return Ok(Layer::Hidden),
            None => return Ok(Layer::Absent),
            Some(stat) if is_directory(&stat) => dir = open_directory(dir.as_fd(), part)?,
            Some(_) => return Ok(Layer::Hidden),
        }
        hidden |= is_opaque(&dir)?;
    }
    match look(dir.as_fd(), last)? {
        None if hidden => Ok(Layer::Hidden),
        None => Ok(Layer::Absent),
        Some(stat) => below(dir, last, stat).map(Layer::Found),
    }
}

fn below(dir: OwnedFd, name: &[u8], stat: Stat) -> Step<Below> {
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Below::Directory(open_directory(dir.as_fd(), name)?, stat),
        FileType::RegularFile => Below::File(dir),
        FileType::Symlink => {
            let text = readlinkat(&dir, name, Vec::new()).during("read the lower link of")?;
            Below::Symlink(text.into_bytes())
        }
        FileType::CharacterDevice if stat.st_rdev == 0 => Below::Nothing,
        _ => Below::Other,
    })
}

fn look(dir: BorrowedFd<'_>, name: &[u8]) -> Step<Option<Stat>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).during("look at the lower layer of"),
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn open_directory(dir: BorrowedFd<'_>, name: &[u8]) -> Step<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty()).during("open the lower directory of")
}

fn is_opaque(dir: &OwnedFd) -> Step<bool> {
    let mut value = [0u8; 4];
    match fgetxattr(dir, OPAQUE, &mut value) {
        Ok(len) => Ok(value[..len] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno).during("look at the lower layer of"),
    }
}
