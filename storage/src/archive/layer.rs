//! Layers on their way into the store, hashed compressed and uncompressed in one pass.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};

use super::ArchiveError;
use crate::compression::{Compression, DETECT_LEN, Decoder, is_tar_header, sniff};
use crate::content::{ContentStore, copy};
use crate::digest::Digest;
use crate::error::{Result, StorageError};
use crate::image::descriptor::Descriptor;
use crate::image::media_type;
use crate::verify::Sha256Reader;

/// How many bytes pass between two reports of progress.
const REPORT: u64 = 1024 * 1024;

/// A layer in the store.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) compression: Compression,
    pub(super) diff_id: Digest,
}

impl Stored {
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::new(media_type::oci_layer(self.compression), self.digest.clone(), self.size)
    }
}

/// Stores `raw`, a tar that may be compressed, as it is.
///
/// `check` sees how the tar begins and ends and its diff_id, before the blob gets its name.
pub(super) fn store(
    store: &ContentStore,
    raw: impl Read,
    limit: u64,
    report: impl FnMut(u64),
    check: impl FnOnce(&Ends, &Digest) -> Result<()>,
) -> Result<Stored> {
    let failed = |e: io::Error| StorageError::io("read layer of", store.path(), e);
    let fill = |sink: &mut dyn Write| {
        let tee = Tee { inner: Counted::new(raw, u64::MAX, "layer", report), sink };
        let (compression, reader) = sniff(tee).map_err(failed)?;
        let plain = Decoder::new(reader, compression).map_err(failed)?;
        let plain = Counted::new(plain, limit, "uncompressed layer", |_| ());
        let (ends, diff_id) = drain(plain, compression).map_err(failed)?;
        Ok((compression, ends, diff_id))
    };
    let diff_id_of =
        |diff_id: &Option<Digest>, digest: &Digest| diff_id.clone().unwrap_or_else(|| digest.clone());
    let stored =
        store.put_with(fill, |(_, ends, diff_id), digest| check(ends, &diff_id_of(diff_id, digest)))?;
    let ((compression, _, diff_id), digest, size) = stored;
    Ok(Stored { diff_id: diff_id_of(&diff_id, &digest), digest, size, compression })
}

/// How a tar begins and ends.
#[derive(Debug, Default)]
pub(super) struct Ends {
    start: Vec<u8>,
    /// How many of its last bytes are zero.
    zeros: u64,
}

impl Ends {
    fn take(&mut self, bytes: &[u8]) {
        let room = DETECT_LEN.saturating_sub(self.start.len()).min(bytes.len());
        self.start.extend_from_slice(&bytes[..room]);
        let zeros = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        self.zeros = zeros as u64 + if zeros == bytes.len() { self.zeros } else { 0 };
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads all of a tar: its ends, and its digest unless that is the one of the blob, which is hashed anyway.
fn drain(mut plain: impl Read, compression: Compression) -> io::Result<(Ends, Option<Digest>)> {
    let mut ends = Ends::default();
    if compression == Compression::None {
        copy(&mut plain, &mut ends)?;
        return Ok((ends, None));
    }
    let mut hashed = Sha256Reader::new(plain);
    copy(&mut hashed, &mut ends)?;
    Ok((ends, Some(hashed.finish().0)))
}

/// For [`store`]: the diff_id must be the one promised.
pub(super) fn expect_diff_id(index: usize, expected: &Digest, actual: &Digest) -> Result<(), ArchiveError> {
    if expected == actual {
        return Ok(());
    }
    Err(ArchiveError::DiffId { index, expected: expected.clone(), actual: actual.clone() })
}

/// For [`store`]: it must look like a tar, and like a whole one. Nothing else says how long it has to be; two blocks of
/// zeros end it (POSIX pax, ustar Interchange Format).
pub(super) fn expect_tar(ends: &Ends) -> Result<(), ArchiveError> {
    if !is_tar_header(&ends.start) {
        return Err(ArchiveError::Unknown);
    }
    if ends.zeros < 1024 {
        return Err(ArchiveError::Truncated);
    }
    Ok(())
}

/// Writes what is read through it.
pub(super) struct Tee<'a, R> {
    pub(super) inner: R,
    pub(super) sink: &'a mut dyn Write,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.sink.write_all(&buf[..n])?;
        Ok(n)
    }
}

/// Counts what is read through it, up to a limit, and reports it now and then.
pub(super) struct Counted<R, F> {
    inner: R,
    count: u64,
    limit: u64,
    what: &'static str,
    report: F,
    reported: u64,
}

impl<R: Read, F: FnMut(u64)> Counted<R, F> {
    pub(super) fn new(inner: R, limit: u64, what: &'static str, report: F) -> Self {
        Self { inner, count: 0, limit, what, report, reported: 0 }
    }
}

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count += n as u64;
        if self.count > self.limit {
            let what = format!("an {} of more bytes", self.what);
            return Err(StorageError::LimitExceeded { what, limit: self.limit }.into());
        }
        if self.count - self.reported >= REPORT || (n == 0 && self.count > self.reported) {
            self.reported = self.count;
            (self.report)(self.count);
        }
        Ok(n)
    }
}
