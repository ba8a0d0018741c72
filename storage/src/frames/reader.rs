//! [`Framed`]: an archive in frames, read in any order.
#![forbid(unsafe_code)]

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use zstd::zstd_safe::find_frame_compressed_size;

use super::table::{FOOTER, Footer, Frame, SeekTable, TableError};
use crate::backend::{RandomAccess, blocking};
use crate::error::{Result, StorageError};

/// Why a frame is not what the seek table says.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The archive ends inside of it.
    #[error("the archive ends in the frame at byte {at}")]
    Truncated {
        /// Where it begins.
        at: u64,
    },
    /// There is no frame of this size there.
    #[error("there is no frame of {packed} bytes at byte {at}")]
    NotThere {
        /// Where it begins.
        at: u64,
        /// How long it is to be.
        packed: u32,
    },
    /// Its content is longer or shorter.
    #[error("the frame at byte {at} does not hold {len} bytes")]
    Length {
        /// Where it begins.
        at: u64,
        /// Bytes that it is to hold.
        len: u32,
    },
    /// Its checksum is another one.
    #[error("the frame at byte {at} has another checksum than the seek table says")]
    Checksum {
        /// Where it begins.
        at: u64,
    },
    /// It is damaged: most likely the checksum does not fit the content.
    #[error("the frame at byte {at} is damaged")]
    Damaged {
        /// Where it begins.
        at: u64,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
}

/// The content of an archive in frames.
///
/// Every frame that is touched is verified: its length and the checksum of its content, against itself and against the
/// seek table. That finds damage; only the digest of the whole archive, which the manifest has, finds intent.
#[derive(Debug)]
pub(crate) struct Framed {
    archive: Arc<dyn RandomAccess>,
    what: String,
    table: SeekTable,
    /// The last one that was read, by where it begins.
    last: Mutex<Option<(u64, Bytes)>>,
}

impl Framed {
    /// Reads the seek table of `archive`, called `what` in errors; `None` when it has none, or none with checksums.
    pub(crate) async fn open(archive: Arc<dyn RandomAccess>, what: &str) -> Result<Option<Self>> {
        let size = archive.len();
        let Some(at) = size.checked_sub(FOOTER as u64) else { return Ok(None) };
        let bytes = read(&*archive, at, FOOTER).await?;
        let corrupt = |error: TableError| StorageError::corrupt(what, error);
        let Some(bytes) = bytes.first_chunk() else { return Ok(None) };
        let Some(footer) = Footer::parse(bytes).map_err(corrupt)? else { return Ok(None) };
        let len = footer.table_len();
        let Some(at) = size.checked_sub(len as u64) else { return Err(corrupt(TableError::Frame)) };
        let table = SeekTable::parse(footer, &read(&*archive, at, len).await?, size).map_err(corrupt)?;
        let verifiable = table.frames().iter().all(|frame| frame.checksum.is_some());
        Ok(verifiable.then(|| Self { archive, what: what.to_owned(), table, last: Mutex::default() }))
    }

    async fn content(&self, frame: Frame) -> Result<Bytes> {
        if let Some((at, content)) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner)
            && *at == frame.at
        {
            return Ok(content.clone());
        }
        let packed = read(&*self.archive, frame.at, frame.packed as usize).await?;
        let what = self.what.clone();
        let content = blocking("decompressing", move || {
            decompress(frame, &packed).map_err(|error| StorageError::corrupt(what, error))
        })
        .await?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((frame.at, content.clone()));
        Ok(content)
    }
}

#[async_trait]
impl RandomAccess for Framed {
    fn len(&self) -> u64 {
        self.table.content_len()
    }

    async fn read_at(&self, offset: u64, most: usize) -> Result<Bytes> {
        let Some(frame) = self.table.frame_at(offset) else { return Ok(Bytes::new()) };
        let content = self.content(frame).await?;
        // Inside: the frame was looked up by the offset, and the content has its length.
        let from = (offset - frame.offset) as usize;
        Ok(content.slice(from..content.len().min(from.saturating_add(most))))
    }
}

/// All of `len` bytes at `at`, or fewer at the end of the archive.
async fn read(archive: &dyn RandomAccess, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    while out.len() < len {
        let some = archive.read_at(at + out.len() as u64, len - out.len()).await?;
        if some.is_empty() {
            break;
        }
        out.extend_from_slice(&some);
    }
    Ok(out)
}

fn decompress(frame: Frame, packed: &[u8]) -> Result<Bytes, FrameError> {
    let (at, len) = (frame.at, frame.len);
    if packed.len() != frame.packed as usize {
        return Err(FrameError::Truncated { at });
    }
    if find_frame_compressed_size(packed) != Ok(packed.len()) {
        return Err(FrameError::NotThere { at, packed: frame.packed });
    }
    // A frame without a checksum has other bytes there, and is refused too.
    let checksum = packed.last_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    if checksum != frame.checksum || packed.get(4).is_none_or(|descriptor| descriptor & 4 == 0) {
        return Err(FrameError::Checksum { at });
    }
    let damaged = |source| FrameError::Damaged { at, source };
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(damaged)?;
    let content = decompressor.decompress(packed, len as usize).map_err(damaged)?;
    if content.len() == len as usize { Ok(content.into()) } else { Err(FrameError::Length { at, len }) }
}
