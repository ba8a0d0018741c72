//! Starting the processes of this runtime: shims and workers.
//!
//! The new process enters a user namespace of its own and asks for its id maps; this side writes them, because only a
//! process outside the namespace may (see [`idmap`](crate::idmap)). Its standard input is the socket to it; nothing
//! else is inherited: no environment, no descriptor, no working directory.
#![forbid(unsafe_code)]

mod ahead;
mod maps;
mod trees;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub use ahead::ahead;
pub use maps::host_mapping;

use crate::entry::{self, Boot, Role, Surroundings};
use crate::idmap::IdMapping;
use crate::settings::{Network, NetworkMode};
use crate::shim::client::{CallError, Connection};
use crate::shim::protocol::{Fault, FaultKind, Reply, ShimConfig};
use crate::shim::wire;
use crate::worker::Worker;
use trees::Trees;

/// Of this process.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// Why a process of the runtime could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step of the start failed.
    #[error("{step}")]
    Start {
        /// What was being done, with its arguments.
        step: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// This host does not let us do it.
    #[error("{what}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// The new process says why it could not start.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Starts shims and workers under one id mapping.
#[derive(Debug, Clone)]
pub struct Launcher {
    exe: PathBuf,
    ids: IdMapping,
}

/// What a shim is given besides its configuration.
#[derive(Debug, Clone, Copy)]
pub struct ShimDirs<'a> {
    /// `images/layers` of the store.
    pub image_layers: BorrowedFd<'a>,
    /// `layers` of the store.
    pub sealed_layers: BorrowedFd<'a>,
    /// `vessels/ID` of the store.
    pub vessel: BorrowedFd<'a>,
    /// Listening socket of the vessel, bound to [`crate::shim::client::SOCKET`] in its directory.
    pub listener: BorrowedFd<'a>,
    /// The vessel's lock file, locked: the shim holds it as long as it lives.
    pub lock: BorrowedFd<'a>,
    /// The sockets of the host for [`Network::publish`], in that order: bound, those for TCP listening.
    pub published: &'a [OwnedFd],
    /// What [`Settings::mounts`](crate::settings::Settings::mounts) names, opened (`O_PATH` will do), in their order; `None` for a
    /// file system in memory.
    pub sources: &'a [Option<OwnedFd>],
    /// Of the vessel's control group, if it has one: what [`ShimConfig::groups`] counts, and the file that counts processes
    /// killed for want of memory.
    pub groups: &'a [OwnedFd],
}

/// A shim that this process started.
#[derive(Debug)]
pub struct ShimProcess {
    /// The first connection to it; the shim leaves when the last connection closes, unless it is kept.
    pub connection: Connection,
    /// The process: whoever started it reaps it.
    pub child: Child,
}

impl Launcher {
    /// `shim_path` is an executable whose `main` calls [`crate::init`] first; without it, this process's own
    /// executable is taken, and [`crate::init`] must have run.
    ///
    /// # Errors
    /// [`LaunchError::Unsupported`] when there is no such executable.
    pub fn new(shim_path: Option<&Path>, ids: IdMapping) -> Result<Self, LaunchError> {
        let exe = match shim_path {
            Some(path) => path.to_path_buf(),
            None if entry::init_was_called() => PathBuf::from(OWN_EXECUTABLE),
            None => {
                return Err(LaunchError::Unsupported {
                    what: "this program cannot become the shim of a vessel".to_owned(),
                    remedy:
                        "call vesselrt::init() as the first line of main, or set ManagerConfig::shim_path to \
                             the vesselrt executable"
                            .to_owned(),
                });
            }
        };
        Ok(Self { exe, ids })
    }

    /// The mapping.
    #[must_use]
    pub fn ids(&self) -> &IdMapping {
        &self.ids
    }

    /// Starts a shim; it has mounted the vessel when this returns.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn shim(&self, config: &ShimConfig, dirs: ShimDirs<'_>) -> Result<ShimProcess, LaunchError> {
        let paths = [dirs.image_layers, dirs.sealed_layers, dirs.vessel].map(path_of);
        let paths = paths.into_iter().collect::<Result<Vec<_>, _>>()?;
        let trees = Trees::new(&config.settings, dirs.sources)?;
        let Started { socket, child } =
            self.start(Role::Shim, [paths, trees.paths()], surroundings(&config.settings.network))?;
        trees.confine(child.id())?;
        let config = ShimConfig { origins: trees.origins(), ..config.clone() };
        let mut fds = vec![dirs.image_layers, dirs.sealed_layers, dirs.vessel, dirs.listener, dirs.lock];
        fds.extend(trees.fds());
        fds.extend(dirs.published.iter().chain(dirs.groups).map(AsFd::as_fd));
        let mut connection = Connection::new(socket);
        wire::send(connection.socket(), &config, &fds).map_err(CallError::Lost)?;
        match connection.receive()?.0 {
            Reply::Done => Ok(ShimProcess { connection, child: child.release() }),
            _ => Err(CallError::Unexpected("start of a shim").into()),
        }
    }

    /// Starts a worker.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn worker(&self) -> Result<Worker, LaunchError> {
        let Started { socket, child } =
            self.start(Role::Worker, [Vec::new(), Vec::new()], Surroundings::Alone)?;
        Ok(Worker::new(socket, child.release()))
    }

    fn start(
        &self,
        role: Role,
        [dirs, trees]: [Vec<Vec<u8>>; 2],
        surroundings: Surroundings,
    ) -> Result<Started, LaunchError> {
        let started = match ahead::take(&self.exe, role) {
            Some(started) => started,
            None => spawn(&self.exe, role)?,
        };
        let begin = Boot::Begin { single: self.ids.is_single(), dirs, trees, surroundings };
        self.boot(&started.socket, started.child.id(), &begin)?;
        Ok(started)
    }

    /// Answers the questions of a process that enters its user namespace, until it has.
    fn boot(&self, socket: &UnixStream, pid: u32, begin: &Boot) -> Result<(), LaunchError> {
        wire::send(socket, begin, &[]).map_err(CallError::Lost)?;
        expect_boot(socket, &Boot::Unshared)?;
        maps::write(pid, &self.ids)?;
        wire::send(socket, &Boot::Mapped, &[]).map_err(CallError::Lost)?;
        expect_boot(socket, &Boot::Ready)
    }
}

/// Starts a process that asks what it is to do.
fn spawn(exe: &Path, role: Role) -> Result<Started, LaunchError> {
    let (socket, theirs) = UnixStream::pair().map_err(|e| step("socketpair(AF_UNIX)", e))?;
    let child = Command::new(exe)
        .arg0(role.outer_name())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| step(format!("spawn {exe:?} as {}", role.outer_name()), e))?;
    Ok(Started { socket, child: Reaped(Some(child)) })
}

fn surroundings(network: &Network) -> Surroundings {
    match network.mode {
        NetworkMode::Host => Surroundings::HostNetwork,
        _ if network.needs_gateway() => Surroundings::Gateway,
        _ => Surroundings::Alone,
    }
}

/// Where an open directory is now.
fn path_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>, LaunchError> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = std::fs::read_link(&link).map_err(|e| step(format!("readlink({link})"), e))?;
    Ok(path.into_os_string().into_vec())
}

#[derive(Debug)]
struct Started {
    socket: UnixStream,
    child: Reaped,
}

/// A child that is killed and reaped unless it is released: no failed start leaves a zombie.
#[derive(Debug)]
struct Reaped(Option<Child>);

impl Reaped {
    fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    fn runs(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn release(mut self) -> Child {
        self.0.take().expect("a child is released once")
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn expect_boot(socket: &UnixStream, wanted: &Boot) -> Result<(), LaunchError> {
    match wire::recv::<Boot>(socket).map_err(CallError::Lost)? {
        Some((Boot::Failed(fault), _)) => Err(fault_of_boot(fault)),
        Some((got, _)) if got == *wanted => Ok(()),
        Some(_) => Err(CallError::Unexpected("start of a process").into()),
        None => Err(LaunchError::Unsupported {
            what: "the executable started as the shim ended without a word".to_owned(),
            remedy: "its main must call vesselrt::init() first; set ManagerConfig::shim_path to the vesselrt executable"
                .to_owned(),
        }),
    }
}

fn fault_of_boot(fault: Fault) -> LaunchError {
    match fault.remedy.clone() {
        Some(remedy) if fault.kind == FaultKind::Unsupported => {
            LaunchError::Unsupported { what: fault.message, remedy }
        }
        _ => CallError::Fault(fault).into(),
    }
}

fn step(step: impl Into<String>, source: io::Error) -> LaunchError {
    LaunchError::Start { step: step.into(), source }
}

impl AsFd for ShimProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
