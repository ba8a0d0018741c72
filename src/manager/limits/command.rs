//! Limits of one command, tighter than those of its vessel.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use vesselrt_runtime::cgroup::Group;
use vesselrt_runtime::settings::Limits;
use vesselrt_runtime::shim::protocol::Confinement;

use super::{Entrance, name_of, read, write};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::ManagerInner;

/// A group that one command is in. Dropped, it is removed when the command has gone.
#[derive(Debug)]
pub(crate) struct CommandGroup(Option<Group>);

/// What goes along with the request for a command.
#[derive(Debug, Default)]
pub(crate) struct Confined {
    pub(crate) confinement: Confinement,
    /// After the standard streams.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) group: Option<CommandGroup>,
    /// Keeps the group of a detached command until it is in it.
    pub(crate) held: Option<OwnedFd>,
}

/// Whose command it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Its caller's, who removes its group.
    Caller,
    /// Nobody's: whoever looks next removes its group, and at the latest whoever finds the vessel stopped.
    Nobody,
}

/// Beginnings of the names of groups.
const OF_CALLER: &str = "exec-";
const OF_NOBODY: &str = "detached-";

/// Makes what a command with limits of its own needs. Its vessel runs.
pub(crate) fn confine(
    manager: &ManagerInner,
    id: &str,
    dir: BorrowedFd<'_>,
    limits: &Limits,
    owner: Owner,
) -> Result<Confined> {
    limits.check()?;
    if limits.disk.is_some() {
        return Err(Error::invalid("what is written can be limited for a vessel, but not for one command"));
    }
    let confinement = Confinement { nofile: limits.nofile, ..Confinement::default() };
    if !limits.need_group() {
        return Ok(Confined { confinement, fds: Vec::new(), group: None, held: None });
    }
    match in_group(manager, id, dir, limits, owner) {
        Ok((Entrance { fds, groups }, group, held)) => {
            let counter = fds.len() > usize::try_from(groups).unwrap_or(usize::MAX);
            let confinement = Confinement { groups, counter, ..confinement };
            let group = (owner == Owner::Caller).then(|| CommandGroup(Some(group)));
            Ok(Confined { confinement, fds, group, held })
        }
        Err(e) if limits.best_effort && matches!(e.kind(), ErrorKind::Unsupported { .. }) => {
            let confinement = Confinement {
                address_space: limits.memory,
                processes: limits.pids.map(u64::from),
                processors: limits.milli_cpus.map(|cpus| cpus.div_ceil(1000)),
                ..confinement
            };
            Ok(Confined { confinement, fds: Vec::new(), group: None, held: None })
        }
        Err(e) => Err(e),
    }
}

/// Below the group of the vessel, which is made if it has none: without limits, and no container is moved there.
fn in_group(
    manager: &ManagerInner,
    id: &str,
    dir: BorrowedFd<'_>,
    limits: &Limits,
    owner: Owner,
) -> Result<(Entrance, Group, Option<OwnedFd>)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let vessel = match read(dir)? {
        Some(group) => group,
        None => {
            let group = Group::plan(&name_of(&manager.store, id)?, limits)?;
            write(dir, &group)?;
            group.make(&Limits::new())?;
            group
        }
    };
    vessel.remove_ended(OF_NOBODY);
    let prefix = if owner == Owner::Caller { OF_CALLER } else { OF_NOBODY };
    let make = || {
        let name = format!("{prefix}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let group = vessel.make_for_command(&name, limits)?;
        let held = (owner == Owner::Nobody).then(|| group.hold()).transpose()?;
        Ok((Entrance::of(&group)?, group, held))
    };
    // Until it is held, another process may take it for one whose command has ended.
    if owner == Owner::Nobody { make().or_else(|_: Error| make()) } else { make() }
}

/// Removes the groups of detached commands that have ended. What fails is done again by whoever comes next.
pub(crate) fn remove_ended(dir: BorrowedFd<'_>) {
    if let Ok(Some(vessel)) = read(dir) {
        vessel.remove_ended(OF_NOBODY);
    }
}

impl Drop for CommandGroup {
    /// Not waited for: the command may take a moment to go. What is left goes with the vessel's group.
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = std::thread::Builder::new()
                .name("vesselrt-cgroup".into())
                .stack_size(128 << 10)
                .spawn(move || group.remove());
        }
    }
}
