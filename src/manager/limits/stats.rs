//! What a vessel uses now.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use vesselrt_runtime::cgroup::{GroupUsage, tree};
use vesselrt_runtime::settings::Limits;
use vesselrt_runtime::shim::client::Connection;
use vesselrt_runtime::shim::protocol::{Reply, Request};
use vesselrt_runtime::worker::{Job, JobDone};

use super::{Enforcement, read};
use crate::error::{Error, Result};
use crate::manager::ManagerInner;
use crate::manager::open::read_state;
use crate::offload::blocking;

/// What the commands of a vessel use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VesselStats {
    /// Its limits.
    pub limits: Limits,
    /// By what they hold.
    pub enforcement: Enforcement,
    /// The numbers are those of its control group. Otherwise they are added up from the processes that run now, so that
    /// memory that processes share counts for each.
    pub grouped: bool,
    /// Whether it runs.
    pub running: bool,
    /// Commands that run.
    pub commands: u32,
    /// What is used of processors, memory and disks, since the vessel was started.
    pub usage: GroupUsage,
    /// Bytes of the writable layer on disk, and what the store keeps with it.
    pub disk: u64,
    /// Files and directories of it.
    pub disk_inodes: u64,
}

pub(in crate::manager) async fn stats(manager: &Arc<ManagerInner>, id: &str) -> Result<VesselStats> {
    manager.load_manifest(id).await?;
    let (own, id) = (Arc::clone(manager), id.to_owned());
    blocking(move || {
        let Some(dir) = own.store.vessel(&id)? else {
            return Ok(with(&Limits::new(), Enforcement::None, GroupUsage::default()));
        };
        let limits = read_state(&id, dir.as_fd())?.settings.limits;
        let hello = hello(dir.as_fd())?;
        let group = read(dir.as_fd())?.filter(|_| hello.is_some());
        let usage = match (&group, hello) {
            (Some(group), _) if limits.need_group() => group.usage(),
            (_, Some((pid, _))) => tree::usage_of(pid).unwrap_or_default(),
            _ => GroupUsage::default(),
        };
        let grouped = group.is_some() && limits.need_group();
        let enforcement = Enforcement::of(&limits, group.as_ref(), hello.is_some());
        let (running, commands) = (hello.is_some(), hello.map_or(0, |(_, commands)| commands));
        let (disk, disk_inodes) = disk(&own, dir.as_fd())?;
        let counted = VesselStats { disk, disk_inodes, ..with(&limits, enforcement, usage) };
        Ok(VesselStats { grouped, running, commands, ..counted })
    })
    .await
}

/// The process id of the shim and how many commands run.
fn hello(dir: BorrowedFd<'_>) -> Result<Option<(u32, u32)>> {
    let Some(mut connection) = Connection::open(dir)? else { return Ok(None) };
    match connection.call(&Request::Hello, &[])?.0 {
        Reply::Hello { pid, running, .. } => Ok(Some((pid, running))),
        _ => Err(Error::internal("unexpected reply of the shim: hello")),
    }
}

/// A worker measures: most of it belongs to ids that only the user namespace has power over.
fn disk(manager: &ManagerInner, dir: BorrowedFd<'_>) -> Result<(u64, u64)> {
    match manager.launcher()?.worker()?.run(&Job::CountTree, &[dir], &mut |_| {})? {
        JobDone::Counted { bytes, inodes } => Ok((bytes, inodes)),
        _ => Err(Error::internal("unexpected reply of the worker: not measured")),
    }
}

fn with(limits: &Limits, enforcement: Enforcement, usage: GroupUsage) -> VesselStats {
    VesselStats {
        limits: limits.clone(),
        enforcement,
        grouped: false,
        running: false,
        commands: 0,
        usage,
        disk: 0,
        disk_inodes: 0,
    }
}
