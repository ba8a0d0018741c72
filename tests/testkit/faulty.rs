//! [`FaultyStorage`]: a storage that fails at the call it is told.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::io::{AsyncRead, ReadBuf};
use vesselrt::{ArchiveUsage, ByteStream, Storage, StorageError};

/// How the chosen call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Before it does anything.
    Before,
    /// It does all of it, and fails nonetheless: an answer that was lost.
    After,
    /// A body that is stored or loaded breaks off after some bytes.
    Midway,
}

/// Another storage, one call of which fails as if the disk were full. Calls are counted from 1.
#[derive(Debug)]
pub(crate) struct FaultyStorage {
    inner: Arc<dyn Storage>,
    failure: Failure,
    /// Calls until the one that fails.
    left: AtomicU64,
}

impl FaultyStorage {
    pub(crate) fn new(inner: Arc<dyn Storage>, failure: Failure, call: u64) -> Self {
        Self { inner, failure, left: AtomicU64::new(call) }
    }

    /// The call that fails has been made.
    pub(crate) fn has_failed(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn is_now(&self) -> bool {
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        before == Ok(1)
    }

    async fn call<T>(&self, work: impl Future<Output = Result<T, StorageError>>) -> Result<T, StorageError> {
        match (self.is_now(), self.failure) {
            (false, _) => work.await,
            (true, Failure::After) => work.await.and(Err(full())),
            (true, _) => Err(full()),
        }
    }
}

fn full() -> StorageError {
    StorageError::Io {
        op: "write",
        path: "storage".into(),
        source: io::Error::from(io::ErrorKind::StorageFull),
    }
}

/// Ends with an error after this many bytes.
struct Broken(ByteStream, usize);

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.1 == 0 {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        let mut some = vec![0; self.1.min(buf.remaining())];
        let mut part = ReadBuf::new(&mut some);
        let polled = self.0.as_mut().poll_read(cx, &mut part);
        let read = part.filled().len();
        buf.put_slice(part.filled());
        self.1 -= read;
        polled
    }
}

/// Bytes of a body that get through before it breaks off.
const SOME: usize = 700;

#[async_trait]
impl Storage for FaultyStorage {
    async fn save_vessel_manifest(&self, vessel: &str, manifest: &[u8]) -> Result<(), StorageError> {
        self.call(self.inner.save_vessel_manifest(vessel, manifest)).await
    }

    async fn load_vessel_manifest(&self, vessel: &str) -> Result<Vec<u8>, StorageError> {
        self.call(self.inner.load_vessel_manifest(vessel)).await
    }

    async fn load_image(&self, image: &str) -> Result<ByteStream, StorageError> {
        self.call(self.inner.load_image(image)).await
    }

    async fn save_snapshot(&self, vessel: &str, id: &str, body: ByteStream) -> Result<(), StorageError> {
        if self.failure != Failure::Midway {
            return self.call(self.inner.save_snapshot(vessel, id, body)).await;
        }
        let body = if self.is_now() { Box::pin(Broken(body, SOME)) as ByteStream } else { body };
        self.inner.save_snapshot(vessel, id, body).await
    }

    async fn load_snapshot(&self, vessel: &str, id: &str) -> Result<ByteStream, StorageError> {
        if self.failure != Failure::Midway {
            return self.call(self.inner.load_snapshot(vessel, id)).await;
        }
        let body = self.inner.load_snapshot(vessel, id).await?;
        Ok(if self.is_now() { Box::pin(Broken(body, SOME)) as ByteStream } else { body })
    }

    async fn delete_snapshot(&self, vessel: &str, id: &str) -> Result<(), StorageError> {
        self.call(self.inner.delete_snapshot(vessel, id)).await
    }

    async fn delete_vessel(&self, vessel: &str) -> Result<(), StorageError> {
        self.call(self.inner.delete_vessel(vessel)).await
    }

    async fn list_vessels(&self) -> Result<Vec<String>, StorageError> {
        self.call(self.inner.list_vessels()).await
    }

    async fn copy_snapshot(&self, from: &str, id: &str, to: &str) -> Result<(), StorageError> {
        self.call(self.inner.copy_snapshot(from, id, to)).await
    }

    async fn list_archives(&self, vessel: &str) -> Result<Option<Vec<ArchiveUsage>>, StorageError> {
        self.call(self.inner.list_archives(vessel)).await
    }
}
