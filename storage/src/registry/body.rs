//! Bodies: what is sent, and a stream of what comes.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::Stream;
use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderValue};
use reqwest::{Body, RequestBuilder};
use tokio::sync::mpsc;

use super::error::{RegistryError, Result, shown};
use super::transport::{Reply, Transport};

/// How much is read from a file at once.
const CHUNK: usize = 256 * 1024;

/// The body of a request; it can be sent more than once.
#[derive(Debug, Clone)]
pub(super) enum CallBody {
    None,
    Bytes(Bytes),
    File { file: Arc<File>, offset: u64, length: u64, sent: Sent },
}

/// How much of a body was taken by the connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<AtomicU64>);

impl Sent {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl CallBody {
    /// Puts the body into a request.
    pub(super) fn attach(&self, request: RequestBuilder) -> (RequestBuilder, Sent) {
        match self {
            Self::None => (request, Sent::default()),
            Self::Bytes(bytes) => {
                let sent = Sent::default();
                let stream = BytesStream { rest: bytes.clone(), sent: sent.clone() };
                (request.header(CONTENT_LENGTH, bytes.len()).body(Body::wrap_stream(stream)), sent)
            }
            Self::File { file, offset, length, sent } => {
                sent.0.store(0, Ordering::Relaxed);
                let stream = FileStream::new(file.clone(), *offset, *length, sent.clone());
                let request = request.header(CONTENT_LENGTH, *length).body(Body::wrap_stream(stream));
                (request, sent.clone())
            }
        }
    }
}

/// Bytes, piece by piece, so that it shows whether they move.
struct BytesStream {
    rest: Bytes,
    sent: Sent,
}

impl Stream for BytesStream {
    type Item = io::Result<Bytes>;
    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let most = self.rest.len().min(CHUNK);
        let piece = self.rest.split_to(most);
        self.sent.0.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
    }
}

/// A part of a file, read ahead by a thread that may block.
struct FileStream {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    sent: Sent,
}

impl FileStream {
    fn new(file: Arc<File>, mut offset: u64, mut left: u64, sent: Sent) -> Self {
        let (sender, chunks) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            while left > 0 {
                let mut chunk = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
                let read = file.read_exact_at(&mut chunk, offset);
                (offset, left) = (offset + chunk.len() as u64, left - chunk.len() as u64);
                let failed = read.is_err();
                // Nobody listens any more when the request was given up.
                if sender.blocking_send(read.map(|()| chunk.into())).is_err() || failed {
                    return;
                }
            }
        });
        Self { chunks, sent }
    }
}

impl Stream for FileStream {
    type Item = io::Result<Bytes>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.chunks.poll_recv(cx);
        if let Poll::Ready(Some(Ok(chunk))) = &next {
            self.sent.0.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        next
    }
}

/// The content of a blob on its way here. Nothing of it is verified yet.
#[derive(Debug)]
pub struct BlobStream {
    reply: Reply,
    transport: Arc<Transport>,
    /// Where in the blob the first byte belongs: the offset that was asked for, or 0.
    start: u64,
    window: Window,
}

/// Bytes since the last look.
#[derive(Debug)]
struct Window {
    /// Time spent waiting for the other side; that for the disk does not count.
    waited: Duration,
    bytes: u64,
}

impl Window {
    fn new() -> Self {
        Self { waited: Duration::ZERO, bytes: 0 }
    }

    /// Counts; false if a whole window passed with less than `rate` bytes per second.
    fn add(&mut self, bytes: u64, waited: Duration, rate: u64, length: Duration) -> bool {
        self.bytes += bytes;
        self.waited += waited;
        if self.waited < length {
            return true;
        }
        let enough = self.bytes >= rate.saturating_mul(length.as_secs().max(1));
        *self = Self::new();
        enough
    }
}

impl BlobStream {
    pub(super) fn new(transport: Arc<Transport>, reply: Reply, start: u64) -> Self {
        Self { reply, transport, start, window: Window::new() }
    }

    /// Where in the blob the first byte belongs: what was asked for, or 0 if the registry starts over.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes are announced, if any number is.
    pub(super) fn announced(&self) -> Option<u64> {
        self.reply.response.content_length()
    }

    /// A strong validator of this content (RFC 9110, section 8.8.3), for `If-Range`.
    pub(super) fn etag(&self) -> Option<HeaderValue> {
        let tag = self.reply.response.headers().get(ETAG)?;
        tag.as_bytes().starts_with(b"\"").then(|| tag.clone())
    }

    /// Where it comes from, for messages.
    pub(super) fn place(&self) -> String {
        shown(&self.reply.url)
    }

    /// The next bytes; `None` at the end of the body, which may be too early.
    ///
    /// # Errors
    /// `Unreachable` if the connection breaks; `Stalled` if it is slower than allowed.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let options = &self.transport.options;
        let started = Instant::now();
        let next = tokio::time::timeout(options.idle_timeout, self.reply.response.chunk()).await;
        let next = next.map_err(|_| self.transport.stalled(&self.reply.url, options.idle_timeout))?;
        let next = next.map_err(|e| RegistryError::exchange(&self.reply.url, e))?;
        let count = next.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if next.is_some() && !self.window.add(count, started.elapsed(), options.min_rate, options.rate_window)
        {
            return Err(self.transport.stalled(&self.reply.url, options.rate_window));
        }
        Ok(next)
    }
}
