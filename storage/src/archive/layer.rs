//! Layers on their way into the store, hashed compressed and uncompressed in one pass.
#![forbid(unsafe_code)]

use std::io::{self, BufReader, Read, Write};

use super::ArchiveError;
use super::tap::{self, LayerTap, TapLayer};
use crate::compression::{Compression, DETECT_LEN, Decoder, is_tar_header, sniff};
use crate::content::{ContentStore, copy};
use crate::digest::Digest;
use crate::error::{Result, StorageError};
use crate::image::descriptor::Descriptor;
use crate::image::media_type;
use crate::verify::Sha256Reader;

/// How many bytes pass between two reports of progress.
const REPORT: u64 = 1024 * 1024;
/// How much of a compressed layer is read at once, in bytes.
const BUFFER: usize = 256 * 1024;

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

/// A layer on its way in.
pub(super) struct Source<'a, R, P> {
    /// The tar, which may be compressed.
    pub(super) raw: R,
    /// The most bytes that it may have uncompressed.
    pub(super) limit: u64,
    /// Hears how many bytes were read.
    pub(super) report: P,
    /// Who else wants it, and what is said of it.
    pub(super) tap: Option<(&'a mut dyn LayerTap, usize, Option<&'a Digest>)>,
}

/// Stores a layer as it is; `None` when it was tapped and the tap failed: nothing is stored then.
///
/// `check` sees how the tar begins and ends and its diff_id, before the blob gets its name.
pub(super) fn store<R: Read, P: FnMut(u64)>(
    store: &ContentStore,
    source: Source<'_, R, P>,
    check: impl FnOnce(&Ends, &Digest) -> Result<()>,
) -> Result<Option<Stored>> {
    let failed = |e: io::Error| StorageError::io("read layer of", store.path(), e);
    let Source { raw, limit, report, tap } = source;
    let mut untapped = false;
    let fill = |sink: &mut dyn Write| {
        let raw = Counted::new(raw, u64::MAX, "layer", report);
        let (compression, mut reader) = sniff(raw).map_err(failed)?;
        let stream =
            tap.and_then(|(tap, index, diff_id)| tap.begin(&TapLayer { index, diff_id, compression, limit }));
        if let Some(stream) = stream {
            let Some(tapped) = tap::copy(&mut reader, sink, stream).map_err(failed)? else {
                untapped = true;
                return Err(StorageError::Cancelled { what: "unpacking a layer" });
            };
            return Ok((compression, tapped.ends(), Some(tapped.diff_id)));
        }
        let tee = BufReader::with_capacity(BUFFER, Tee { inner: reader, sink });
        let plain = Decoder::new(tee, compression).map_err(failed)?;
        let plain = Counted::new(plain, limit, "uncompressed layer", |_| ());
        let (ends, diff_id) = drain(plain, compression).map_err(failed)?;
        Ok((compression, ends, diff_id))
    };
    let diff_id_of =
        |diff_id: &Option<Digest>, digest: &Digest| diff_id.clone().unwrap_or_else(|| digest.clone());
    let stored = store.put_with(fill, |(_, ends, diff_id), digest| check(ends, &diff_id_of(diff_id, digest)));
    let ((compression, _, diff_id), digest, size) = match stored {
        Err(StorageError::Cancelled { .. }) if untapped => return Ok(None),
        stored => stored?,
    };
    Ok(Some(Stored { diff_id: diff_id_of(&diff_id, &digest), digest, size, compression }))
}

/// How a tar begins and ends.
#[derive(Debug, Default)]
pub(super) struct Ends {
    start: Vec<u8>,
    /// How many of its last bytes are zero.
    zeros: u64,
    /// That it begins as a tar is known otherwise.
    is_tar: bool,
}

impl Ends {
    /// What somebody else found.
    pub(super) fn new(is_tar: bool, zeros: u64) -> Self {
        Self { start: Vec::new(), zeros, is_tar }
    }

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
    if !ends.is_tar && !is_tar_header(&ends.start) {
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
