//! [`compress`]: a stream into frames, several at once.
#![forbid(unsafe_code)]

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

use super::table::{MAX_FRAMES, SeekTable};
use super::{FRAME, HASH_LOG, WINDOW_LOG};
use crate::backend::ByteStream;
use crate::error::StorageError;
use crate::pipe::{Outlet, Pool, fill, pieces};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) level: i32,
    /// Frames that are compressed at the same time. Each needs about twice [`FRAME`] of memory.
    pub(crate) threads: usize,
}

/// What is used again and again: fresh memory costs about as much as compressing.
#[derive(Clone, Default)]
struct Free {
    compressors: Arc<Mutex<Vec<Compressor<'static>>>>,
    contents: Pool,
    outputs: Pool,
}

/// What happens next, in the order of the content.
enum Step {
    Frame(JoinHandle<io::Result<Packed>>),
    End,
}

/// A frame that is compressed.
struct Packed {
    bytes: Vec<u8>,
    len: u32,
}

/// `body` in frames, with a seek table at the end. A body that fails ends it with the body's error. Dropping the stream
/// stops all of it.
pub(crate) fn compress(body: ByteStream, settings: Settings) -> ByteStream {
    let free = Free::default();
    let (outlet, stream) = pieces(free.outputs.clone());
    // One more than this waits in each of the two tasks.
    let (begun, under_way) = channel(settings.threads.saturating_sub(1).max(1));
    let filling = tokio::spawn(fill_frames(body, settings.level, free, begun));
    let writing = tokio::spawn(async move {
        let result = write_frames(under_way, &outlet).await;
        outlet.end(result).await;
    });
    stream.stopping([filling.abort_handle(), writing.abort_handle()])
}

/// Begins to compress frame after frame, until `body` ends or fails or nobody wants more.
async fn fill_frames(mut body: ByteStream, level: i32, free: Free, begun: Sender<io::Result<Step>>) {
    loop {
        let mut content = free.contents.take();
        let step = match fill(&mut body, &mut content, FRAME).await {
            Ok(()) if content.is_empty() => Ok(Step::End),
            Ok(()) => {
                let free = free.clone();
                Ok(Step::Frame(spawn_blocking(move || compress_frame(content, level, &free))))
            }
            Err(error) => Err(error),
        };
        let last = !matches!(step, Ok(Step::Frame(_)));
        if begun.send(step).await.is_err() || last {
            return;
        }
    }
}

fn compress_frame(content: Vec<u8>, level: i32, free: &Free) -> io::Result<Packed> {
    let idle = free.compressors.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut compressor = match idle {
        Some(compressor) => compressor,
        None => compressor_of(level)?,
    };
    let mut bytes = free.outputs.take();
    bytes.reserve_exact(compress_bound(content.len()));
    compressor.compress_to_buffer(&content, &mut bytes)?;
    let len = u32::try_from(content.len()).expect("a frame has 4 MiB");
    free.compressors.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
    free.contents.put(content);
    Ok(Packed { bytes, len })
}

fn compressor_of(level: i32) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    if level == 1 {
        compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        compressor.set_parameter(CParameter::HashLog(HASH_LOG))?;
    }
    Ok(compressor)
}

/// Puts the frames into the stream as they come, and the table after them.
async fn write_frames(mut under_way: Receiver<io::Result<Step>>, outlet: &Outlet) -> io::Result<()> {
    let mut table = SeekTable::default();
    loop {
        match under_way.recv().await {
            Some(Ok(Step::Frame(frame))) => {
                let frame = frame.await.unwrap_or_else(|error| Err(panicked(error)))?;
                note(&mut table, &frame)?;
                if !outlet.put(frame.bytes).await {
                    return Ok(());
                }
            }
            Some(Ok(Step::End)) => break,
            Some(Err(error)) => return Err(error),
            None => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the source of the stream is gone"));
            }
        }
    }
    outlet.put(table.to_bytes()).await;
    Ok(())
}

fn note(table: &mut SeekTable, frame: &Packed) -> io::Result<()> {
    if table.frames().len() >= MAX_FRAMES as usize {
        let (what, limit) = ("an archive in frames".to_owned(), u64::from(MAX_FRAMES) * FRAME as u64);
        return Err(StorageError::LimitExceeded { what, limit }.into());
    }
    // RFC 8878, 3.1.1: a frame with a checksum ends in the low four bytes of the content's XXH64.
    let checksum = frame.bytes.last_chunk().copied().expect("a frame has at least its checksum");
    let packed = u32::try_from(frame.bytes.len()).expect("a frame has little more than its content");
    table.push(packed, frame.len, u32::from_le_bytes(checksum));
    Ok(())
}

/// A panic is passed on; the other reason is that the runtime ends.
fn panicked(error: JoinError) -> io::Error {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => StorageError::Cancelled { what: "compressing" }.into(),
    }
}
