//! Deleting a vessel.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::Arc;

use vesselrt_storage::manifest::VesselManifest;

use super::open::{LOCK, OPS_LOCK, UNFINISHED, read_state, shut_down, unknown};
use super::{ManagerInner, limits};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use crate::store::{dirs, lock};

/// The manifest goes first: without it there is no vessel, and what a crash leaves is found by the next sweep. When
/// the storage refuses, the vessel is still whole.
pub(super) async fn delete(manager: &Arc<ManagerInner>, id: &str) -> Result<()> {
    let manifest = match manager.view(id).await {
        Ok(manifest) => Some(manifest),
        // One that cannot be read can still be deleted.
        Err(e) if e.kind() == ErrorKind::IntegrityViolation => None,
        Err(e) => return Err(e),
    };
    let (own, name) = (Arc::clone(manager), id.to_owned());
    let dir = blocking(move || own.store.vessel(&name)).await?.map(Arc::new);
    let busy = || Error::conflict(format!("vessel {id} is in use by another process"));
    let (mut locks, mut volatile) = (Vec::new(), false);
    if let Some(dir) = &dir {
        let timeout = manager.config.lock_timeout;
        locks.push(lock::within(dir, OPS_LOCK, timeout).await?.ok_or_else(busy)?);
        let (name, fd) = (id.to_owned(), Arc::clone(dir));
        volatile = blocking(move || {
            let volatile = read_state(&name, fd.as_fd()).is_ok_and(|state| state.volatile);
            shut_down(fd.as_fd(), volatile)?;
            Ok(volatile)
        })
        .await?;
        // Nobody may start it again.
        locks.push(lock::within(dir, LOCK, timeout).await?.ok_or_else(busy)?);
        let fd = Arc::clone(dir);
        blocking(move || {
            limits::release(fd.as_fd())?;
            dirs::touch(fd.as_fd(), UNFINISHED)
        })
        .await?;
    }
    let failed = |e| Error::storage(format!("failed to delete vessel {id} from the storage"), e);
    // It may have been deleted while we waited for the locks.
    if manager.load_manifest(id).await.is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        return Err(unknown(id));
    }
    let deleted = match volatile {
        true => manager.storage.delete_volatile_vessel(id).await,
        false => manager.storage.delete_vessel(id).await,
    };
    deleted.map_err(failed)?;
    let (own, name) = (Arc::clone(manager), id.to_owned());
    let flat = volatile && manifest.as_ref().is_some_and(|manifest| manifest.snapshots.is_empty());
    blocking(move || match flat {
        true => own.store.discard_flat(own.store.vessels.as_fd(), &name),
        false => discard(&own, &name, manifest.as_deref()),
    })
    .await?;
    drop(locks);
    manager.sweep_later();
    Ok(())
}

/// Moves the local part of a vessel to the trash. Layers that other vessels may have are left to the next sweep.
pub(super) fn discard(manager: &ManagerInner, id: &str, manifest: Option<&VesselManifest>) -> Result<()> {
    let store = &manager.store;
    let shared = store.is_shared(id)?;
    store.discard(store.vessels.as_fd(), id)?;
    if shared {
        return store.ask_for_check();
    }
    for snapshot in manifest.iter().flat_map(|manifest| &manifest.snapshots) {
        store.discard(store.layers.as_fd(), &snapshot.id)?;
    }
    Ok(())
}
