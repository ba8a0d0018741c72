//! Two files: in what they differ.
#![forbid(unsafe_code)]

mod content;

pub(super) use content::same_bytes;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat, fgetxattr, flistxattr, lgetxattr, llistxattr, readlinkat};
use rustix::io::Errno;

use super::layers::{Dir, is_gone};
use super::{DiffError, Differences, Node};
use crate::layer::unpack::list_xattrs;
use crate::layer::xattr::{CAPABILITY, FromDisk, from_disk, portable_capability};
use crate::layer::{Dialect, TreeFormat};

/// A file in a directory of a layer.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) dir: &'a Dir,
    pub(super) stat: &'a Stat,
}

/// In what two files of the same name differ. Content is read only where type and size are the same.
pub(super) fn differences(
    path: &[u8],
    name: &[u8],
    old: At<'_>,
    new: At<'_>,
    format: TreeFormat,
) -> Result<Differences, DiffError> {
    let (a, b) = (old.stat, new.stat);
    // Layers may share files by hard links.
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
        return Ok(Differences::default());
    }
    let kind = FileType::from_raw_mode(a.st_mode);
    let mut found = Differences {
        kind: kind != FileType::from_raw_mode(b.st_mode),
        mode: a.st_mode & 0o7777 != b.st_mode & 0o7777,
        owner: (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid),
        mtime: kind != FileType::Directory && (a.st_mtime, a.st_mtime_nsec) != (b.st_mtime, b.st_mtime_nsec),
        ..Differences::default()
    };
    if found.kind {
        return Ok(found);
    }
    let pair = Pair { path, name, old, new, format };
    (found.content, found.attributes) = match kind {
        FileType::RegularFile if a.st_size == b.st_size && a.st_size > 0 => pair.files()?,
        FileType::RegularFile => (a.st_size != b.st_size, pair.attributes()?),
        FileType::Directory => (false, pair.attributes()?),
        FileType::Symlink => (pair.links()?, false),
        FileType::CharacterDevice | FileType::BlockDevice => (a.st_rdev != b.st_rdev, false),
        _ => (false, false),
    };
    Ok(found)
}

/// Two files of the same name and type.
struct Pair<'a> {
    path: &'a [u8],
    name: &'a [u8],
    old: At<'a>,
    new: At<'a>,
    format: TreeFormat,
}

impl Pair<'_> {
    fn failed(&self, action: &'static str) -> impl Fn(Errno) -> DiffError {
        move |errno| DiffError::io(action, self.path, errno)
    }

    /// Whether the bytes of two regular files of the same size, and whether their attributes, differ. One that went away
    /// differs.
    fn files(&self) -> Result<(bool, bool), DiffError> {
        let open = |dir: &Dir| match dir.open(self.name) {
            Ok(fd) => Ok(Some(fd)),
            Err(errno) if is_gone(errno) => Ok(None),
            Err(errno) => Err(self.failed("open")(errno)),
        };
        let (Some(old), Some(new)) = (open(self.old.dir)?, open(self.new.dir)?) else {
            return Ok((true, false));
        };
        let same =
            content::same((&old, self.old.stat), (&new, self.new.stat)).map_err(self.failed("read"))?;
        let attributes = |fd: &OwnedFd| {
            Attributes::of_file(fd.as_fd(), self.format).map_err(self.failed("read the attributes of"))
        };
        Ok((!same, attributes(&old)? != attributes(&new)?))
    }

    fn attributes(&self) -> Result<bool, DiffError> {
        let of = |dir: &Dir| {
            Attributes::of_name(dir.fd.as_fd(), self.name, self.format)
                .map_err(self.failed("read the attributes of"))
        };
        Ok(of(self.old.dir)? != of(self.new.dir)?)
    }

    fn links(&self) -> Result<bool, DiffError> {
        let target = |dir: &Dir| match readlinkat(&dir.fd, self.name, Vec::new()) {
            Ok(target) => Ok(Some(target)),
            Err(errno) if is_gone(errno) || errno == Errno::INVAL => Ok(None),
            Err(errno) => Err(self.failed("read the link")(errno)),
        };
        let (old, new) = (target(self.old.dir)?, target(self.new.dir)?);
        Ok(old.is_none() || old != new)
    }
}

/// In what a file differs from one of another name with the same content.
pub(super) fn renamed(old: &Node, new: &Node, attributes: bool) -> Differences {
    let directory = FileType::from_raw_mode(new.mode) == FileType::Directory;
    Differences {
        mode: old.mode & 0o7777 != new.mode & 0o7777,
        owner: (old.uid, old.gid) != (new.uid, new.gid),
        mtime: !directory && old.mtime != new.mtime,
        attributes,
        ..Differences::default()
    }
}

/// The extended attributes of a file that a snapshot keeps, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Attributes(Vec<(Vec<u8>, Vec<u8>)>);

impl Attributes {
    /// Of what is called `name` in a directory: through `/proc`, which takes one system call where opening takes three.
    fn of_name(dir: BorrowedFd<'_>, name: &[u8], format: TreeFormat) -> Result<Self, Errno> {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        let mut few = [0u8; 256];
        let names = match llistxattr(path.as_slice(), &mut few) {
            Ok(0) => return Ok(Self::default()),
            Ok(len) => few[..len].to_vec(),
            Err(Errno::RANGE) => {
                let mut many = vec![0; 64 << 10];
                let len = llistxattr(path.as_slice(), many.as_mut_slice())?;
                many.truncate(len);
                many
            }
            Err(errno) if is_gone(errno) || errno == Errno::OPNOTSUPP => return Ok(Self::default()),
            Err(errno) => return Err(errno),
        };
        Self::collect(&names, format, |name, value| lgetxattr(path.as_slice(), name, value))
    }

    /// Of an open file.
    pub(super) fn of_file(fd: BorrowedFd<'_>, format: TreeFormat) -> Result<Self, Errno> {
        let mut few = [0u8; 256];
        let names = match flistxattr(fd, &mut few) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Self::default()),
            Ok(len) => few[..len].to_vec(),
            Err(Errno::RANGE) => list_xattrs(fd)?,
            Err(errno) => return Err(errno),
        };
        Self::collect(&names, format, |name, value| fgetxattr(fd, name, value))
    }

    fn collect(
        names: &[u8],
        format: TreeFormat,
        get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<Self, Errno> {
        let mut found = Vec::new();
        for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            let FromDisk::Keep(kept) = from_disk(name, Dialect::Snapshot, format) else { continue };
            let Some(mut value) = value(name, &get)? else { continue };
            if name == CAPABILITY {
                let Some(portable) = portable_capability(&value) else { continue };
                value = portable;
            }
            found.push((kept, value));
        }
        found.sort_unstable();
        Ok(Self(found))
    }
}

/// The value of an attribute; `None` when it went away.
fn value(
    name: &[u8],
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; 256];
    loop {
        match get(name, &mut value) {
            Ok(len) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            // xattr(7): XATTR_SIZE_MAX is 64 KiB.
            Err(Errno::RANGE) if value.len() < 65_536 => value.resize(65_536, 0),
            Err(errno) if is_gone(errno) || errno == Errno::NODATA => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}
