//! Bytes between the async world and blocking code: bounded channels with an explicit end.
//!
//! A producer that disappears without saying `Piece::End` is an error to the consumer: truncation is never
//! taken for the end. A consumer that disappears is an error to the producer: nothing hangs.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::backend::ByteStream;

/// Size of a chunk. With [`QUEUE`] chunks in flight, a stage holds about a megabyte.
const CHUNK: usize = 256 * 1024;
const QUEUE: usize = 4;

/// Buffers that are used again: fresh memory costs more than what is done with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// An empty buffer.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives a buffer back.
    pub(crate) fn put(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        if buffer.capacity() > 0 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

/// What passes through a channel.
enum Piece {
    Data(Vec<u8>),
    End,
}

type Sender = mpsc::Sender<io::Result<Piece>>;

/// A channel, its sending end for [`pump`] and its receiving end for blocking code.
pub(crate) fn to_blocking() -> (AsyncEnd, BlockingReader) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let pool = Pool::default();
    let end = AsyncEnd { sender, pool: pool.clone() };
    (end, BlockingReader { receiver, chunk: Chunk { pool, ..Chunk::default() } })
}

/// A stream, and where its pieces come from. Buffers that were read go to `pool`.
pub(crate) fn pieces(pool: Pool) -> (Outlet, Transformed) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Outlet(sender), Transformed { receiver, chunk: Chunk { pool, ..Chunk::default() }, makers: Vec::new() })
}

/// Where an async producer puts whole pieces.
pub(crate) struct Outlet(Sender);

impl Outlet {
    /// False when nobody reads any more.
    pub(crate) async fn put(&self, piece: Vec<u8>) -> bool {
        self.0.send(Ok(Piece::Data(piece))).await.is_ok()
    }

    /// Says how it ended.
    pub(crate) async fn end(self, result: io::Result<()>) {
        // A reader that is gone does not want to know.
        let _ = self.0.send(result.map(|()| Piece::End)).await;
    }
}

/// Where an async producer sends to.
pub(crate) struct AsyncEnd {
    sender: Sender,
    /// Where what was read comes back.
    pool: Pool,
}

/// Sends all of `body`, and then its end or its error. Returns early when nobody reads any more.
pub(crate) async fn pump(mut body: ByteStream, to: AsyncEnd) {
    loop {
        let mut data = to.pool.take();
        let piece = match fill(&mut body, &mut data, CHUNK).await {
            Ok(()) if data.is_empty() => Ok(Piece::End),
            Ok(()) => Ok(Piece::Data(data)),
            Err(error) => Err(error),
        };
        let last = !matches!(piece, Ok(Piece::Data(_)));
        if to.sender.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// Reads `len` bytes, fewer only if the body ends: small reads must not become small writes.
pub(crate) async fn fill(body: &mut ByteStream, data: &mut Vec<u8>, len: usize) -> io::Result<()> {
    data.reserve_exact(len.saturating_sub(data.len()));
    while data.len() < len {
        let room = (len - data.len()) as u64;
        if body.as_mut().take(room).read_buf(data).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// What is left of the chunk at hand.
#[derive(Default)]
struct Chunk {
    data: Vec<u8>,
    at: usize,
    ended: bool,
    /// Where what was read goes.
    pool: Pool,
}

impl Chunk {
    fn rest(&self) -> &[u8] {
        &self.data[self.at..]
    }

    /// Takes what the channel gave; `None` is a producer that vanished.
    fn refill(&mut self, piece: Option<io::Result<Piece>>) -> io::Result<()> {
        match piece {
            Some(Ok(Piece::Data(data))) => {
                self.at = 0;
                self.pool.put(std::mem::replace(&mut self.data, data));
            }
            Some(Ok(Piece::End)) => self.ended = true,
            Some(Err(error)) => return Err(error),
            None => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the source of the stream is gone"));
            }
        }
        Ok(())
    }
}

/// The receiving end, for blocking code.
pub(crate) struct BlockingReader {
    receiver: mpsc::Receiver<io::Result<Piece>>,
    chunk: Chunk,
}

impl BlockingReader {
    /// The next bytes as they came, not copied; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.chunk.at = self.chunk.data.len();
        while self.chunk.rest().is_empty() && !self.chunk.ended {
            let piece = self.receiver.blocking_recv();
            self.chunk.refill(piece)?;
        }
        Ok(Some(self.chunk.rest()).filter(|rest| !rest.is_empty()))
    }
}

impl Read for BlockingReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.rest().is_empty() && !self.chunk.ended {
            let piece = self.receiver.blocking_recv();
            self.chunk.refill(piece)?;
        }
        let n = self.chunk.rest().len().min(buf.len());
        buf[..n].copy_from_slice(&self.chunk.rest()[..n]);
        self.chunk.at += n;
        Ok(n)
    }
}

/// The sending end, for blocking code.
pub(crate) struct BlockingWriter {
    sender: Sender,
    pending: Vec<u8>,
    pool: Pool,
}

impl BlockingWriter {
    fn send(&mut self, piece: io::Result<Piece>) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader of the stream is gone");
        self.sender.blocking_send(piece).map_err(gone)
    }

    /// Says how it ended.
    fn end(mut self, result: io::Result<()>) {
        let ended = result.and_then(|()| self.flush());
        // A reader that is gone does not want to know.
        let _ = self.send(ended.map(|()| Piece::End));
    }
}

impl Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.pending, self.pool.take());
        self.send(Ok(Piece::Data(data)))
    }
}

/// `body` after `transform`, which runs on a blocking thread and sees every error of `body`. Dropping the
/// stream stops all of it.
pub(crate) fn transform(
    body: ByteStream,
    transform: impl FnOnce(BlockingReader, &mut BlockingWriter) -> io::Result<()> + Send + 'static,
) -> ByteStream {
    let (input, reader) = to_blocking();
    let pump = tokio::spawn(pump(body, input)).abort_handle();
    let stream = written(move |writer| transform(reader, writer));
    stream.stopping([pump])
}

/// What `write` writes on a blocking thread, as a stream: it ends well only if `write` does. Once the stream is dropped,
/// writing fails with a broken pipe.
pub fn generate(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> ByteStream {
    written(move |writer| write(writer)).stopping([])
}

fn written(write: impl FnOnce(&mut BlockingWriter) -> io::Result<()> + Send + 'static) -> Transformed {
    let pool = Pool::default();
    let (Outlet(sender), stream) = pieces(pool.clone());
    tokio::task::spawn_blocking(move || {
        let mut writer = BlockingWriter { sender, pending: Vec::with_capacity(CHUNK), pool };
        let result = write(&mut writer);
        writer.end(result);
    });
    stream
}

/// The receiving end, for async code.
pub(crate) struct Transformed {
    receiver: mpsc::Receiver<io::Result<Piece>>,
    chunk: Chunk,
    /// What is stopped when nobody reads any more.
    makers: Vec<AbortHandle>,
}

impl Transformed {
    /// Ready to be read; `makers` are stopped when it is dropped.
    pub(crate) fn stopping(mut self, makers: impl IntoIterator<Item = AbortHandle>) -> ByteStream {
        self.makers.extend(makers);
        Box::pin(self)
    }
}

impl AsyncRead for Transformed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.chunk.rest().is_empty() && !self.chunk.ended {
            let piece = ready!(self.receiver.poll_recv(cx));
            self.chunk.refill(piece)?;
        }
        let n = self.chunk.rest().len().min(buf.remaining());
        buf.put_slice(&self.chunk.rest()[..n]);
        self.chunk.at += n;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Transformed {
    fn drop(&mut self) {
        self.makers.iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn copy(mut reader: BlockingReader, writer: &mut BlockingWriter) -> io::Result<()> {
        io::copy(&mut reader, writer).map(|_| ())
    }

    async fn collect(mut stream: ByteStream) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out));
        read.await.expect("no hang").map(|_| out)
    }

    #[tokio::test]
    async fn bytes_come_through_in_order() {
        let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let stream = transform(Box::pin(io::Cursor::new(body.clone())), copy);
        assert_eq!(collect(stream).await.unwrap(), body);
        assert!(collect(transform(Box::pin(tokio::io::empty()), copy)).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_error_of_the_body_comes_out() {
        let body = AsyncReadExt::chain(&b"abc"[..], Failing);
        let error = collect(transform(Box::pin(body), copy)).await.unwrap_err();
        assert_eq!(error.to_string(), "boom");
    }

    #[tokio::test]
    async fn a_panic_in_the_middle_is_an_error_not_an_end() {
        let stream = transform(Box::pin(&b"abc"[..]), |_, _| panic!("expected by the test"));
        assert_eq!(collect(stream).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn dropping_the_stream_stops_the_transform() {
        let (done, wait) = tokio::sync::oneshot::channel();
        let stream = transform(Box::pin(tokio::io::repeat(7)), move |mut reader, writer| {
            let result = io::copy(&mut reader, writer);
            let _ = done.send(result.is_err());
            Ok(())
        });
        drop(stream);
        assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap().unwrap());
    }

    struct Failing;
    impl AsyncRead for Failing {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("boom")))
        }
    }
}
