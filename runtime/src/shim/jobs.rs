//! Jobs: long work on the mounted tree, done by a forked child while the shim goes on.
//!
//! A fork of this one-threaded process may use threads; it has the mounts and the user namespace that the work needs.
//! It answers its client itself, on the client's connection, and exits.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags};

use super::mounted::Mounted;
use super::protocol::{Driver, Fault, FaultKind, Reply};
use super::wire;
use crate::layer::{self, TreeFormat};
use crate::sys;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Task {
    CopyOut { path: Vec<u8> },
    CopyIn { path: Vec<u8> },
    PackUpper,
}

/// A job that runs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) client: u64,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// It writes to the vessel.
    pub(super) writes: bool,
}

impl Job {
    /// Starts `task` for a client; its one descriptor is in `fds`.
    pub(super) fn start(
        client: u64,
        task: &Task,
        mut fds: Vec<OwnedFd>,
        socket: &UnixStream,
        mounted: &Mounted,
        ids: u32,
    ) -> Result<Self, Fault> {
        let stream = fds
            .pop()
            .filter(|_| fds.is_empty())
            .ok_or_else(|| Fault::new(FaultKind::InvalidArgument, "one descriptor must come with it"))?;
        let writes = matches!(task, Task::CopyIn { .. });
        let pid = sys::fork(|| {
            // It must not outlive the shim, whose lock and connections it has copies of.
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            let reply = run(task, stream, mounted, ids).unwrap_or_else(Reply::Failed);
            i32::from(wire::send(socket, &reply, &[]).is_err())
        })
        .map_err(|e| Fault::io("fork a worker", &e))?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| Fault::io("pidfd_open", &e.into()))?;
        Ok(Self { client, pid, pidfd, writes })
    }
}

fn run(task: &Task, stream: OwnedFd, mounted: &Mounted, ids: u32) -> Result<Reply, Fault> {
    let stream = File::from(stream);
    match task {
        Task::PackUpper => {
            let format = match mounted.spec.driver {
                Driver::Kernel => TreeFormat::Overlay,
                Driver::Fuse => TreeFormat::FuseOverlay,
            };
            layer::pack_snapshot(mounted.upper.as_fd(), stream, format)
                .map(Reply::Packed)
                .map_err(|e| layer::pack_fault("pack the writable layer", &e))
        }
        Task::CopyOut { path } => {
            let tree = directory(mounted, path)?;
            layer::pack_plain(tree.as_fd(), stream)
                .map(|_| Reply::Done)
                .map_err(|e| layer::pack_fault("copy out of the vessel", &e))
        }
        Task::CopyIn { path } => {
            let tree = directory(mounted, path)?;
            layer::extract_plain(stream, tree.as_fd(), ids)
                .map(|_| Reply::Done)
                .map_err(|e| layer::unpack_fault("copy into the vessel", &e))
        }
    }
}

fn directory(mounted: &Mounted, path: &[u8]) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let shown = path.escape_ascii();
    mounted
        .root
        .open(Path::new(OsStr::from_bytes(path)), flags, 0)
        .map_err(|e| Fault::io(format!("open the directory \"{shown}\""), &e))
}
