//! [`Tar`]: the archive of a snapshot as a tar that can be skipped in.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Deref;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::io::SyncIoBridge;
use vesselrt_runtime::layer::find::Source;
use vesselrt_storage::verify::VerifiedReader;
use vesselrt_storage::{ByteStream, Digest, RandomAccess};

/// Bytes that are asked for at once; whoever decompresses gives what it has of it.
const CHUNK: usize = 1 << 20;

/// The archive of a snapshot, from its beginning. For threads that may block.
pub(super) enum Tar {
    /// Read where it is needed. What is read was verified by its frame.
    Parts(Parts),
    /// Read from the beginning; [`Tar::finish`] verifies all of it.
    Whole { reader: BufReader<VerifiedReader<SyncIoBridge<ByteStream>>>, at: u64 },
}

/// An archive that is read in any order.
pub(super) struct Parts {
    archive: Arc<dyn RandomAccess>,
    handle: Handle,
    /// Where `chunk` begins.
    start: u64,
    chunk: Box<dyn Bytes>,
    used: usize,
}

/// Bytes that somebody else owns.
trait Bytes: Deref<Target = [u8]> + Send {}
impl<T: Deref<Target = [u8]> + Send> Bytes for T {}

impl Tar {
    pub(super) fn parts(archive: Arc<dyn RandomAccess>, handle: Handle) -> Self {
        Self::Parts(Parts { archive, handle, start: 0, chunk: Box::new(Vec::new()), used: 0 })
    }

    pub(super) fn whole(stream: ByteStream, handle: Handle, digest: Digest, size: u64) -> Self {
        let bridge = SyncIoBridge::new_with_handle(stream, handle);
        let verified = VerifiedReader::new(bridge, digest, size);
        Self::Whole { reader: BufReader::with_capacity(CHUNK, verified), at: 0 }
    }

    /// Verifies what has not been verified yet.
    ///
    /// # Errors
    /// Those of reading; `InvalidData` for another archive than the one that was saved.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Parts(_) => Ok(()),
            Self::Whole { mut reader, .. } => io::copy(&mut reader, &mut io::sink()).map(|_| ()),
        }
    }
}

impl Parts {
    fn position(&self) -> u64 {
        self.start + self.used as u64
    }

    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.used == self.chunk.len() {
            let at = self.position();
            let chunk = self.handle.block_on(self.archive.read_at(at, CHUNK)).map_err(io::Error::from)?;
            (self.start, self.used, self.chunk) = (at, 0, Box::new(chunk));
        }
        Ok(&self.chunk[self.used..])
    }

    fn skip(&mut self, len: u64) {
        let left = self.chunk.len() - self.used;
        match usize::try_from(len) {
            Ok(len) if len <= left => self.used += len,
            _ => {
                self.start = self.position().saturating_add(len);
                (self.chunk, self.used) = (Box::new(Vec::new()), 0);
            }
        }
    }
}

impl Read for Tar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let some = self.fill_buf()?;
        let len = some.len().min(buffer.len());
        buffer[..len].copy_from_slice(&some[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Tar {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Parts(parts) => parts.fill(),
            Self::Whole { reader, .. } => reader.fill_buf(),
        }
    }

    fn consume(&mut self, len: usize) {
        match self {
            Self::Parts(parts) => parts.used += len,
            Self::Whole { reader, at } => {
                reader.consume(len);
                *at += len as u64;
            }
        }
    }
}

impl Source for Tar {
    fn position(&self) -> u64 {
        match self {
            Self::Parts(parts) => parts.position(),
            Self::Whole { at, .. } => *at,
        }
    }

    fn skip(&mut self, mut len: u64) -> io::Result<()> {
        if let Self::Parts(parts) = self {
            parts.skip(len);
            return Ok(());
        }
        while len > 0 {
            let step = self.fill_buf()?.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            if step == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.consume(step);
            len -= step as u64;
        }
        Ok(())
    }
}
