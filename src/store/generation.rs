//! Writable layers: how they begin and how they are sealed.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;

use super::{Store, dirs};
use vesselrt_runtime::shim::protocol::Driver;

use crate::error::{Error, Result};
use crate::manager::open::generation_name;
use crate::merge::{self, Merge};
use crate::state::VesselState;

const TREE: &str = "fs";
const WORK: &str = "work";

impl Store {
    /// Makes the writable layer of `state`, unless it is there.
    pub(crate) fn make_generation(&self, vessel: BorrowedFd<'_>, state: &VesselState) -> Result<()> {
        let generation = self.lay_generation(vessel, state)?;
        // Its own name is synced with the state that mentions it.
        if state.volatile { Ok(()) } else { dirs::sync(generation.as_fd()) }
    }

    /// [`Self::make_generation`] that a crash may take back in part: who opens the vessel then makes what is missing.
    pub(crate) fn lay_generation(&self, vessel: BorrowedFd<'_>, state: &VesselState) -> Result<OwnedFd> {
        let name = generation_name(state.generation);
        if let Some(there) = dirs::open(vessel, &name)?
            && dirs::exists(there.as_fd(), TREE)?
        {
            self.make_owned(there.as_fd(), WORK)?;
            return Ok(there);
        }
        let generation = self.make_owned(vessel, &name)?;
        // The tree last: it tells that the rest is there.
        self.make_owned(generation.as_fd(), WORK)?;
        let staged = super::staged::unique(TREE);
        let tree = self.make_owned(generation.as_fd(), &staged)?;
        self.like_the_layer_below(tree.as_fd(), state)?;
        if !dirs::publish(generation.as_fd(), &staged, generation.as_fd(), TREE)? {
            return Err(Error::internal(format!("failed to make {name}: somebody else is making it")));
        }
        Ok(generation)
    }

    /// The root of the upper layer is what the root of the mount looks like: it must look as the one below.
    fn like_the_layer_below(&self, tree: BorrowedFd<'_>, state: &VesselState) -> Result<()> {
        let failed = |e: Errno| Error::io("failed to set up the root of a writable layer", e);
        let (parent, name) = match (state.sealed.first(), state.image.layers.first()) {
            (Some(name), _) => (self.layers.as_fd(), name),
            (None, Some(name)) => (self.image_layers.as_fd(), name),
            (None, None) => return rustix::fs::fchmod(tree, Mode::from_raw_mode(0o755)).map_err(failed),
        };
        let below = rustix::fs::statat(parent, format!("{name}/{TREE}"), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)?;
        let own = rustix::fs::fstat(tree).map_err(failed)?;
        if (own.st_uid, own.st_gid) != (below.st_uid, below.st_gid) {
            let (uid, gid) =
                (rustix::fs::Uid::from_raw(below.st_uid), rustix::fs::Gid::from_raw(below.st_gid));
            match rustix::fs::fchown(tree, Some(uid), Some(gid)) {
                // Another of the user's own ids, which only the user namespace can give away: root stays the owner.
                Ok(()) | Err(Errno::PERM) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        rustix::fs::fchmod(tree, Mode::from_raw_mode(below.st_mode & 0o7777)).map_err(failed)?;
        let nanos = i64::try_from(below.st_mtime_nsec).unwrap_or(0);
        let mtime = Timespec { tv_sec: below.st_mtime, tv_nsec: nanos };
        rustix::fs::futimens(tree, &Timestamps { last_access: mtime, last_modification: mtime })
            .map_err(failed)
    }

    /// A writable layer becomes the layer of a snapshot, if it is still there.
    pub(crate) fn seal(&self, vessel: BorrowedFd<'_>, generation: u64, snapshot: &str) -> Result<()> {
        self.name_sealed(vessel, generation, snapshot)?;
        dirs::sync(self.layers.as_fd())
    }

    /// [`Self::seal`] that a crash may take back.
    pub(crate) fn name_sealed(&self, vessel: BorrowedFd<'_>, generation: u64, snapshot: &str) -> Result<()> {
        let name = generation_name(generation);
        if !dirs::exists(vessel, &name)? {
            return Ok(());
        }
        if !dirs::publish(vessel, &name, self.layers.as_fd(), snapshot)? {
            // The same content, unpacked from the archive already.
            return self.discard(vessel, &name);
        }
        Ok(())
    }

    /// What is mounted for the sealed layers of a vessel: merged ones where there are any.
    pub(crate) fn stack(&self, state: &VesselState) -> Vec<String> {
        if state.driver == Some(Driver::Fuse) {
            return state.sealed.clone();
        }
        merge::stack(&state.sealed, &mut |name| dirs::exists(self.layers.as_fd(), name).unwrap_or(false))
    }

    /// The next merged layer that is to be made for a vessel.
    pub(crate) fn merge_due(&self, state: &VesselState) -> Option<Merge> {
        // What fuse-overlayfs writes is its own dialect.
        if state.driver != Some(Driver::Kernel) {
            return None;
        }
        merge::due(&state.sealed, &mut |name| dirs::exists(self.layers.as_fd(), name).unwrap_or(false))
    }

    /// Removes what a sealed layer needs no more.
    pub(crate) fn drop_work_dir(&self, snapshot: &str) -> Result<()> {
        let Some(layer) = dirs::open(self.layers.as_fd(), snapshot)? else { return Ok(()) };
        // Made by overlayfs with mode 0, so it is removed by name; empty but for crashes.
        let inner = rustix::fs::unlinkat(&layer, format!("{WORK}/{WORK}"), AtFlags::REMOVEDIR);
        match inner.and_then(|()| rustix::fs::unlinkat(&layer, WORK, AtFlags::REMOVEDIR)) {
            Ok(()) => Ok(()),
            Err(_) => self.discard(layer.as_fd(), WORK),
        }
    }
}
