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

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::fault::{pack_fault, unpack_fault};
use super::mounted::Mounted;
use super::protocol::{Driver, Fault, FaultKind, Packed, Reply};
use super::wire;
use crate::layer::{self, Dialect, IdPolicy, PackOptions, TreeFormat, UnpackOptions};
use crate::sys;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Task {
    CopyOut {
        path: Vec<u8>,
    },
    CopyIn {
        path: Vec<u8>,
    },
    PackUpper,
    /// What is large of it, before the commands stand still.
    CopyAhead,
    /// Answered to the shim, which lets the commands go on before it tells the client.
    CopyUpper,
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
            let upper = readable(&mounted.upper)?;
            let format = match mounted.spec.driver {
                Driver::Kernel => TreeFormat::Overlay,
                Driver::Fuse => TreeFormat::FuseOverlay,
            };
            let options = PackOptions::new(Dialect::Snapshot, format);
            let packed = layer::pack_snapshot(upper.as_fd(), stream, &options)
                .map_err(|e| pack_fault("pack the writable layer", &e))?;
            Ok(Reply::Packed(described(packed)))
        }
        Task::CopyAhead => {
            crate::files::copy_ahead(above(mounted)?.as_fd(), c"fs", stream.as_fd()).map(|()| Reply::Done)
        }
        Task::CopyUpper => {
            let above = above(mounted)?;
            let reflinked = crate::files::copy_layer(above.as_fd(), c"fs", stream.as_fd())?;
            Ok(Reply::Captured { reflinked, pause_us: 0 })
        }
        Task::CopyOut { path } => {
            let tree = directory(mounted, path)?;
            layer::pack(tree.as_fd(), stream, &PackOptions::new(Dialect::Plain, TreeFormat::Plain))
                .map(|_| Reply::Done)
                .map_err(|e| pack_fault("copy out of the vessel", &e))
        }
        Task::CopyIn { path } => {
            // An archive without entries would never look.
            drop(directory(mounted, path)?);
            let at = Path::new(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
            let options = UnpackOptions::new(Dialect::Plain, TreeFormat::Plain, IdPolicy::for_ids(ids));
            layer::extract(stream, mounted.root.as_fd(), at, &options)
                .map(|_| Reply::Done)
                .map_err(|e| unpack_fault("copy into the vessel", &e))
        }
    }
}

/// The directory with the upper directory.
fn above(mounted: &Mounted) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&mounted.upper, "..", flags, Mode::empty())
        .map_err(|e| Fault::io("open the writable layer", &e.into()))
}

/// The descriptor of the upper directory is a path only.
fn readable(dir: &OwnedFd) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, ".", flags, Mode::empty())
        .map_err(|e| Fault::io("open the writable layer", &e.into()))
}

/// What a client is told of a packed archive.
pub(crate) fn described(packed: layer::Packed) -> Packed {
    let skipped = crate::worker::summary(&packed.report.warnings);
    Packed { sha256: packed.sha256, size: packed.size, entries: packed.report.entries, skipped }
}

fn directory(mounted: &Mounted, path: &[u8]) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let shown = path.escape_ascii();
    mounted
        .root
        .open(Path::new(OsStr::from_bytes(path)), flags, 0)
        .map_err(|e| Fault::io(format!("open the directory \"{shown}\""), &e))
}
