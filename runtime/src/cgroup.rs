//! Control groups: the limits that a vessel's commands have in common, and what they use.
//!
//! ```text
//! own group of the caller (or a group above it, see below)
//!   vesselrt-STORE-VESSEL       the limits of the vessel
//!     commands                  its containers
//!     exec-N                    a command with tighter limits of its own
//!     detached-N                the same of a detached one, whose group nobody waits to remove
//! ```
//!
//! They are made outside of the vessel's namespaces by whoever opens it, who may; the shim gets descriptors of
//! `cgroup.procs` and moves containers in. It is no member itself: neither a full group nor the OOM killer stops it. Nothing inside
//! sees the hierarchies, and the limits are on a group above any that a command is in.
//!
//! Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel.
#![forbid(unsafe_code)]

mod files;
mod mounts;
mod site;
pub mod tree;
mod usage;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::settings::Limits;
pub use site::Site;
pub(crate) use site::can_limit_by_v1;
pub use usage::{GroupUsage, oom_kills};

/// Beginning of the names of all our groups.
pub const PREFIX: &str = "vesselrt-";
/// The group of the containers, below that of the vessel.
const COMMANDS: &str = "commands";
const PROCS: &str = "cgroup.procs";
/// How long the last processes of a group may take to be gone.
const GONE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(2);

/// Why a limit cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// This user has no control groups here.
    #[error("{what}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// A step failed.
    #[error("{step}")]
    Io {
        /// What was being done, with its arguments.
        step: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel took another value than was written.
    #[error("{path:?} is {found:?} after {wrote:?} was written to it")]
    NotTaken {
        /// The file.
        path: PathBuf,
        /// What was written.
        wrote: String,
        /// What it says.
        found: String,
    },
}

fn io_error(step: impl Into<String>) -> impl FnOnce(io::Error) -> CgroupError {
    let step = step.into();
    move |source| CgroupError::Io { step, source }
}

/// Which interface of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// What is limited or counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// Memory and swap.
    Memory,
    /// Processes and threads.
    Pids,
    /// Counts processor time (v1 only; part of `cpu` in v2).
    Cpuacct,
    /// Counts what goes to and from disks (`blkio` in v1).
    Io,
}

impl Controller {
    const ALL: [Self; 5] = [Self::Cpu, Self::Memory, Self::Pids, Self::Cpuacct, Self::Io];

    fn name(self, version: Version) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpuacct => "cpuacct",
            Self::Io if version == Version::V1 => "blkio",
            Self::Io => "io",
        }
    }

    /// Those that the limits need.
    fn needed(limits: &Limits) -> Vec<Self> {
        let needs = [
            (Self::Cpu, limits.milli_cpus.is_some()),
            (Self::Memory, limits.memory.is_some()),
            (Self::Pids, limits.pids.is_some()),
        ];
        needs.into_iter().filter(|(_, needed)| *needed).map(|(controller, _)| controller).collect()
    }
}

/// A directory of a hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    path: PathBuf,
    controllers: Vec<Controller>,
}

/// The group of a vessel, or of a command with limits of its own: a directory in each hierarchy that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    version: Version,
    places: Vec<Place>,
}

impl Group {
    /// The group of that name where this process can make it, which is not made yet: whoever makes it writes it down
    /// before, to find it again.
    ///
    /// # Errors
    /// [`CgroupError::Unsupported`] where this user has no control groups, or not for all of `limits`.
    pub fn plan(name: &str, limits: &Limits) -> Result<Self, CgroupError> {
        Ok(Site::here(limits)?.group(name))
    }

    /// Makes the group of a vessel with its limits. One that is there is taken.
    ///
    /// # Errors
    /// [`CgroupError`]; what was made is for the caller to remove.
    pub fn make(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.make_dirs()?;
        self.pass_on();
        self.limit(limits)?;
        self.commands().make_dirs()
    }

    /// Whether its name is one that we give.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let ours = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        self.places.iter().all(|place| place.path.file_name().is_some_and(ours))
    }

    /// Makes the group of one command, with limits of its own besides those of the vessel.
    ///
    /// # Errors
    /// [`CgroupError`]; no group is left then.
    pub fn make_for_command(&self, name: &str, limits: &Limits) -> Result<Self, CgroupError> {
        let group = self.below(name);
        let missing = Controller::needed(limits).into_iter().find(|&wanted| group.place(wanted).is_none());
        if let Some(missing) = missing {
            return Err(site::no_controller(missing, self.version));
        }
        group.make_dirs().and_then(|()| group.limit(limits)).inspect_err(|_| {
            let _ = group.remove();
        })?;
        Ok(group)
    }

    /// Keeps [`Self::remove_ended`] from taking it for one whose processes have ended, before the first one is in it.
    ///
    /// # Errors
    /// Those of open(2) and flock(2): `ENOENT` when it was taken for one just now.
    pub fn hold(&self) -> Result<OwnedFd, CgroupError> {
        let Some(place) = self.places.first() else {
            return Err(io_error("hold a control group without a place")(io::ErrorKind::NotFound.into()));
        };
        let held = open(&place.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::flock(&held, FlockOperation::LockShared)
            .map_err(|e| io_error(format!("lock the control group {:?}", place.path))(e.into()))?;
        // Locked or not, it may have been removed in between.
        open(&place.path.join(PROCS), OFlags::RDONLY).map(|_| held)
    }

    /// Removes groups right below whose names begin with `prefix`, if nobody [holds](Self::hold) them and nothing is in them any
    /// more. What cannot be removed now goes with this one.
    pub fn remove_ended(&self, prefix: &str) {
        let Some(place) = self.places.first() else { return };
        let names = children(&place.path).into_iter().filter_map(|path| Some(path.file_name()?.to_owned()));
        for name in names.filter(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            let Ok(held) = open(&place.path.join(&name), OFlags::RDONLY | OFlags::DIRECTORY) else {
                continue;
            };
            if rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            // Its processes are in all hierarchies or in none: the kernel removes none that has one.
            for place in &self.places {
                if std::fs::remove_dir(place.path.join(&name)).is_err() {
                    break;
                }
            }
        }
    }

    /// The group of the containers.
    #[must_use]
    pub fn commands(&self) -> Self {
        self.below(COMMANDS)
    }

    /// Which interface it is made with.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it has what these limits need: one that was made for others may lack a hierarchy.
    #[must_use]
    pub fn can_take(&self, limits: &Limits) -> bool {
        Controller::needed(limits).into_iter().all(|wanted| self.place(wanted).is_some())
    }

    /// Sets all limits; what is not limited is unlimited. Each is read back and compared.
    ///
    /// # Errors
    /// [`CgroupError`], with the limits partly set; `EBUSY` where so much memory is in use (v1).
    pub fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        for place in &self.places {
            for controller in &place.controllers {
                files::limit(&place.path, self.version, *controller, limits)?;
            }
        }
        Ok(())
    }

    /// Descriptors through which a process without other threads joins it, by writing `0`.
    ///
    /// In version 1 that is `tasks`: a thread that moves itself alone waits for nobody. Who writes to `cgroup.procs` waits for an
    /// RCU grace period, 7 to 20 ms, when nobody has done so for a moment (`cgroup_procs_write_start` of Linux since 5.5).
    ///
    /// # Errors
    /// Those of open(2).
    pub fn entrance(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        self.open_each(match self.version {
            Version::V1 => "tasks",
            Version::V2 => PROCS,
        })
    }

    fn open_each(&self, file: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        self.places.iter().map(|place| open(&place.path.join(file), OFlags::WRONLY)).collect()
    }

    /// A descriptor of the file that counts its processes that were killed for want of memory; see [`oom_kills`].
    ///
    /// # Errors
    /// Those of open(2).
    pub fn oom_counter(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let place = self.place(Controller::Memory);
        place.map(|place| open(&place.path.join(file), OFlags::RDONLY)).transpose()
    }

    /// Moves processes into it. Those that have ended meanwhile do not mind.
    ///
    /// # Errors
    /// Those of write(2): `EACCES` for processes of a group that is not this user's.
    pub fn adopt(&self, processes: &[u32]) -> Result<(), CgroupError> {
        // Whole processes.
        let entrance = self.open_each(PROCS)?;
        for process in processes {
            enter(&entrance, &process.to_string()).map_err(io_error(format!("move process {process}")))?;
        }
        Ok(())
    }

    /// The processes in it and below.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let Some(place) = self.places.first() else { return Vec::new() };
        let mut dirs = vec![place.path.clone()];
        dirs.extend(children(&place.path));
        let texts = dirs.iter().filter_map(|dir| std::fs::read_to_string(dir.join(PROCS)).ok());
        texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
    }

    /// What it uses now, with those below.
    #[must_use]
    pub fn usage(&self) -> GroupUsage {
        usage::read(self)
    }

    /// Removes it with what is below, when its last process is gone, which is waited for.
    ///
    /// # Errors
    /// `EBUSY` when a process is still in it after five seconds.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let until = Instant::now() + GONE;
        self.places.iter().try_for_each(|place| remove(&place.path, until))
    }

    fn below(&self, name: &str) -> Self {
        let place =
            |place: &Place| Place { path: place.path.join(name), controllers: place.controllers.clone() };
        Self { version: self.version, places: self.places.iter().map(place).collect() }
    }

    fn place(&self, controller: Controller) -> Option<&Place> {
        self.places.iter().find(|place| place.controllers.contains(&controller))
    }

    fn make_dirs(&self) -> Result<(), CgroupError> {
        self.places.iter().try_for_each(|place| match std::fs::create_dir(&place.path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(io_error(format!("make the control group {:?}", place.path))(e))
            }
            _ => Ok(()),
        })
    }

    /// Gives the groups below the controllers that this one has. Without one there, nothing is counted or limited
    /// separately for a command, which is told when a command asks for that.
    fn pass_on(&self) {
        if self.version == Version::V2 {
            for place in &self.places {
                for controller in &place.controllers {
                    let _ = site::enable(&place.path, *controller);
                }
            }
        }
    }
}

/// Writes a process id to every file of a group; `0` is the caller itself. A process that has ended (`ESRCH`) does not mind.
///
/// # Errors
/// Those of write(2).
pub(crate) fn enter(entrance: &[OwnedFd], process: &str) -> io::Result<()> {
    for procs in entrance {
        match rustix::io::write(procs, process.as_bytes()) {
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, CgroupError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| io_error(format!("open {path:?}"))(e.into()))
}

/// The groups right below one.
fn children(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|entry| entry.path()).collect()
}

fn remove(path: &Path, until: Instant) -> Result<(), CgroupError> {
    children(path).iter().try_for_each(|child| remove(child, until))?;
    loop {
        match std::fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                std::thread::sleep(LOOK);
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(format!("remove the control group {path:?}"))(e));
            }
            _ => return Ok(()),
        }
    }
}
