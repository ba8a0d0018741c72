//! What files of many sizes have in them, as digests.
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::ScopedJoinHandle;

use rustix::fs::readlinkat;
use rustix::io::{Errno, pread};
use sha2::{Digest as _, Sha256};

use crate::diff::DiffError;
use crate::diff::compare::Attributes;
use crate::diff::layers::{Layers, is_gone};
use crate::layer::path::split;

/// What is read at once.
const CHUNK: usize = 128 << 10;
/// Files that one thread takes at once.
const BATCH: usize = 64;

/// A file or a symbolic link of a layer.
pub(super) struct Source<'a> {
    pub(super) layer: u32,
    pub(super) path: &'a [u8],
    pub(super) size: u64,
}

/// What is the same for files that are the same.
#[derive(Debug, Clone)]
pub(super) struct Fingerprint {
    /// SHA-256 of the content.
    pub(super) content: [u8; 32],
    /// A hash of the extended attributes.
    pub(super) attributes: u64,
}

/// Fingerprints of the first `limit` bytes, in the order of the files; `None` for what is not there any more.
pub(super) fn fingerprints(
    layers: &Layers,
    sources: &[Source<'_>],
    limit: u64,
) -> Result<Vec<Option<Fingerprint>>, DiffError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len() / BATCH + 1);
    let part = |range: Range<usize>| -> Result<Vec<_>, DiffError> {
        let mut buffer = vec![0; CHUNK];
        sources[range].iter().map(|source| fingerprint(layers, source, limit, &mut buffer)).collect()
    };
    let share = sources.len().div_ceil(threads);
    let ranges = (0..threads).map(|n| (n * share).min(sources.len())..((n + 1) * share).min(sources.len()));
    let parts: Vec<Result<Vec<_>, DiffError>> = std::thread::scope(|scope| {
        let begun: Vec<_> = ranges.map(|range| scope.spawn(|| part(range))).collect();
        let joined = begun.into_iter().map(ScopedJoinHandle::join);
        joined.map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut all = Vec::with_capacity(sources.len());
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}

fn fingerprint(
    layers: &Layers,
    source: &Source<'_>,
    limit: u64,
    buffer: &mut [u8],
) -> Result<Option<Fingerprint>, DiffError> {
    let mut read = || -> Result<Option<Fingerprint>, Errno> {
        match layers.file(source.layer, source.path) {
            Ok(fd) => of_file(&fd, source.size, limit, layers, buffer),
            Err(Errno::LOOP) => {
                let parent = layers.parent(source.layer, source.path)?;
                let target = readlinkat(&parent, split(source.path).1, Vec::new())?;
                Ok(Some(Fingerprint { content: Sha256::digest(target.as_bytes()).into(), attributes: 0 }))
            }
            Err(errno) => Err(errno),
        }
    };
    match read() {
        Ok(found) => Ok(found),
        Err(errno) if is_gone(errno) || errno == Errno::INVAL => Ok(None),
        Err(errno) => Err(DiffError::io("read", source.path, errno)),
    }
}

fn of_file(
    fd: &OwnedFd,
    size: u64,
    limit: u64,
    layers: &Layers,
    buffer: &mut [u8],
) -> Result<Option<Fingerprint>, Errno> {
    let (mut digest, mut at) = (Sha256::new(), 0);
    let end = size.min(limit);
    while at < end {
        let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        match pread(fd, &mut buffer[..want], at) {
            Ok(0) => return Ok(None),
            Ok(len) => {
                digest.update(&buffer[..len]);
                at += len as u64;
            }
            Err(Errno::INTR) => {}
            // It is no file any more.
            Err(Errno::SPIPE | Errno::ISDIR) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
    let mut attributes = DefaultHasher::new();
    Attributes::of_file(fd.as_fd(), layers.format)?.hash(&mut attributes);
    Ok(Some(Fingerprint { content: digest.finalize().into(), attributes: attributes.finish() }))
}
