//! Changing the limits of a vessel, also while it runs.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use vesselrt_runtime::cgroup::{Group, tree};
use vesselrt_runtime::settings::Limits;
use vesselrt_runtime::shim::client::Connection;
use vesselrt_runtime::shim::protocol::{Reply, Request};

use super::{Enforcement, Entrance, make, read};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::ManagerInner;
use crate::manager::open::{OPS_LOCK, read_state, unknown, write_state};
use crate::offload::blocking;
use crate::store::lock;

/// How often processes are moved, when new ones may have come meanwhile.
const ROUNDS: usize = 8;

/// The limits of a vessel, and by what they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsStatus {
    /// The limits.
    pub limits: Limits,
    /// By what those on processors, memory and processes hold.
    pub enforcement: Enforcement,
}

pub(in crate::manager) async fn status(manager: &Arc<ManagerInner>, id: &str) -> Result<LimitsStatus> {
    manager.load_manifest(id).await?;
    let (own, id) = (Arc::clone(manager), id.to_owned());
    blocking(move || {
        // Only its manifest is here: it has no settings.
        let Some(dir) = own.store.vessel(&id)? else {
            return Ok(LimitsStatus { limits: Limits::new(), enforcement: Enforcement::None });
        };
        let limits = read_state(&id, dir.as_fd())?.settings.limits;
        let running = limits.need_group() && Connection::open(dir.as_fd())?.is_some();
        let enforcement = Enforcement::of(&limits, read(dir.as_fd())?.as_ref(), running);
        Ok(LimitsStatus { limits, enforcement })
    })
    .await
}

/// Changes them, in the state last: what fails leaves them as they were.
pub(in crate::manager) async fn update(
    manager: &Arc<ManagerInner>,
    id: &str,
    change: impl FnOnce(&mut Limits) + Send + 'static,
) -> Result<LimitsStatus> {
    manager.load_manifest(id).await?;
    let (own, name) = (Arc::clone(manager), id.to_owned());
    let dir = blocking(move || own.store.vessel(&name)).await?.ok_or_else(|| {
        Error::conflict(format!("vessel {id} is not on this host"))
            .with_remedy("open it once: vesselrt start")
    })?;
    let dir = Arc::new(dir);
    let busy = || Error::conflict(format!("vessel {id} is in use by another process"));
    let ops = lock::within(&dir, OPS_LOCK, manager.config.lock_timeout).await?.ok_or_else(busy)?;
    let (own, id) = (Arc::clone(manager), id.to_owned());
    blocking(move || {
        let _ops = ops;
        if own.store.vessel(&id)?.is_none() {
            return Err(unknown(&id));
        }
        let mut state = read_state(&id, dir.as_fd())?;
        let before = state.settings.limits.clone();
        change(&mut state.settings.limits);
        let limits = state.settings.limits.clone();
        limits.check()?;
        let enforcement = apply(&own, &id, dir.as_fd(), &before, &limits)?;
        write_state(dir.as_fd(), &state)?;
        Ok(LimitsStatus { limits, enforcement })
    })
    .await
}

/// Limits a vessel that runs; for one that does not, sees whether it could be.
fn apply(
    manager: &ManagerInner,
    id: &str,
    dir: BorrowedFd<'_>,
    before: &Limits,
    limits: &Limits,
) -> Result<Enforcement> {
    let Some(mut connection) = Connection::open(dir)? else {
        if limits.need_group() && !limits.best_effort {
            Group::plan("vesselrt-trial", limits)?;
        }
        return Ok(Enforcement::of(limits, None, false));
    };
    let (group, entrance) = match read(dir)? {
        Some(group) => (Some(limit(group, before, limits)?), None),
        None => match make(&manager.store, id, dir, limits) {
            Ok(Some(group)) => {
                let entrance = Entrance::of(&group.commands())?;
                (Some(group), Some(entrance))
            }
            Ok(None) => (None, None),
            Err(e) if limits.best_effort && matches!(e.kind(), ErrorKind::Unsupported { .. }) => (None, None),
            Err(e) => return Err(e),
        },
    };
    // A group that was made for a command with limits of its own has nothing else in it yet.
    let entrance = match (&group, entrance) {
        (Some(group), None) if limits.need_group() => Some(Entrance::of(&group.commands())?),
        (_, entrance) => entrance,
    };
    tell(&mut connection, limits, &entrance.unwrap_or_default())?;
    if let Some(group) = group.as_ref().filter(|_| limits.need_group()) {
        adopt(&mut connection, group)?;
    }
    Ok(Enforcement::of(limits, group.as_ref(), true))
}

/// Sets the limits of a group that is there; those before when that fails.
fn limit(group: Group, before: &Limits, limits: &Limits) -> Result<Group> {
    if !group.can_take(limits) {
        let message = "a limit of another kind cannot be set while the vessel runs";
        return Err(Error::conflict(message).with_remedy("stop the vessel, so that it begins with it"));
    }
    match group.limit(limits) {
        Ok(()) => Ok(group),
        Err(error) => {
            let _ = group.limit(before);
            let error = Error::from(error);
            Err(match limits.memory {
                Some(memory) if is_busy(&error) => Error::conflict(format!(
                    "memory cannot be limited to {memory} bytes: more is in use, and cannot be freed"
                ))
                .with_source(error),
                _ => error,
            })
        }
    }
}

fn is_busy(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::ResourceBusy)
}

fn tell(connection: &mut Connection, limits: &Limits, entrance: &Entrance) -> Result<()> {
    let fds: Vec<BorrowedFd<'_>> = entrance.fds.iter().map(AsFd::as_fd).collect();
    let request = Request::Limit { limits: Box::new(limits.clone()), groups: entrance.groups };
    Ok(connection.call_done(&request, &fds)?)
}

/// Moves what runs already. Commands that begin from now on join by themselves.
fn adopt(connection: &mut Connection, group: &Group) -> Result<()> {
    let Reply::Hello { pid, .. } = connection.call(&Request::Hello, &[])?.0 else {
        return Err(Error::internal("unexpected reply of the shim: hello"));
    };
    for _ in 0..ROUNDS {
        let inside = group.processes();
        let outside: Vec<u32> =
            tree::contained(pid).into_iter().filter(|process| !inside.contains(process)).collect();
        if outside.is_empty() {
            break;
        }
        group.commands().adopt(&outside)?;
    }
    Ok(())
}
