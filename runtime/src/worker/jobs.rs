//! What a worker does for each job.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags};

use super::{Job, JobDone, Message};
use crate::layer::{self, BlobSource};
use crate::shim::protocol::{Fault, FaultKind};
use crate::shim::wire;

/// Progress is told this often, in bytes.
const PROGRESS_STEP: u64 = 1 << 20;

pub(super) fn run(job: Job, fds: Vec<OwnedFd>, socket: &UnixStream) -> Result<JobDone, Fault> {
    match job {
        Job::UnpackLayer { size, digest, compression, diff_id, lowers } => {
            let [blob, layers, dest] = exactly(fds)?;
            let lowers = open_lowers(&layers, &lowers)?;
            let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
            let source = BlobSource {
                file: File::from(blob),
                size,
                digest_hex: digest,
                compression,
                diff_id_hex: diff_id,
            };
            let ids = mapped_ids()?;
            let teller = Teller::new(socket);
            layer::unpack_image_layer(source, dest.as_fd(), &lowers, ids, &|bytes| teller.tell(bytes))
                .map(|report| done(&report))
                .map_err(|e| layer::unpack_fault("unpack an image layer", &e))
        }
        Job::UnpackSnapshot { sha256, size } => {
            let [archive, dest] = exactly(fds)?;
            layer::unpack_snapshot(File::from(archive), dest.as_fd(), &sha256, size, mapped_ids()?)
                .map(|report| done(&report))
                .map_err(|e| layer::unpack_fault("unpack a snapshot", &e))
        }
        Job::PackTree => {
            let [tree, out] = exactly(fds)?;
            layer::pack_plain(tree.as_fd(), File::from(out))
                .map(JobDone::Packed)
                .map_err(|e| layer::pack_fault("pack a directory", &e))
        }
        Job::RemoveTree { name } => {
            let [parent] = exactly(fds)?;
            layer::remove_tree(parent.as_fd(), name.as_ref())
                .map(|()| JobDone::Removed)
                .map_err(|e| Fault::io(format!("remove {name:?}"), &e))
        }
    }
}

fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], Fault> {
    <[OwnedFd; N]>::try_from(fds)
        .map_err(|_| Fault::new(FaultKind::InvalidArgument, format!("this job needs {N} descriptors")))
}

fn open_lowers(layers: &OwnedFd, names: &[String]) -> Result<Vec<OwnedFd>, Fault> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
    let open = |name: &String| {
        rustix::fs::openat2(layers, format!("{name}/fs"), flags, Mode::empty(), resolve)
            .map_err(|e| Fault::io(format!("open the layer {name}"), &e.into()))
    };
    names.iter().map(open).collect()
}

fn done(report: &layer::UnpackReport) -> JobDone {
    JobDone::Unpacked { entries: report.entries, bytes: report.bytes, warnings: report.warnings() }
}

/// Tells the client of progress, not too often.
struct Teller<'a> {
    socket: &'a UnixStream,
    told: Cell<u64>,
}

impl<'a> Teller<'a> {
    fn new(socket: &'a UnixStream) -> Self {
        Self { socket, told: Cell::new(0) }
    }

    /// Best effort: a client that does not listen finds out by the result.
    fn tell(&self, bytes: u64) {
        if bytes.saturating_sub(self.told.get()) >= PROGRESS_STEP {
            self.told.set(bytes);
            let _ = wire::send(self.socket, &Message::Progress(bytes), &[]);
        }
    }
}

fn mapped_ids() -> Result<u32, Fault> {
    crate::idmap::mapped_here().map_err(|e| Fault::io("read /proc/self/uid_map", &e))
}
