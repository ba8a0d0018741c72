//! The mounted vessel: its layers, its root, and making it still.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::house;
use super::protocol::{Driver, Fault, FaultKind, MountSpec};
use crate::overlay::{self, FuseMount, Layers};
use crate::root::Root;
use crate::sys;

/// Directories that a shim was given.
#[derive(Debug)]
pub(super) struct Dirs {
    pub(super) image_layers: OwnedFd,
    pub(super) sealed_layers: OwnedFd,
    pub(super) vessel: OwnedFd,
    /// The lowest layer of every vessel.
    pub(super) skeleton: OwnedFd,
}

/// An overlay in place.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) spec: MountSpec,
    /// The merged tree.
    pub(super) root: Root,
    /// The writable layer's tree.
    pub(super) upper: OwnedFd,
    _fuse: Option<FuseMount>,
}

impl Mounted {
    /// Mounts `spec` at `target`.
    pub(super) fn new(spec: MountSpec, dirs: &Dirs, target: &Path) -> Result<Self, Fault> {
        let lowers = open_lowers(&spec, dirs)?;
        let generation = format!("gen-{}", spec.generation);
        let upper = open_dir(&dirs.vessel, &format!("{generation}/fs"))?;
        let work = open_dir(&dirs.vessel, &format!("{generation}/work"))?;
        let layers =
            Layers { lowers: &lowers, upper: upper.as_fd(), work: work.as_fd(), volatile: spec.volatile };
        let fuse = match spec.driver {
            Driver::Kernel => mount_kernel(&layers, target).map(|()| None)?,
            Driver::Fuse => Some(mount_fuse(&layers, target)?),
        };
        let root = Root::open_path(target).map_err(|e| Fault::io("open the merged root", &e))?;
        Ok(Self { spec, root, upper, _fuse: fuse })
    }

    /// Makes the mount read-only, or writable again. `EBUSY`: something is open for writing.
    pub(super) fn set_read_only(&self, read_only: bool) -> Result<(), Fault> {
        sys::set_mount_read_only(&self.root, read_only).map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => {
                Fault::new(FaultKind::Busy, "a file of the vessel is open for writing")
                    .with_remedy("close the files that were opened for writing, then try again")
            }
            _ => Fault::io("make the mount read-only", &e),
        })
    }

    /// Takes the mount away; descriptors that are open on it stay readable.
    pub(super) fn unmount(self, target: &Path) -> Result<(), Fault> {
        rustix::mount::unmount(target, UnmountFlags::DETACH)
            .map_err(|e| Fault::io(format!("unmount {}", target.display()), &e.into()))
    }
}

fn mount_kernel(layers: &Layers<'_>, target: &Path) -> Result<(), Fault> {
    overlay::mount(layers, target).and_then(|()| overlay::verify(target)).map_err(|e| {
        let count = layers.lowers.len();
        Fault {
            kind: FaultKind::Unsupported,
            ..Fault::io(format!("mount overlay with {count} lower layers (userxattr)"), &e)
        }
        .with_remedy(
            "overlayfs in a user namespace needs Linux 5.11 and a store on ext4, xfs (ftype=1), btrfs or tmpfs; \
             otherwise install fuse-overlayfs and use the fuse driver",
        )
    })
}

fn mount_fuse(layers: &Layers<'_>, target: &Path) -> Result<FuseMount, Fault> {
    FuseMount::new(layers, target).map_err(|e| {
        Fault { kind: FaultKind::Unsupported, ..Fault::io("mount with fuse-overlayfs", &e) }
            .with_remedy("install fuse-overlayfs and let this user open /dev/fuse")
    })
}

fn open_lowers(spec: &MountSpec, dirs: &Dirs) -> Result<Vec<OwnedFd>, Fault> {
    let sealed = spec.sealed.iter().map(|name| open_dir(&dirs.sealed_layers, &format!("{name}/fs")));
    let image = spec.image.iter().map(|name| open_dir(&dirs.image_layers, &format!("{name}/fs")));
    let skeleton = dirs.skeleton.try_clone().map_err(|e| Fault::io("open the lowest layer", &e));
    sealed.chain(image).chain([skeleton]).collect()
}

/// Names come from our own state; no symlink is followed all the same.
fn open_dir(parent: &OwnedFd, path: &str) -> Result<OwnedFd, Fault> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(parent, path, flags, Mode::empty(), resolve)
        .map_err(|e| Fault::io(format!("open the layer {path}"), &e.into()))
}

/// An overlay above the merged tree that is thrown away: a command sees everything and leaves nothing.
#[derive(Debug)]
pub(super) struct Scratch {
    name: String,
}

impl Scratch {
    /// Mounts one; `number` is unique in this shim.
    pub(super) fn new(number: u64, merged: &Mounted, dirs: &Dirs) -> Result<Self, Fault> {
        let scratch = Self { name: format!("scratch-{number}") };
        scratch.mount(merged, dirs).inspect_err(|_| scratch.remove(dirs))?;
        Ok(scratch)
    }

    fn mount(&self, merged: &Mounted, dirs: &Dirs) -> Result<(), Fault> {
        let failed = |e: io::Error| Fault::io("make a throw-away layer", &e);
        let mode = Mode::from_raw_mode(0o700);
        for path in [self.name.clone(), format!("{}/fs", self.name), format!("{}/work", self.name)] {
            rustix::fs::mkdirat(&dirs.vessel, &path, mode).map_err(|e| failed(e.into()))?;
        }
        let upper = open_dir(&dirs.vessel, &format!("{}/fs", self.name))?;
        let work = open_dir(&dirs.vessel, &format!("{}/work", self.name))?;
        let status = rustix::fs::fstat(&merged.root).map_err(|e| failed(e.into()))?;
        let readable =
            rustix::fs::openat(&dirs.vessel, format!("{}/fs", self.name), OFlags::RDONLY, Mode::empty())
                .map_err(|e| failed(e.into()))?;
        rustix::fs::fchmod(&readable, Mode::from_raw_mode(status.st_mode & 0o7777))
            .map_err(|e| failed(e.into()))?;
        std::fs::create_dir(self.target()).map_err(failed)?;
        let merged = merged.root.as_fd().try_clone_to_owned().map_err(failed)?;
        let layers = Layers { lowers: &[merged], upper: upper.as_fd(), work: work.as_fd(), volatile: true };
        mount_kernel(&layers, Path::new(&self.target()))
    }

    /// Where it is mounted.
    pub(super) fn target(&self) -> String {
        format!("{}/{}", house::SCRATCH, self.name)
    }

    /// Unmounts and removes it. What cannot be removed is found by the next shim ([`sweep`]).
    pub(super) fn remove(&self, dirs: &Dirs) {
        let _ = rustix::mount::unmount(self.target(), UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(self.target());
        let _ = crate::layer::remove_tree(dirs.vessel.as_fd(), self.name.as_ref());
    }
}

/// Removes the throw-away layers that a killed shim left behind.
pub(super) fn sweep(dirs: &Dirs) {
    let Ok(directory) =
        rustix::fs::openat(&dirs.vessel, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    let Ok(entries) = rustix::fs::Dir::new(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_bytes().starts_with(b"scratch-") {
            let name = std::ffi::OsStr::new(entry.file_name().to_str().unwrap_or_default());
            let _ = crate::layer::remove_tree(dirs.vessel.as_fd(), name);
        }
    }
}
