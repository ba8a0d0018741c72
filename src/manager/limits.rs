//! The limits of vessels: their control groups, from the start of the shim until it is gone.
//!
//! The group is made, by whoever starts the shim, while the vessel's lock is held; `vessels/ID/cgroup.json` says where it is,
//! and is written first. It is removed, again under the lock, when the shim has gone: by the process that started it, by
//! whoever stops, opens or deletes the vessel, and by the garbage collection.
#![forbid(unsafe_code)]

pub(crate) mod command;
pub(crate) mod stats;
pub(crate) mod update;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vesselrt_runtime::cgroup::{CgroupError, Group, PREFIX, Version};
use vesselrt_runtime::settings::{LimitError, Limits};

use self::stats::VesselStats;
use self::update::LimitsStatus;
use super::open::LOCK;
use super::{Manager, ManagerInner};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::{blocking, detached};
use crate::store::dirs::{self, Durable};
use crate::store::{Store, lock};

/// Where the vessel's group is; there as long as it may be.
const RECORD: &str = "cgroup.json";
/// Some paths.
const MAX_RECORD: u64 = 64 << 10;
/// How long a lock may be held by a shim that is going.
const GOING: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(2);

/// By what the limits of a vessel hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Enforcement {
    /// It has no limit on processors, memory or processes.
    None,
    /// It does not run: what its host can do is seen when it starts.
    Stopped,
    /// Control groups v1.
    CgroupV1,
    /// Control groups v2.
    CgroupV2,
    /// Limits of single processes, which do not hold against a hostile command.
    BestEffort,
}

impl Enforcement {
    /// The name, as JSON output has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Stopped => "stopped",
            Self::CgroupV1 => "cgroup-v1",
            Self::CgroupV2 => "cgroup-v2",
            Self::BestEffort => "best-effort",
        }
    }

    pub(crate) fn of(limits: &Limits, group: Option<&Group>, running: bool) -> Self {
        match group.map(Group::version) {
            _ if !limits.need_group() => Self::None,
            _ if !running => Self::Stopped,
            Some(Version::V1) => Self::CgroupV1,
            Some(Version::V2) => Self::CgroupV2,
            None => Self::BestEffort,
        }
    }
}

/// What a shim gets of the group of its vessel.
#[derive(Debug, Default)]
pub(crate) struct Entrance {
    /// So many entrances, and then the counter, if there is one.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) groups: u32,
}

impl Entrance {
    fn of(group: &Group) -> Result<Self> {
        let mut fds = group.entrance()?;
        let groups = u32::try_from(fds.len()).unwrap_or(u32::MAX);
        fds.extend(group.oom_counter()?);
        Ok(Self { fds, groups })
    }
}

/// Makes the group of a vessel that is about to start, whose lock is held; nothing where it needs none.
pub(super) fn begin(
    manager: &ManagerInner,
    id: &str,
    dir: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Entrance> {
    release(dir)?;
    limits.check()?;
    match make(&manager.store, id, dir, limits) {
        Ok(Some(group)) => Entrance::of(&group.commands()),
        Ok(None) => Ok(Entrance::default()),
        Err(e) if limits.best_effort && matches!(e.kind(), ErrorKind::Unsupported { .. }) => {
            Ok(Entrance::default())
        }
        Err(e) => {
            let _ = release(dir);
            Err(e)
        }
    }
}

/// Makes the group, if `limits` need one.
fn make(store: &Store, id: &str, dir: BorrowedFd<'_>, limits: &Limits) -> Result<Option<Group>> {
    if !limits.need_group() {
        return Ok(None);
    }
    let group = Group::plan(&name_of(store, id)?, limits)?;
    write(dir, &group)?;
    group.make(limits)?;
    Ok(Some(group))
}

/// Tells stores on one host apart, wherever they are moved.
fn name_of(store: &Store, id: &str) -> Result<String> {
    let stat = rustix::fs::fstat(&store.vessels).map_err(|e| Error::io("failed to look at the store", e))?;
    let place = format!("{}:{}", stat.st_dev, stat.st_ino);
    let digest = vesselrt_storage::Digest::sha256(place.as_bytes());
    let hash = digest.hex().get(..8).unwrap_or_default();
    Ok(format!("{PREFIX}{hash}-{id}"))
}

fn write(dir: BorrowedFd<'_>, group: &Group) -> Result<()> {
    let json = serde_json::to_vec(group)
        .map_err(|e| Error::internal("failed to write down a control group").with_source(e))?;
    // A control group does not survive a power cut either.
    dirs::write_atomic(dir, RECORD, &json, Durable::Nothing)
}

/// The group that a vessel may have; `None` also where the record says nothing that could be one of ours.
pub(crate) fn read(dir: BorrowedFd<'_>) -> Result<Option<Group>> {
    let Some(json) = dirs::read_small(dir, RECORD, MAX_RECORD)? else { return Ok(None) };
    Ok(serde_json::from_slice(&json).ok().filter(Group::is_ours))
}

/// Removes the group of a vessel whose shim has gone. The vessel's lock is held.
pub(super) fn release(dir: BorrowedFd<'_>) -> Result<()> {
    if !dirs::exists(dir, RECORD)? {
        return Ok(());
    }
    if let Some(group) = read(dir)? {
        group.remove()?;
    }
    dirs::unlink(dir, RECORD)
}

/// [`release`] unless somebody holds the vessel's lock for longer than a shim takes to go.
pub(crate) fn release_unused(dir: BorrowedFd<'_>) -> Result<()> {
    let until = Instant::now() + GOING;
    while dirs::exists(dir, RECORD)? {
        if let Some(_lock) = lock::attempt(dir, LOCK)? {
            return release(dir);
        }
        if Instant::now() > until {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

impl Manager {
    /// The limits of a vessel, and by what they hold. It is not opened.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn vessel_limits(&self, id: &str) -> Result<LimitsStatus> {
        update::status(&self.inner, id).await
    }

    /// Changes the limits of a vessel, of what runs in it too. A vessel that does not run has them when it starts.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where this host cannot enforce them, unless that is not asked for
    /// ([`Limits::best_effort`]); [`Conflict`](crate::ErrorKind::Conflict) when more memory is in use, and for another
    /// kind of limit than the running vessel began with where that needs a new start;
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument). After an error they are as they were.
    pub async fn update_vessel(
        &self,
        id: &str,
        change: impl FnOnce(&mut Limits) + Send + 'static,
    ) -> Result<LimitsStatus> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        detached(async move { update::update(&inner, &id, change).await }).await
    }

    /// What the commands of a vessel use now. It is not opened.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn vessel_stats(&self, id: &str) -> Result<VesselStats> {
        stats::stats(&self.inner, id).await
    }
}

impl ManagerInner {
    /// Removes the groups of vessels that do not run.
    pub(super) async fn release_groups(self: &Arc<Self>) -> Result<()> {
        let manager = Arc::clone(self);
        blocking(move || {
            let mut failure = None;
            for id in dirs::names(manager.store.vessels.as_fd())? {
                let Some(dir) = manager.store.vessel(&id)? else { continue };
                if dirs::exists(dir.as_fd(), RECORD)?
                    && let Some(_lock) = lock::attempt(dir.as_fd(), LOCK)?
                {
                    failure = failure.or(release(dir.as_fd()).err());
                }
            }
            failure.map_or(Ok(()), Err)
        })
        .await
    }
}

impl From<CgroupError> for Error {
    fn from(error: CgroupError) -> Self {
        match error {
            CgroupError::Unsupported { what, remedy } => {
                Self::new(ErrorKind::Unsupported { what: what.clone(), remedy }, what)
            }
            CgroupError::Io { step, source } => Self::io(format!("failed to {step}"), source),
            CgroupError::NotTaken { .. } => Self::internal(format!("a limit was not taken: {error}")),
        }
    }
}

impl From<LimitError> for Error {
    fn from(error: LimitError) -> Self {
        Self::invalid(error.to_string())
    }
}
