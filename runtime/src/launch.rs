//! Starting the processes of this runtime: shims and workers.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::idmap::IdMapping;
use crate::shim::client::{CallError, Connection};
use crate::shim::protocol::ShimConfig;
use crate::worker::Worker;

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
        let _ = shim_path;
        Ok(Self { exe: PathBuf::new(), ids })
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
        let _ = (&self.exe, config, dirs);
        todo!("next commit")
    }

    /// Starts a worker.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn worker(&self) -> Result<Worker, LaunchError> {
        todo!("next commit")
    }
}

/// The mapping that this user can have on this host: all of the user's subordinate ids where there are any and
/// `newuidmap`/`newgidmap` are installed, one id otherwise; for real root a high range of its own.
///
/// # Errors
/// [`LaunchError::Start`] when the tables of subordinate ids cannot be read.
pub fn host_mapping() -> Result<IdMapping, LaunchError> {
    todo!("next commit")
}
