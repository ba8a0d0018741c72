//! [`unpack_incoming`]: a layer into a directory while it arrives, before anybody knows what it is.
#![forbid(unsafe_code)]

use std::io::{BufReader, Read};
use std::os::fd::BorrowedFd;

use super::blob::{BlobError, Compression, feed_plain};
use super::report::UnpackReport;
use super::stream::pipeline;
use super::tar::TarReader;
use super::unpack::{UnpackError, UnpackOptions, sync, unpack_entries};

/// Bytes that are read from the stream at once: what a pipe may hold without privilege (`/proc/sys/fs/pipe-max-size`).
const BUFFER: usize = 1 << 20;

/// What a stream turned out to be.
#[derive(Debug)]
pub struct Incoming {
    /// What was made of it.
    pub report: UnpackReport,
    /// SHA-256 of the uncompressed tar, in hexadecimal.
    pub diff_id: String,
    /// How many zero bytes the tar ends with: two blocks of them end one that was not cut off.
    pub zeros: u64,
}

/// Unpacks `stream`, a tar under `compression`, into `dest`, an empty directory (see [`super::unpack()`]). The tar may have
/// at most `most` bytes. The files are on disk when this returns; whether they are the right ones is for the caller to
/// say, who knows what went into the stream.
///
/// # Errors
/// [`BlobError`]; the content of `dest` is to be thrown away then, and the stream may not have been read to its end.
pub fn unpack_incoming(
    stream: impl Read + Send,
    compression: Compression,
    most: u64,
    dest: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    options: &UnpackOptions,
) -> Result<Incoming, BlobError> {
    let (mut feeder, mut reader) = pipeline();
    let (unpacked, zeros, diff_id, size) = std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut input = BufReader::with_capacity(BUFFER, stream);
            feed_plain(&mut input, compression, most.saturating_add(1), &mut feeder)
        });
        let mut archive = TarReader::new(&mut reader, options.limits, options.allow_missing_end);
        let unpacked = unpack_entries(&mut archive, dest, lowers, options);
        let zeros = reader.zeros();
        let (diff_id, size) = reader.finish();
        (unpacked, zeros, diff_id, size)
    });
    if size > most {
        return Err(BlobError::TooLarge { limit: most });
    }
    let report = unpacked.map_err(|error| match error {
        UnpackError::Parse { source: super::ParseError::Io(error), .. } => BlobError::Decompress(error),
        other => BlobError::Unpack(other),
    })?;
    sync(dest).map_err(BlobError::Sync)?;
    Ok(Incoming { report, diff_id, zeros })
}
