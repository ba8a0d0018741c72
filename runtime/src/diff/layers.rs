//! [`Layers`]: the layers on disk, and directories and files of them by path.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, ResolveFlags, fgetxattr, openat, openat2};
use rustix::io::Errno;

use super::{DiffError, LayerName};
use crate::layer::TreeFormat;
use crate::layer::path::split;
use crate::layer::xattr::OPAQUE;

/// The longest path that is given to the kernel at once: `PATH_MAX` is 4096 with the NUL.
const PIECE: usize = 4000;
/// How the names of fuse-overlayfs's own files begin.
pub(super) const FUSE_MARK: &[u8] = b".wh.";
/// Under which names fuse-overlayfs marks opaque directories besides [`OPAQUE`].
const FUSE_OPAQUE: [&[u8]; 2] = [b"user.fuseoverlayfs.opaque", b"trusted.overlay.opaque"];

const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Not blocking, should a FIFO stand there by now.
pub(super) const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The layers of both sides, each once.
#[derive(Debug)]
pub(super) struct Layers {
    roots: Vec<OwnedFd>,
    pub(super) format: TreeFormat,
}

/// A directory of one layer.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) layer: u32,
    pub(super) fd: OwnedFd,
    /// It hides what the layers below have.
    pub(super) opaque: bool,
    /// There may be whiteouts in the form of files in it.
    pub(super) marked_files: bool,
}

impl Layers {
    pub(super) fn open(
        dirs: &[OwnedFd; 3],
        names: &[LayerName],
        format: TreeFormat,
    ) -> Result<Self, DiffError> {
        make_room();
        let open = |layer: &LayerName| {
            let parent = match layer {
                LayerName::Image(_) => &dirs[0],
                LayerName::Sealed(_) => &dirs[1],
                LayerName::Writable(_) => &dirs[2],
            };
            let path = format!("{}/fs", layer.name());
            below(parent.as_fd(), path.as_bytes(), LIST)
                .map_err(|e| DiffError::Layer { name: layer.name().to_owned(), source: e.into() })
        };
        Ok(Self { roots: names.iter().map(open).collect::<Result<_, _>>()?, format })
    }

    /// The directory at `path` in a layer; `None` when there is none (any more).
    pub(super) fn dir(&self, layer: u32, path: &[u8]) -> Result<Option<Dir>, DiffError> {
        let fd = match self.at(layer, path, LIST) {
            Ok(fd) => fd,
            Err(errno) if is_gone(errno) => return Ok(None),
            Err(errno) => return Err(DiffError::io("open the directory", path, errno)),
        };
        let mark = |name| mark(&fd, name).map_err(|e| DiffError::io("look at", path, e));
        let own = mark(OPAQUE)?;
        // Of the root of a layer the overlay does not ask.
        let (mut opaque, marked_files) = (own == Some(b'y') && !path.is_empty(), own == Some(b'x'));
        if self.format == TreeFormat::FuseOverlay && !path.is_empty() {
            for name in FUSE_OPAQUE {
                opaque |= mark(name)? == Some(b'y');
            }
        }
        Ok(Some(Dir { layer, fd, opaque, marked_files }))
    }

    /// Opens the file at `path` in a layer; a symbolic link is `ELOOP`.
    pub(super) fn file(&self, layer: u32, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.at(layer, path, READ)
    }

    /// The directory that `path` is in.
    pub(super) fn parent(&self, layer: u32, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.at(layer, split(path).0, LIST)
    }

    fn at(&self, layer: u32, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let root = self.roots.get(layer as usize).ok_or(Errno::BADF)?;
        below(root.as_fd(), path, flags)
    }
}

/// Opens what is at `path` below `root`, in which no link is followed. A path of any length is taken in pieces.
fn below(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let open = |from: BorrowedFd<'_>, piece: &[u8], flags| {
        let piece = if piece.is_empty() { b"." } else { piece };
        openat2(from, piece, flags, Mode::empty(), resolve)
    };
    let (mut rest, mut at): (&[u8], Option<OwnedFd>) = (path, None);
    while rest.len() > PIECE {
        // A name has at most 255 bytes.
        let end = rest[..PIECE].iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?;
        let from = at.as_ref().map_or(root, AsFd::as_fd);
        let next = open(from, &rest[..end], OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
        (rest, at) = (&rest[end + 1..], Some(next));
    }
    open(at.as_ref().map_or(root, AsFd::as_fd), rest, flags)
}

/// The first byte of a mark's value.
fn mark(fd: &OwnedFd, name: &[u8]) -> Result<Option<u8>, Errno> {
    let mut value = [0u8; 4];
    match fgetxattr(fd, name, &mut value) {
        Ok(1) => Ok(Some(value[0])),
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Every layer has a descriptor or two: a long history has more of them than a process may have by default.
fn make_room() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Whether it was enough is told where a layer cannot be opened.
    let _ = setrlimit(Resource::Nofile, limit);
}

impl Dir {
    /// Calls `each` with every name.
    pub(super) fn names(&self, mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
        let mut buffer = Vec::with_capacity(64 << 10);
        let mut reader = RawDir::new(&self.fd, buffer.spare_capacity_mut());
        while let Some(entry) = reader.next() {
            let entry = match entry {
                Err(Errno::NOENT) => return Ok(()),
                other => other?,
            };
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                each(name);
            }
        }
        Ok(())
    }

    /// Opens a file of it.
    pub(super) fn open(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        openat(&self.fd, name, READ, Mode::empty())
    }
}

/// What was there a moment ago is not any more, or is something else: `ENXIO` is what a whiteout says, or a socket.
pub(super) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::NXIO)
}

/// Names sorted within each directory, and a directory before what is in it.
pub(super) fn tree_order(a: &[u8], b: &[u8]) -> Ordering {
    // A slash comes before all that a name can have.
    let key = |path: &[u8], at: usize| if path[at] == b'/' { 0 } else { path[at] };
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    match (same < a.len(), same < b.len()) {
        (true, true) => key(a, same).cmp(&key(b, same)),
        (more_a, more_b) => more_a.cmp(&more_b),
    }
}
