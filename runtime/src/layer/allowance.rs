//! [`Allowance`]: how far a blob may expand, and how long it may take.
//!
//! Counts of bytes and entries alone let ten megabytes cost hours: a compressed layer of nothing but zeros, or of two million
//! names at the end of the longest paths.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::limits::Limits;

/// Why a blob was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllowanceError {
    /// It expands to more than [`Limits::ratio`] allows.
    #[error("a blob of {size} bytes expands to more than {limit}")]
    Ratio {
        /// Bytes of the blob.
        size: u64,
        /// Bytes that it may become.
        limit: u64,
    },
    /// It takes longer than [`Limits::time`].
    #[error("unpacking takes longer than {} seconds", limit.as_secs())]
    Time {
        /// The limit.
        limit: Duration,
    },
}

impl AllowanceError {
    /// The reason that an [`Allowance`] gave, if `error` comes from one.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// A stream that fails when it gives more, or is read longer, than it may.
#[derive(Debug)]
pub(super) struct Allowance<R> {
    inner: R,
    given: u64,
    size: u64,
    limit: u64,
    began: Instant,
    time: Duration,
}

impl<R: Read> Allowance<R> {
    /// What comes out of a blob of `size` bytes.
    pub(super) fn new(inner: R, size: u64, limits: &Limits) -> Self {
        let limit = size.saturating_mul(limits.ratio).max(limits.ratio_free);
        Self { inner, given: 0, size, limit, began: Instant::now(), time: limits.time }
    }
}

impl<R: Read> Read for Allowance<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Whoever reads is the unpacker, a few chunks ahead of it: this is its time too.
        if self.began.elapsed() > self.time {
            return Err(io::Error::other(AllowanceError::Time { limit: self.time }));
        }
        let len = self.inner.read(buffer)?;
        self.given += len as u64;
        if self.given > self.limit {
            return Err(io::Error::other(AllowanceError::Ratio { size: self.size, limit: self.limit }));
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(size: u64, given: u64, limits: &Limits) -> Result<u64, AllowanceError> {
        let mut stream = Allowance::new(io::repeat(0).take(given), size, limits);
        io::copy(&mut stream, &mut io::sink()).map_err(|error| AllowanceError::of(&error).unwrap())
    }

    #[test]
    fn a_blob_may_expand_so_far_and_no_further() {
        let limits = Limits { ratio: 10, ratio_free: 5000, ..Limits::default() };
        for (size, most) in [(0, 5000), (100, 5000), (500, 5000), (501, 5010), (100_000, 1_000_000)] {
            assert_eq!(read(size, most, &limits), Ok(most));
            assert_eq!(read(size, most + 1, &limits), Err(AllowanceError::Ratio { size, limit: most }));
        }
        assert_eq!(read(u64::MAX, 10_000, &limits), Ok(10_000));
    }

    #[test]
    fn a_stream_may_take_so_long_and_no_longer() {
        let limits = Limits { time: Duration::from_millis(30), ..Limits::default() };
        let mut stream = Allowance::new(io::repeat(0), 1 << 20, &limits);
        let mut buffer = [0; 16];
        stream.read_exact(&mut buffer).unwrap();
        std::thread::sleep(Duration::from_millis(40));
        let error = stream.read_exact(&mut buffer).unwrap_err();
        assert_eq!(AllowanceError::of(&error), Some(AllowanceError::Time { limit: limits.time }));
    }

    #[test]
    fn zeros_in_gzip_are_too_many_at_some_size() {
        // Deflate packs ten gibibytes of zeros into ten mebibytes.
        let allowed = Allowance::new(io::empty(), 10 << 20, &Limits::default()).limit;
        assert!(allowed < 10 << 30, "{allowed}");
    }
}
