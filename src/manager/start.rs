//! Starting the shim of a vessel whose lock is held.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixListener;

use rustix::fs::{AtFlags, Mode};
use vesselrt_runtime::launch::{Launcher, ShimDirs, ShimProcess};
use vesselrt_runtime::shim::client::SOCKET;
use vesselrt_runtime::shim::protocol::{Driver, ShimConfig, VERSION};

use super::ManagerInner;
use super::limits::{self, Entrance};
use super::mounts;
use super::network;
use super::open::{generation_name, write_state};
use crate::error::{Error, ErrorKind, Result};
use crate::state::VesselState;
use crate::store::{dirs, lock::FileLock};
use crate::vessel::lease::Holder;

/// Starts a shim with what stacks the vessel's layers already, or with the first of the configured programs that
/// this host can run, which is then remembered. The shim keeps the lock.
pub(super) fn start(
    manager: &ManagerInner,
    id: &str,
    dir: BorrowedFd<'_>,
    lock: FileLock,
    state: &mut VesselState,
) -> Result<Holder> {
    let launcher = manager.launcher()?;
    let candidates = match &state.driver {
        Some(driver) => std::slice::from_ref(driver),
        None => manager.config.overlay.candidates(),
    };
    renew_work_dir(manager, dir, state)?;
    let sources = mounts::open(&manager.store, &state.settings)?;
    let published = network::bind(&state.settings.network)?;
    let entrance = limits::begin(manager, id, dir, &state.settings.limits)?;
    let listener = listen(dir)?;
    let dirs = ShimDirs {
        image_layers: manager.store.image_layers.as_fd(),
        sealed_layers: manager.store.layers.as_fd(),
        vessel: dir,
        listener: listener.as_fd(),
        lock: lock.as_fd(),
        published: &published,
        sources: &sources.fds,
        groups: &entrance.fds,
    };
    let stack = manager.store.stack(state);
    let started = first(&launcher, id, state, &stack, candidates, (dirs, &entrance));
    let Ok((driver, ShimProcess { connection, child })) = started else {
        dirs::unlink(dir, SOCKET)?;
        limits::release(dir)?;
        return Err(started.err().unwrap_or_else(|| Error::internal("a start neither failed nor succeeded")));
    };
    // The shim has it now; with it the lock ends.
    drop(lock);
    let own = dir.try_clone_to_owned().map_err(|e| Error::io("failed to duplicate a descriptor", e))?;
    let holder = Holder::started(connection, child, own)?;
    if state.driver != Some(driver) {
        state.driver = Some(driver);
        write_state(dir, state)?;
    }
    Ok(holder)
}

/// The first that the host supports. When it supports none, the first one's error says why.
fn first(
    launcher: &Launcher,
    id: &str,
    state: &VesselState,
    stack: &[String],
    candidates: &[Driver],
    (dirs, entrance): (ShimDirs<'_>, &Entrance),
) -> Result<(Driver, ShimProcess)> {
    let mut refusal = None;
    for &driver in candidates {
        let config = ShimConfig {
            version: VERSION,
            mount: state.mount_spec(driver, stack.to_vec()),
            hostname: id.to_owned(),
            settings: state.settings.clone(),
            groups: entrance.groups,
            is_new: state.driver.is_none(),
            origins: Vec::new(),
        };
        match launcher.shim(&config, dirs).map_err(Error::from) {
            Ok(process) => return Ok((driver, process)),
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported { .. }) => refusal = refusal.or(Some(e)),
            Err(e) => return Err(e),
        }
    }
    Err(refusal.unwrap_or_else(|| Error::internal("no program to stack layers with")))
}

/// A socket that only this user can connect to. What is there belongs to a shim that is gone, as its lock is ours.
fn listen(dir: BorrowedFd<'_>) -> Result<UnixListener> {
    dirs::unlink(dir, SOCKET)?;
    // A path through /proc is short whatever the store's path is: sun_path holds 107 bytes.
    let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    let listener =
        UnixListener::bind(&path).map_err(|e| Error::io("failed to bind the vessel's socket", e))?;
    rustix::fs::chmodat(dir, SOCKET, Mode::RUSR | Mode::WUSR, AtFlags::empty())
        .map_err(|e| Error::io("failed to make the vessel's socket private", e))?;
    Ok(listener)
}

/// overlayfs refuses the work directory of a `volatile` mount that was not unmounted, since the file system may have
/// crashed under it. It did not: volatile vessels do not survive that.
fn renew_work_dir(manager: &ManagerInner, dir: BorrowedFd<'_>, state: &VesselState) -> Result<()> {
    let Some(generation) = dirs::open(dir, &generation_name(state.generation))? else { return Ok(()) };
    let used = match dirs::open(generation.as_fd(), "work")? {
        Some(work) => dirs::exists(work.as_fd(), "work")?,
        None => true,
    };
    if state.volatile && used {
        manager.store.discard(generation.as_fd(), "work")?;
        manager.store.make_owned(generation.as_fd(), "work")?;
    }
    Ok(())
}
