//! Snapshots: a sealed layer into an archive and back, with the digest of the uncompressed archive.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use super::pack::{PackError, PackOptions, pack_to};
use super::report::{PackReport, UnpackReport};
use super::stream::{ChunkFeeder, HashingSink, pipeline};
use super::tar::TarReader;
use super::unpack::{UnpackError, UnpackOptions, sync, unpack_entries};

/// A packed snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// SHA-256 of the archive, in hexadecimal.
    pub sha256: String,
    /// Bytes of the archive.
    pub size: u64,
    /// Entries, and what was left out.
    pub report: PackReport,
}

/// Why a snapshot was not unpacked. The destination is to be thrown away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The archive could not be unpacked.
    #[error("failed to unpack the snapshot")]
    Unpack(#[source] UnpackError),
    /// The archive is not the one that was packed.
    #[error("the snapshot's sha256 is {actual}, not {expected}")]
    Digest {
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// The archive is longer or shorter than the one that was packed.
    #[error("the snapshot has {actual} bytes, not {expected}")]
    Size {
        /// What was asked for.
        expected: u64,
        /// What came; one more than asked for stands for all that is longer.
        actual: u64,
    },
    /// The files could not be written to disk for good.
    #[error("failed to sync the unpacked snapshot")]
    Sync(#[source] io::Error),
}

/// Packs `tree` to `out` (a pipe, a file) in bounded memory, hashing on a second thread.
///
/// # Errors
/// [`PackError`]; what was written is to be thrown away then.
pub fn pack_snapshot(
    tree: BorrowedFd<'_>,
    out: impl Write + Send,
    options: &PackOptions,
) -> Result<Packed, PackError> {
    let (report, sink) = pack_to(tree, HashingSink::new(out), options)?;
    let (sha256, size) = sink.finish().map_err(PackError::Write)?;
    Ok(Packed { sha256, size, report })
}

/// Unpacks a snapshot into `dest`, an empty directory, and returns only when the whole stream has had the expected
/// digest and size and the files are on disk.
///
/// # Errors
/// [`SnapshotError`]; the content of `dest` is to be thrown away then. A stream that is not the expected one is
/// reported as that, whatever else is wrong with it.
pub fn unpack_snapshot(
    tar: impl Read + Send,
    dest: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    options: &UnpackOptions,
    expected_sha256: &str,
    expected_size: u64,
) -> Result<UnpackReport, SnapshotError> {
    let (mut feeder, mut reader) = pipeline();
    let (unpacked, sha256, size) = std::thread::scope(|scope| {
        // One byte more than expected is enough to know, and the most that is read.
        scope.spawn(move || feed(&mut feeder, tar, expected_size.saturating_add(1)));
        let mut archive = TarReader::new(&mut reader, options.limits, options.allow_missing_end);
        let unpacked = unpack_entries(&mut archive, dest, lowers, options);
        if unpacked.is_err() {
            // Read to the end: whether this is the right stream is the better answer.
            let _ = io::copy(&mut reader, &mut io::sink());
        }
        let (sha256, size) = reader.finish();
        (unpacked, sha256, size)
    });
    if let Err(error) = &unpacked
        && error.io_error().is_some()
    {
        return unpacked.map_err(SnapshotError::Unpack);
    }
    if size != expected_size {
        return Err(SnapshotError::Size { expected: expected_size, actual: size });
    }
    if sha256 != expected_sha256 {
        return Err(SnapshotError::Digest { expected: expected_sha256.to_owned(), actual: sha256 });
    }
    let report = unpacked.map_err(SnapshotError::Unpack)?;
    sync(dest).map_err(SnapshotError::Sync)?;
    Ok(report)
}

fn feed(feeder: &mut ChunkFeeder, tar: impl Read, most: u64) {
    // When nobody reads any more, why is known on the other side.
    let _ = feeder.feed(tar.take(most));
}
