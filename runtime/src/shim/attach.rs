//! What is mounted in a vessel besides its layers, on the merged tree in the shim's own mount namespace.
//!
//! There the shim's file operations see it, and containers that are made of that tree. A throw-away overlay does not: it gets
//! copies ([`super::container_init`]). Each mount is attached once in the shim's house, where no guest is, and a copy of that wherever
//! the merged tree is mounted anew: what is written there stays, as does what is in memory.
//!
//! No path of the host is known here. A destination is looked up under the root of the vessel, symlinks and all, then opened
//! by the kernel without any, and the mount is attached to that descriptor. Afterwards the guest can rename what is above it, and the mount goes along: then it
//! is taken away, and attached where its destination is now.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::protocol::{Fault, FaultKind, Origin};
use crate::root::Root;
use crate::settings::{Mount, MountSource, reserved};
use crate::spec::mount_points::resolve_missing;
use crate::{files, sys};

/// What is to be mounted, parents before what is below them.
#[derive(Debug, Default)]
pub(super) struct Attachments(Vec<Attachment>);

#[derive(Debug)]
struct Attachment {
    /// As the settings have it.
    destination: PathBuf,
    is_directory: bool,
    /// Where it is in the shim's house.
    master: OwnedFd,
    identity: (u64, u64),
}

/// What is mounted on the merged tree.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// In the order of the attachments; `None` for one that could not be.
    all: Vec<Option<Place>>,
    /// Why not.
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Place {
    /// An absolute path inside without symlinks.
    path: PathBuf,
    mount: OwnedFd,
}

impl Attachments {
    /// Puts everything into the directory `house`. `trees` are what was copied when this process began, `fds` what came with the
    /// configuration.
    pub(super) fn new(
        house: &Path,
        mounts: &[Mount],
        origins: &[Origin],
        trees: Vec<OwnedFd>,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, Fault> {
        let missing = || Fault::new(FaultKind::InvalidArgument, "a mount came without its descriptors");
        let (mut trees, mut fds) = (trees.into_iter(), fds.into_iter());
        let mut all = Vec::with_capacity(mounts.len());
        for (number, mount) in mounts.iter().enumerate() {
            let tree = match origins.get(number).ok_or_else(missing)? {
                Origin::InMemory => in_memory(mount).map_err(|e| not_mounted(mount, &e))?,
                Origin::Copied => fds.next().ok_or_else(missing)?,
                Origin::There => {
                    let (tree, given) = (trees.next().ok_or_else(missing)?, fds.next().ok_or_else(missing)?);
                    is_the_same(&tree, &given).map_err(|e| not_mounted(mount, &e))?;
                    tree
                }
            };
            let place = house.join(number.to_string());
            all.push(Attachment::new(&place, mount, &tree).map_err(|e| not_mounted(mount, &e))?);
        }
        all.sort_by_key(|one| one.destination.components().count());
        Ok(Self(all))
    }

    /// Attaches copies to a tree that has none. What the guest has put in the way of one keeps it, and those below it, from
    /// being attached, and nothing else: such a vessel must still be opened, to be looked at and restored.
    pub(super) fn attach(&self, root: &Root) -> Attached {
        let mut attached = Attached::default();
        let mut left_out: Vec<&Path> = Vec::new();
        for one in &self.0 {
            let place = match left_out.iter().any(|above| one.destination.starts_with(above)) {
                true => None,
                false => one.attach(root).map_err(|fault| attached.fault = Some(fault)).ok(),
            };
            if place.is_none() {
                left_out.push(&one.destination);
            }
            attached.all.push(place);
        }
        attached
    }

    /// Whether each of them is where its destination leads to now.
    pub(super) fn are_there(&self, root: &Root, attached: &Attached) -> bool {
        let is_there = |(one, place): (&Attachment, &Option<Place>)| {
            let Some(place) = place else { return false };
            let found = root.open(&one.destination, OFlags::PATH, 0);
            let plain = root.open_without_symlinks(&place.path, OFlags::PATH);
            [found, plain].into_iter().all(|fd| fd.and_then(identity).is_ok_and(|it| it == one.identity))
        };
        attached.all.len() == self.0.len() && self.0.iter().zip(&attached.all).all(is_there)
    }
}

impl Attached {
    /// Why something could not be attached.
    pub(super) fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Takes everything away; what is open on it stays so.
    pub(super) fn detach(self) {
        for place in self.all.into_iter().rev().flatten() {
            let root = format!("/proc/self/fd/{}", place.mount.as_raw_fd());
            // It is gone if something above it is.
            let _ = rustix::mount::unmount(root, UnmountFlags::DETACH);
        }
    }

    /// Where they are, but for those that are in others.
    pub(super) fn outermost(&self) -> Vec<PathBuf> {
        let places = || self.all.iter().flatten().map(|place| &place.path);
        let is_below = |path: &PathBuf| places().any(|other| path != other && path.starts_with(other));
        places().filter(|path| !is_below(path)).cloned().collect()
    }
}

impl Attachment {
    /// Confines the mount and attaches it at `place`, in the shim's house.
    fn new(place: &Path, mount: &Mount, tree: &OwnedFd) -> io::Result<Self> {
        sys::confine_mount(tree, mount.is_read_only(), None)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode);
        match kind {
            FileType::Directory => std::fs::create_dir(place)?,
            FileType::RegularFile | FileType::Socket => drop(File::create(place)?),
            _ => return Err(io::Error::other("it is neither a directory nor a file nor a socket")),
        }
        move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let master = rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self {
            destination: PathBuf::from(mount.destination()),
            is_directory: kind == FileType::Directory,
            identity: identity(&master)?,
            master,
        })
    }

    fn attach(&self, root: &Root) -> Result<Place, Fault> {
        let failed = |e: io::Error| self.refused(&e.to_string());
        let path = resolve_missing(root, &self.destination)
            .and_then(|path| path.ok_or_else(|| io::ErrorKind::NotADirectory.into()))
            .map_err(failed)?;
        if let Some(problem) = reserved(&path) {
            return Err(self.refused(&format!("it leads to {}: {problem}", path.display())));
        }
        self.make_missing(root, &path).map_err(|fault| self.refused(&fault.message))?;
        let target = root.open_without_symlinks(&path, OFlags::PATH).map_err(failed)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = open_tree(&self.master, "", flags).map_err(|e| failed(e.into()))?;
        let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount, "", &target, "", by_descriptor).map_err(|e| failed(e.into()))?;
        Ok(Place { path, mount })
    }

    fn refused(&self, why: &str) -> Fault {
        let message = format!("failed to mount at {}: {why}", self.destination.display());
        Fault::new(FaultKind::InvalidArgument, message)
            .with_remedy("remove or rename what is there in the vessel, or restore a snapshot")
    }

    /// Makes what is mounted on: in the writable layer, or in what is mounted above.
    fn make_missing(&self, root: &Root, path: &Path) -> Result<(), Fault> {
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        if root.open_without_symlinks(path, OFlags::PATH).is_ok() {
            return Ok(());
        }
        if self.is_directory {
            return files::make_dir(root, &bytes(path), 0o755, true);
        }
        let above = path.parent().unwrap_or(Path::new("/"));
        files::make_dir(root, &bytes(above), 0o755, true)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        files::open(root, &bytes(path), flags.bits(), 0o644).map(drop)
    }
}

/// Where the copy of a mount came from is where its opener looked.
fn is_the_same(tree: &OwnedFd, given: &OwnedFd) -> io::Result<()> {
    match identity(tree)? == identity(given)? {
        true => Ok(()),
        false => Err(io::Error::other("it was replaced meanwhile")),
    }
}

fn in_memory(mount: &Mount) -> io::Result<OwnedFd> {
    let MountSource::Tmpfs { size, mode } = mount.source() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "tmpfs")?;
    fsconfig_set_string(&fs, "mode", format!("{mode:o}"))?;
    if let Some(bytes) = size {
        fsconfig_set_string(&fs, "size", bytes.to_string())?;
    }
    fsconfig_create(&fs)?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

fn not_mounted(mount: &Mount, error: &io::Error) -> Fault {
    let what = match mount.source() {
        MountSource::Bind { path } => format!("mount {path:?} of the host"),
        MountSource::Volume { name } => format!("mount the volume {name}"),
        MountSource::Tmpfs { .. } => format!("mount a file system in memory at {}", mount.destination()),
    };
    let fault = Fault { kind: FaultKind::InvalidArgument, ..Fault::io(what, error) };
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::NOSYS) => Fault { kind: FaultKind::Unsupported, ..fault }
            .with_remedy("mounts need mount_setattr(2), which came with Linux 5.12"),
        _ => fault,
    }
}

fn identity(fd: impl AsFd) -> io::Result<(u64, u64)> {
    let status = rustix::fs::fstat(fd)?;
    Ok((status.st_dev, status.st_ino))
}
