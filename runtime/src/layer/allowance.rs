//! `Allowance`: how far a blob may expand, and how long it may take.
//!
//! Counts of bytes and entries alone let ten megabytes cost hours: a compressed layer of nothing but zeros, or of two million
//! names at the end of the longest paths.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
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

/// How large the blob is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Size<'a> {
    /// So many bytes.
    Known(u64),
    /// So many bytes of it have arrived.
    SoFar(&'a AtomicU64),
}

impl Size<'_> {
    fn bytes(self) -> u64 {
        match self {
            Self::Known(bytes) => bytes,
            Self::SoFar(arrived) => arrived.load(Ordering::Relaxed),
        }
    }
}

/// A stream that fails when it gives more, or is read longer, than it may.
#[derive(Debug)]
pub(super) struct Allowance<'a, R> {
    inner: R,
    given: u64,
    size: Size<'a>,
    ratio: u64,
    free: u64,
    began: Instant,
    time: Duration,
}

impl<'a, R: Read> Allowance<'a, R> {
    /// What comes out of a blob of `size`.
    pub(super) fn new(inner: R, size: Size<'a>, limits: &Limits) -> Self {
        let Limits { ratio, ratio_free: free, time, .. } = *limits;
        Self { inner, given: 0, size, ratio, free, began: Instant::now(), time }
    }
}

impl<R> Allowance<'_, R> {
    /// Bytes of the blob, and how many may come out of it.
    fn limit(&self) -> (u64, u64) {
        let size = self.size.bytes();
        (size, size.saturating_mul(self.ratio).max(self.free))
    }
}

impl<R: Read> Read for Allowance<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Whoever reads is the unpacker, a few chunks ahead of it: this is its time too.
        if self.began.elapsed() > self.time {
            return Err(io::Error::other(AllowanceError::Time { limit: self.time }));
        }
        let len = self.inner.read(buffer)?;
        self.given += len as u64;
        if self.given > self.free {
            let (size, limit) = self.limit();
            if self.given > limit {
                return Err(io::Error::other(AllowanceError::Ratio { size, limit }));
            }
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(size: u64, given: u64, limits: &Limits) -> Result<u64, AllowanceError> {
        let arrived = AtomicU64::new(size);
        for size in [Size::Known(size), Size::SoFar(&arrived)] {
            let mut stream = Allowance::new(io::repeat(0).take(given), size, limits);
            io::copy(&mut stream, &mut io::sink()).map_err(|error| AllowanceError::of(&error).unwrap())?;
        }
        let mut stream = Allowance::new(io::repeat(0).take(given), Size::Known(size), limits);
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
        let mut stream = Allowance::new(io::repeat(0), Size::Known(1 << 20), &limits);
        let mut buffer = [0; 16];
        stream.read_exact(&mut buffer).unwrap();
        std::thread::sleep(Duration::from_millis(40));
        let error = stream.read_exact(&mut buffer).unwrap_err();
        assert_eq!(AllowanceError::of(&error), Some(AllowanceError::Time { limit: limits.time }));
    }

    #[test]
    fn zeros_in_gzip_are_too_many_at_some_size() {
        // Deflate packs ten gibibytes of zeros into ten mebibytes.
        let allowed = Allowance::new(io::empty(), Size::Known(10 << 20), &Limits::default()).limit().1;
        assert!(allowed < 10 << 30, "{allowed}");
    }
}
