//! Readers that hash what passes through them, and one that refuses to end on anything but the promised bytes.
#![forbid(unsafe_code)]

use std::io::{self, Read};

use thiserror::Error;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::StorageError;

/// How the bytes differ from what was promised.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There are fewer bytes.
    #[error("it ends after {actual} of {expected} bytes")]
    TooShort {
        /// How many there must be.
        expected: u64,
        /// How many there are.
        actual: u64,
    },
    /// There are more bytes.
    #[error("it goes on after {expected} bytes")]
    TooLong {
        /// How many there must be.
        expected: u64,
    },
    /// The bytes are others.
    #[error("its digest is {actual} and not {expected}")]
    Digest {
        /// What it must be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
}

impl VerifyError {
    /// As the error of the object called `digest`.
    pub(crate) fn of(self, digest: &Digest) -> StorageError {
        StorageError::corrupt(format!("content {digest}"), self)
    }
}

/// Hashes (SHA-256) and counts what is read through it.
#[derive(Debug)]
pub struct Sha256Reader<R> {
    inner: R,
    hasher: Hasher,
    count: u64,
}

impl<R: Read> Sha256Reader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256), count: 0 }
    }

    /// How many bytes were read so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The digest and number of all bytes read, and the reader.
    pub fn finish(self) -> (Digest, u64, R) {
        (self.hasher.finish(), self.count, self.inner)
    }
}

impl<R: Read> Read for Sha256Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

/// Gives the bytes of `inner`, and an error in the place of the end unless their number and digest are as
/// promised.
///
/// The error is an [`io::ErrorKind::InvalidData`] that holds a [`StorageError::Corrupt`], whose source is a
/// [`VerifyError`]. It comes at the latest when the reader is read to its end: a consumer that stops before
/// must call [`VerifiedReader::finish`].
#[derive(Debug)]
pub struct VerifiedReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    size: u64,
    left: u64,
}

impl<R: Read> VerifiedReader<R> {
    /// Reads `size` bytes of digest `expected` from `inner`.
    pub fn new(inner: R, expected: Digest, size: u64) -> Self {
        let hasher = Some(Hasher::new(expected.algorithm()));
        Self { inner, hasher, expected, size, left: size }
    }

    /// Reads what is left, and checks.
    ///
    /// # Errors
    /// Those of the reader, and the one of a content that is not as promised.
    pub fn finish(mut self) -> io::Result<R> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.inner)
    }

    /// All promised bytes were read: no more may come, and the digest must fit.
    fn check_end(&mut self) -> io::Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        if read_some(&mut self.inner, &mut [0])? > 0 {
            return Err(VerifyError::TooLong { expected: self.size }.of(&self.expected).into());
        }
        let actual = hasher.finish();
        if actual == self.expected {
            return Ok(());
        }
        let expected = self.expected.clone();
        Err(VerifyError::Digest { expected, actual }.of(&self.expected).into())
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.check_end().map(|()| 0);
        }
        if buf.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let n = read_some(&mut self.inner, &mut buf[..most])?;
        if n == 0 {
            let (expected, actual) = (self.size, self.size - self.left);
            return Err(VerifyError::TooShort { expected, actual }.of(&self.expected).into());
        }
        self.left -= n as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..n]);
        }
        if self.left == 0 {
            self.check_end()?;
        }
        Ok(n)
    }
}

/// [`Read::read`] that goes on after an interruption.
fn read_some(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buf) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{StorageErrorKind, io_kind};

    fn read(body: &[u8], promised: &[u8], size: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        VerifiedReader::new(body, Digest::sha256(promised), size).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn the_promised_bytes_pass() {
        assert_eq!(read(b"hello", b"hello", 5).unwrap(), b"hello");
        assert_eq!(read(b"", b"", 0).unwrap(), b"");
    }

    #[test]
    fn others_do_not() {
        for (body, promised, size) in [
            (&b"hellO"[..], &b"hello"[..], 5),
            (b"hello\n", b"hello", 5),
            (b"hello\n", b"hello", 6),
            (b"hell", b"hello", 5),
            (b"hello", b"hello", 4),
            (b"hello", b"hello", 6),
            (b"", b"", 1),
            (b"x", b"", 0),
            (b"hello", b"hello", u64::MAX),
        ] {
            let error = read(body, promised, size).unwrap_err();
            assert_eq!(io_kind(&error), StorageErrorKind::IntegrityViolation, "{error}");
        }
    }

    #[test]
    fn an_endless_body_is_cut() {
        let mut reader = VerifiedReader::new(io::repeat(0), Digest::sha256(b"x"), 1000);
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
    }

    #[test]
    fn the_last_bytes_are_not_given_out_unchecked() {
        let mut reader = VerifiedReader::new(&b"hellO"[..], Digest::sha256(b"hello"), 5);
        assert!(reader.read(&mut [0; 5]).is_err());
    }

    #[test]
    fn finish_checks_what_was_not_read() {
        let reader = VerifiedReader::new(&b"hellO"[..], Digest::sha256(b"hello"), 5);
        assert!(reader.finish().is_err());
        let reader = VerifiedReader::new(&b"hello"[..], Digest::sha256(b"hello"), 5);
        assert!(reader.finish().is_ok());
    }

    #[test]
    fn sha256_reader_counts() {
        let mut reader = Sha256Reader::new(&b"hello"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        let (digest, count, _) = reader.finish();
        assert_eq!((digest, count), (Digest::sha256(b"hello"), 5));
    }
}
