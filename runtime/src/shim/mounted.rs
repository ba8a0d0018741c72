//! The mounted vessel: its layers, its root, and making it still.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::attach::{Attached, Attachments};
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
    /// What is mounted besides the layers.
    pub(super) attachments: Attachments,
}

/// An overlay in place.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) spec: MountSpec,
    /// The merged tree.
    pub(super) root: Root,
    /// The writable layer's tree.
    pub(super) upper: OwnedFd,
    /// What is mounted on the merged tree.
    pub(super) attached: Attached,
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
        let attached = dirs.attachments.attach(&root);
        Ok(Self { spec, root, upper, attached, _fuse: fuse })
    }

    /// Attaches anew what is not where it is to be, because a command has moved what it was on; true when it was so.
    pub(super) fn attach_again(&mut self, dirs: &Dirs) -> Result<bool, Fault> {
        if dirs.attachments.are_there(&self.root, &self.attached) {
            return Ok(false);
        }
        std::mem::take(&mut self.attached).detach();
        self.attached = dirs.attachments.attach(&self.root);
        self.attached.fault().map_or(Ok(true), |fault| Err(fault.clone()))
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

/// The writable layer of an overlay above the merged tree that is thrown away: a command sees everything and leaves nothing.
#[derive(Debug)]
pub(super) struct Scratch {
    name: String,
}

impl Scratch {
    /// Makes one, and the mount, which is attached nowhere yet; `number` is unique in this shim.
    pub(super) fn new(number: u64, merged: &Mounted, dirs: &Dirs) -> Result<(Self, OwnedFd), Fault> {
        let scratch = Self { name: format!("scratch-{number}") };
        match scratch.mount(merged, dirs) {
            Ok(mount) => Ok((scratch, mount)),
            Err(error) => {
                scratch.remove(dirs);
                Err(Fault::io("make a throw-away layer", &error))
            }
        }
    }

    fn mount(&self, merged: &Mounted, dirs: &Dirs) -> io::Result<OwnedFd> {
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::mkdirat(&dirs.vessel, &self.name, mode)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = rustix::fs::openat(&dirs.vessel, &self.name, flags, Mode::empty())?;
        let part = |name: &str| -> io::Result<OwnedFd> {
            rustix::fs::mkdirat(&own, name, mode)?;
            Ok(rustix::fs::openat(&own, name, flags, Mode::empty())?)
        };
        let (upper, work) = (part("fs")?, part("work")?);
        let status = rustix::fs::fstat(&merged.root)?;
        rustix::fs::fchmod(&upper, Mode::from_raw_mode(status.st_mode & 0o7777))?;
        let lower = merged.root.as_fd().try_clone_to_owned()?;
        let layers = Layers { lowers: &[lower], upper: upper.as_fd(), work: work.as_fd(), volatile: true };
        overlay::mount_nowhere(&layers, Path::new(house::SCRATCH))
    }

    /// Removes it. What cannot be removed is found by the next shim ([`sweep`]).
    pub(super) fn remove(&self, dirs: &Dirs) {
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
