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
#[derive(Debug)]
pub(crate) struct Confined {
    pub(crate) confinement: Confinement,
    /// After the standard streams.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) group: Option<CommandGroup>,
}

/// Makes what a command with limits of its own needs. Its vessel runs.
pub(crate) fn confine(
    manager: &ManagerInner,
    id: &str,
    dir: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Confined> {
    limits.check()?;
    if limits.disk.is_some() {
        return Err(Error::invalid("what is written can be limited for a vessel, but not for one command"));
    }
    let confinement = Confinement { nofile: limits.nofile, ..Confinement::default() };
    if !limits.need_group() {
        return Ok(Confined { confinement, fds: Vec::new(), group: None });
    }
    match in_group(manager, id, dir, limits) {
        Ok((Entrance { fds, groups }, group)) => {
            let counter = fds.len() > usize::try_from(groups).unwrap_or(usize::MAX);
            let confinement = Confinement { groups, counter, ..confinement };
            Ok(Confined { confinement, fds, group: Some(CommandGroup(Some(group))) })
        }
        Err(e) if limits.best_effort && matches!(e.kind(), ErrorKind::Unsupported { .. }) => {
            let confinement = Confinement {
                address_space: limits.memory,
                processes: limits.pids.map(u64::from),
                processors: limits.milli_cpus.map(|cpus| cpus.div_ceil(1000)),
                ..confinement
            };
            Ok(Confined { confinement, fds: Vec::new(), group: None })
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
) -> Result<(Entrance, Group)> {
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
    let name = format!("exec-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let group = vessel.make_for_command(&name, limits)?;
    Ok((Entrance::of(&group)?, group))
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
