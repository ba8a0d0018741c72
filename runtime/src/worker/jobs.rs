//! What a worker does for each job.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use super::squeeze::Squeeze;
use super::{Job, JobDone, Lower, Message};
use crate::diff;
use crate::layer::{
    self, BlobSource, Compression, Dialect, IdPolicy, PackError, PackOptions, TreeFormat, UnpackOptions,
    Warning, WarningKind, Warnings,
};
use crate::shim::fault::{blob_fault, pack_fault, snapshot_fault};
use crate::shim::jobs::described;
use crate::shim::protocol::{Fault, FaultKind};
use crate::shim::wire;

/// Progress is told this often, in bytes.
const PROGRESS_STEP: u64 = 1 << 20;

pub(super) fn run(job: Job, fds: Vec<OwnedFd>, socket: &UnixStream) -> Result<JobDone, Fault> {
    match job {
        Job::UnpackLayer { size, digest, compression, diff_id, lowers } => {
            let [blob, layers, dest] = exactly(fds)?;
            let file = File::from(blob);
            let source = BlobSource { file, size, digest_hex: digest, compression, diff_id_hex: diff_id };
            unpack_layer(&source, [layers, dest], &lowers, &Teller::new(socket))
        }
        Job::UnpackIncoming { compression, most, strict, lowers } => {
            let [stream, layers, before, dest] = exactly(fds)?;
            let open = |lower: &Lower| match lower {
                Lower::Unpacked(name) => open_lower(&layers, name),
                Lower::Arrived(name) => open_lower(&before, name),
            };
            let lowers = lowers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
            let options =
                UnpackOptions { allow_missing_end: !strict, all_below: true, ..options(Dialect::Oci)? };
            layer::unpack_incoming(File::from(stream), compression, most, dest.as_fd(), &lowers, &options)
                .map(arrived)
                .map_err(|e| blob_fault("unpack an image layer", &e))
        }
        Job::UnpackSnapshot { sha256, size } => {
            let [archive, dest] = exactly(fds)?;
            let options = options(Dialect::Snapshot)?;
            layer::unpack_snapshot(File::from(archive), dest.as_fd(), &[], &options, &sha256, size)
                .map(|report| done(&report))
                .map_err(|e| snapshot_fault("unpack a snapshot", &e))
        }
        Job::PackTree => pack_tree(exactly(fds)?),
        Job::PackLayer { format, compression } => {
            pack_layer(exactly(fds)?, format, compression, &Teller::new(socket))
        }
        Job::MeasureTrees { trees } => measure(&fds, &trees),
        Job::CountTree => count_tree(exactly(fds)?),
        Job::Look { format, paths } => look(exactly(fds)?, format, &paths),
        Job::CopyFile { path } => copy_file(exactly(fds)?, &path),
        Job::CompareLayer { name } => compare_layer(exactly(fds)?, &name),
        Job::PackSealed { format } => pack_sealed(exactly(fds)?, format),
        Job::MergeLayers { layers, sealed, image } => merge_layers(exactly(fds)?, &layers, &sealed, &image),
        Job::RemoveTree { name } => {
            let [parent] = exactly(fds)?;
            layer::remove_tree(parent.as_fd(), name.as_ref())
                .map(|()| JobDone::Removed)
                .map_err(|e| Fault::io(format!("remove {name:?}"), &e))
        }
        Job::Diff(request) => diff::compare(&exactly(fds)?, &request)
            .map(JobDone::Compared)
            .map_err(|e| e.fault("compare two states of the vessel")),
        Job::ReadFiles(request) => diff::read(&exactly(fds)?, &request)
            .map(JobDone::Contents)
            .map_err(|e| e.fault("read what was compared")),
    }
}

fn unpack_layer(
    source: &BlobSource,
    [layers, dest]: [OwnedFd; 2],
    lowers: &[String],
    teller: &Teller<'_>,
) -> Result<JobDone, Fault> {
    let lowers = open_lowers(&layers, lowers)?;
    let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
    let options = UnpackOptions { all_below: true, ..options(Dialect::Oci)? };
    layer::unpack_blob(source, dest.as_fd(), &lowers, &options, &|bytes| teller.tell(bytes))
        .map(|report| done(&report))
        .map_err(|e| blob_fault("unpack an image layer", &e))
}

fn compare_layer([layers, expected]: [OwnedFd; 2], name: &str) -> Result<JobDone, Fault> {
    let actual = open_lower(&layers, name)?;
    layer::compare_trees(expected.as_fd(), actual.as_fd())
        .map(|found| JobDone::LayerCompared { different: found.different, examples: found.examples })
        .map_err(|e| Fault::io(format!("compare the layer {name}"), &e))
}

fn merge_layers(
    [sealed_layers, image_layers, dest]: [OwnedFd; 3],
    layers: &[String],
    sealed: &[String],
    image: &[String],
) -> Result<JobDone, Fault> {
    raise_descriptor_limit();
    let mut below = open_lowers(&sealed_layers, sealed)?;
    below.extend(open_lowers(&image_layers, image)?);
    let layers = open_trees(&sealed_layers, layers)?;
    layer::merge(layers, below, dest.as_fd(), c"fs").map(|()| JobDone::Merged)
}

fn look([layer]: [OwnedFd; 1], format: TreeFormat, paths: &[Vec<u8>]) -> Result<JobDone, Fault> {
    let tree = open_tree(&layer)?;
    let nodes: io::Result<_> =
        paths.iter().map(|path| layer::look::look(tree.as_fd(), path, format)).collect();
    nodes.map(JobDone::Looked).map_err(|e| Fault::io("look names up in a layer", &e))
}

fn copy_file([layer, out]: [OwnedFd; 2], path: &[u8]) -> Result<JobDone, Fault> {
    let tree = open_tree(&layer)?;
    let copied = layer::look::open_regular(tree.as_fd(), path)
        .and_then(|file| io::copy(&mut File::from(file), &mut File::from(out)));
    copied.map(JobDone::Copied).map_err(|e| Fault::io("copy a file out of a layer", &e))
}

fn measure(parents: &[OwnedFd], trees: &[(usize, String)]) -> Result<JobDone, Fault> {
    let mut measure = layer::Measure::default();
    let mut sizes = Vec::with_capacity(trees.len());
    for (parent, name) in trees {
        let parent = parents.get(*parent).ok_or_else(|| {
            Fault::new(FaultKind::InvalidArgument, "a tree of a directory that is not given")
        })?;
        let bytes = measure.tree(parent.as_fd(), name.as_bytes());
        sizes.push(bytes.map_err(|e| Fault::io(format!("measure {name:?}"), &e))?);
    }
    Ok(JobDone::Measured(sizes))
}

fn count_tree([tree]: [OwnedFd; 1]) -> Result<JobDone, Fault> {
    let mut measure = layer::Measure::default();
    let bytes = measure.tree(tree.as_fd(), b".").map_err(|e| Fault::io("measure a directory", &e))?;
    Ok(JobDone::Counted { bytes, inodes: measure.inodes() })
}

fn pack_tree([tree, out]: [OwnedFd; 2]) -> Result<JobDone, Fault> {
    let options = PackOptions::new(Dialect::Oci, TreeFormat::Plain);
    layer::pack_snapshot(tree.as_fd(), File::from(out), &options)
        .map(|packed| JobDone::Packed(described(packed)))
        .map_err(|e| pack_fault("pack a directory", &e))
}

fn pack_sealed([layer, out]: [OwnedFd; 2], format: TreeFormat) -> Result<JobDone, Fault> {
    let options = PackOptions::new(Dialect::Snapshot, format);
    layer::pack_snapshot(open_tree(&layer)?.as_fd(), File::from(out), &options)
        .map(|packed| JobDone::Packed(described(packed)))
        .map_err(|e| pack_fault("pack a sealed layer", &e))
}

fn pack_layer(
    [layer, out]: [OwnedFd; 2],
    format: TreeFormat,
    compression: Compression,
    teller: &Teller<'_>,
) -> Result<JobDone, Fault> {
    let tree = open_tree(&layer)?;
    let options = PackOptions::new(Dialect::Oci, format);
    squeeze(&tree, File::from(out), &options, compression, teller)
        .map(|packed| JobDone::Packed(described(packed)))
        .map_err(|e| pack_fault("pack an image layer", &e))
}

fn squeeze(
    tree: &OwnedFd,
    out: File,
    options: &PackOptions,
    compression: Compression,
    teller: &Teller<'_>,
) -> Result<layer::Packed, PackError> {
    let squeeze = Squeeze::new(out, compression).map_err(PackError::Write)?;
    let mut told = Told { inner: squeeze, written: 0, teller };
    let packed = layer::pack_snapshot(tree.as_fd(), &mut told, options)?;
    told.inner.finish().map_err(PackError::Write)?;
    Ok(packed)
}

/// Tells how much went through it.
struct Told<'a, W> {
    inner: W,
    written: u64,
    teller: &'a Teller<'a>,
}

impl<W: Write> Write for Told<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written += written as u64;
        self.teller.tell(self.written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], Fault> {
    <[OwnedFd; N]>::try_from(fds)
        .map_err(|_| Fault::new(FaultKind::InvalidArgument, format!("this job needs {N} descriptors")))
}

fn open_tree(layer: &OwnedFd) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(layer, "fs", flags, Mode::empty())
        .map_err(|e| Fault::io("open the tree of a layer", &e.into()))
}

/// Layers that are to be listed.
fn open_trees(layers: &OwnedFd, names: &[String]) -> Result<Vec<OwnedFd>, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let again = |lower: OwnedFd| {
        rustix::fs::openat(lower, ".", flags, Mode::empty()).map_err(|e| Fault::io("open a layer", &e.into()))
    };
    open_lowers(layers, names)?.into_iter().map(again).collect()
}

/// Every level of the trees takes a descriptor of each layer.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Without it, trees that are not deep can be merged all the same.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

fn open_lowers(layers: &OwnedFd, names: &[String]) -> Result<Vec<OwnedFd>, Fault> {
    names.iter().map(|name| open_lower(layers, name)).collect()
}

fn open_lower(layers: &OwnedFd, name: &str) -> Result<OwnedFd, Fault> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(layers, format!("{name}/fs"), flags, Mode::empty(), resolve)
        .map_err(|e| Fault::io(format!("open the layer {name}"), &e.into()))
}

fn options(dialect: Dialect) -> Result<UnpackOptions, Fault> {
    let ids = crate::idmap::mapped_here().map_err(|e| Fault::io("read /proc/self/uid_map", &e))?;
    Ok(UnpackOptions::new(dialect, TreeFormat::Overlay, IdPolicy::for_ids(ids)))
}

/// How many paths stand for all of their kind.
const EXAMPLES: usize = 3;

fn done(report: &layer::UnpackReport) -> JobDone {
    let warnings = summary(&report.warnings);
    JobDone::Unpacked { entries: report.entries, bytes: report.bytes, warnings }
}

fn arrived(incoming: layer::Incoming) -> JobDone {
    let layer::Incoming { report, diff_id, zeros } = incoming;
    let warnings = summary(&report.warnings);
    JobDone::Arrived { diff_id, zeros, entries: report.entries, warnings }
}

/// One line for each kind of warning: `8 × device skipped: dev/console, dev/full, dev/null, …`.
pub(crate) fn summary(warnings: &Warnings) -> Vec<String> {
    let line = |(kind, count): (&WarningKind, &u64)| {
        let mut paths: Vec<String> = warnings
            .list()
            .iter()
            .filter(|warning| warning.kind == *kind)
            .take(EXAMPLES)
            .map(Warning::subject)
            .collect();
        if *count > paths.len() as u64 {
            paths.push("…".to_owned());
        }
        format!("{count} × {kind}: {}", paths.join(", "))
    };
    warnings.counts().iter().map(line).collect()
}

/// Tells the client of progress, not too often.
struct Teller<'a> {
    socket: &'a UnixStream,
    told: AtomicU64,
}

impl<'a> Teller<'a> {
    fn new(socket: &'a UnixStream) -> Self {
        Self { socket, told: AtomicU64::new(0) }
    }

    /// Best effort: a client that does not listen finds out by the result.
    fn tell(&self, bytes: u64) {
        if bytes.saturating_sub(self.told.load(Ordering::Relaxed)) >= PROGRESS_STEP {
            self.told.store(bytes, Ordering::Relaxed);
            let _ = wire::send(self.socket, &Message::Progress(bytes), &[]);
        }
    }
}
