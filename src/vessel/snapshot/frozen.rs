//! [`Frozen`]: a vessel whose snapshots and writable layer cannot change while somebody reads them.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use vesselrt_runtime::shim::protocol::Driver;
use vesselrt_storage::manifest::VesselManifest;

use super::{Still, Turn, quiesce, turn};
use crate::error::{Error, Result};
use crate::manager::open::generation_name;
use crate::offload::blocking;
use crate::store::dirs;
use crate::vessel::VesselInner;

/// A vessel that is still, with its manifest as it is now. To be thawed whatever happens; if the process dies the shim
/// leaves, and nothing is lost.
pub(crate) struct Frozen {
    turn: Turn,
    still: Still,
}

/// The right to read a vessel's snapshots, none of which is deleted meanwhile.
pub(crate) struct Thawed(Turn);

impl Thawed {
    /// The manifest as it is for as long as this is held.
    pub(crate) fn manifest(&self) -> &VesselManifest {
        &self.0.manifest
    }
}

/// Waits for the vessel's snapshots, and makes it still.
pub(crate) async fn freeze(vessel: &VesselInner) -> Result<Frozen> {
    let turn = turn(vessel).await?;
    let still = quiesce(vessel).await?;
    Ok(Frozen { turn, still })
}

impl Frozen {
    /// What wrote the writable layer.
    pub(crate) fn driver(&self) -> Driver {
        self.still.state.driver.unwrap_or(Driver::Kernel)
    }

    /// The directory of the writable layer, with its tree in `fs`.
    pub(crate) async fn writable(&self, vessel: &VesselInner) -> Result<OwnedFd> {
        let (dir, name) = (Arc::clone(vessel.lease.dir()), generation_name(self.still.state.generation));
        blocking(move || {
            dirs::open(dir.as_fd(), &name)?
                .ok_or_else(|| Error::integrity("the writable layer of the vessel is not there"))
        })
        .await
    }

    /// The directory of the layer below the writable one: of a snapshot, or else of the image; `None` without any.
    pub(crate) fn below(&self, vessel: &VesselInner) -> Result<Option<OwnedFd>> {
        let (state, store) = (&self.still.state, &vessel.manager.store);
        match (state.sealed.first(), state.image.layers.first()) {
            (Some(name), _) => dirs::open(store.layers.as_fd(), name),
            (None, Some(name)) => dirs::open(store.image_layers.as_fd(), name),
            (None, None) => Ok(None),
        }
    }

    /// Lets the vessel go on.
    pub(crate) async fn thaw(self, vessel: &VesselInner) -> Result<Thawed> {
        self.still.resume(vessel).await?;
        Ok(Thawed(self.turn))
    }
}
