//! [`unpack_incoming`]: a layer into a directory while it arrives, before anybody knows what it is.
#![forbid(unsafe_code)]

use std::io::{self, BufReader, Read};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use super::allowance::{Allowance, Size};
use super::blob::{BlobError, Compression, plain};
use super::report::UnpackReport;
use super::stream::pipeline;
use super::tar::TarReader;
use super::unpack::{UnpackOptions, sync, unpack_entries};

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

/// The stream, counted.
struct Arriving<'a, R> {
    stream: R,
    arrived: &'a AtomicU64,
}

impl<R: Read> Read for Arriving<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(buffer)?;
        self.arrived.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
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
    let (feeder, mut reader) = pipeline();
    let arrived = AtomicU64::new(0);
    let (unpacked, zeros, diff_id, size) = std::thread::scope(|scope| {
        scope.spawn(|| -> io::Result<()> {
            let mut feeder = feeder;
            let mut input = BufReader::with_capacity(BUFFER, Arriving { stream, arrived: &arrived });
            let tar = plain(&mut input, compression)?.take(most.saturating_add(1));
            feeder.feed(Allowance::new(tar, Size::SoFar(&arrived), &options.limits));
            Ok(())
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
    let report = unpacked.map_err(BlobError::of)?;
    sync(dest).map_err(BlobError::Sync)?;
    Ok(Incoming { report, diff_id, zeros })
}
