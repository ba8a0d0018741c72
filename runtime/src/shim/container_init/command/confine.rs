//! Limits of one command, set by itself before it is executed.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

use crate::shim::protocol::Confinement;

/// Takes the groups that came after the streams.
pub(super) fn groups(confinement: &Confinement, fds: &mut Vec<OwnedFd>) -> Vec<OwnedFd> {
    let count = usize::try_from(confinement.groups).unwrap_or(usize::MAX);
    fds.split_off(fds.len().saturating_sub(count))
}

/// Joins its groups and takes its limits on.
pub(super) fn confine(confinement: &Confinement, groups: &[OwnedFd]) -> io::Result<()> {
    crate::cgroup::enter(groups, "0")?;
    for (resource, value) in
        [(Resource::Nofile, confinement.nofile), (Resource::Nproc, confinement.processes)]
    {
        if let Some(value) = value {
            limit(resource, value)?;
        }
    }
    confinement.processors.map_or(Ok(()), run_on)
}

/// The address space of this process itself is replaced: to be called right before that.
pub(super) fn limit_address_space(confinement: &Confinement) -> io::Result<()> {
    confinement.address_space.map_or(Ok(()), |bytes| limit(Resource::As, bytes))
}

/// Hard, so that the command cannot raise it again; never above the hard limit that there is.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let now = rustix::process::getrlimit(resource).maximum;
    let value = Some(now.map_or(value, |now| now.min(value)));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: value, maximum: value })?)
}

/// Runs on so many of the processors that there are, beginning anywhere, so that not all commands share the first.
fn run_on(count: u32) -> io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&number| allowed.is_set(number)).collect();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let first = usize::try_from(since.subsec_micros()).unwrap_or(0) % processors.len().max(1);
    let mut chosen = CpuSet::new();
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(processors.len());
    processors.iter().cycle().skip(first).take(count).for_each(|&number| chosen.set(number));
    Ok(rustix::thread::sched_setaffinity(None, &chosen)?)
}
