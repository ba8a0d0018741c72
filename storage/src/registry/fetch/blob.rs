//! [`Job`]: the download of one blob.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderValue;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{FetchEvent, Progress, blocking, cancelled};
use crate::content::{Claim, ContentStore, Partial};
use crate::image::descriptor::Descriptor;
use crate::reference::Reference;
use crate::registry::client::{Client, Place, mismatch};
use crate::registry::error::{RegistryError, Result};
use crate::verify::VerifyError;

/// How many pieces may wait for the disk.
const QUEUE: usize = 8;
/// An attempt that got this many bytes further than any before was no failure.
const PROGRESS: u64 = 1 << 20;
/// How often progress is told, in bytes.
const STEP: u64 = 256 * 1024;
/// How long to wait between looks at what others do.
const POLL: Duration = Duration::from_millis(50);

/// A blob to get.
pub(super) struct Job {
    pub(super) client: Client,
    pub(super) store: Arc<ContentStore>,
    pub(super) repository: Reference,
    pub(super) blob: Descriptor,
    pub(super) progress: Progress,
}

/// A blob on its way to the disk: written and hashed by a thread of its own.
struct Sink {
    pieces: mpsc::Sender<Bytes>,
    writer: JoinHandle<crate::error::Result<Partial>>,
    done: u64,
}

impl Sink {
    fn new(mut partial: Partial) -> Self {
        let (pieces, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let done = partial.done();
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(piece) = queue.blocking_recv() {
                partial.write(&piece)?;
            }
            Ok(partial)
        });
        Self { pieces, writer, done }
    }

    /// False if the writer failed.
    async fn push(&mut self, piece: Bytes) -> bool {
        self.done += piece.len() as u64;
        self.pieces.send(piece).await.is_ok()
    }

    /// The file, with everything written.
    async fn close(self) -> Result<Partial> {
        drop(self.pieces);
        Ok(self.writer.await.map_err(|_| cancelled())??)
    }
}

impl Job {
    /// Gets the blob, and tells how many bytes came for it.
    pub(super) async fn run(self) -> Result<u64> {
        let (digest, size) = (self.blob.digest.clone(), self.blob.size);
        let mut waiting = false;
        let partial = loop {
            let wanted = digest.clone();
            match blocking(&self.store, move |store| store.claim(&wanted, size)).await? {
                Claim::Stored => {
                    (self.progress)(FetchEvent::Exists { digest, size });
                    return Ok(0);
                }
                Claim::Mine(partial) => break partial,
                Claim::Busy => {
                    if !std::mem::replace(&mut waiting, true) {
                        (self.progress)(FetchEvent::Waiting { digest: digest.clone() });
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
        };
        (self.progress)(FetchEvent::Queued { digest: digest.clone(), size });
        let _slot = self.client.slots.clone().acquire_owned().await.map_err(|_| cancelled())?;
        let transferred = self.download(partial).await?;
        (self.progress)(FetchEvent::Verified { digest, size });
        Ok(transferred)
    }

    async fn download(&self, mut partial: Partial) -> Result<u64> {
        // What was not read in one piece may be a mixture; then one more try from the beginning is fair.
        let mut pieced = partial.done() > 0;
        let (mut transferred, mut first) = (0, 0);
        let places = self.client.places(&self.repository)?;
        loop {
            let (back, requests) = match self.fill(partial, &places, &mut first, &mut transferred).await {
                Ok(filled) => filled,
                Err((error, back)) => return self.give_up(error, back).await,
            };
            let store = self.store.clone();
            let finished = tokio::task::spawn_blocking(move || (back.finish(&store), back)).await;
            let (result, back) = finished.map_err(|_| cancelled())?;
            let Err(error) = result else { return Ok(transferred) };
            let damaged = is_damage(&error.kind());
            let mixed = pieced || requests > 1;
            if !mixed {
                first += 1;
            }
            if !damaged || first == places.len() {
                return self.give_up(RegistryError::from(error), Some(back)).await;
            }
            pieced = false;
            partial = self.emptied(back).await?;
        }
    }

    /// Downloads what is missing, from one place after the other, beginning with the `first`, which is moved on.
    /// Also tells how many requests it took. With an error comes the file, unless that is what failed.
    async fn fill(
        &self,
        mut partial: Partial,
        places: &[Place],
        first: &mut usize,
        transferred: &mut u64,
    ) -> std::result::Result<(Partial, u32), (RegistryError, Option<Partial>)> {
        let mut requests = 0;
        let mut last = RegistryError::not_found(format!("blob {}", self.blob.digest));
        while let Some(place) = places.get(*first) {
            let (mut failures, mut best) = (0, partial.done());
            let mut etag = None;
            loop {
                if partial.done() == self.blob.size {
                    return Ok((partial, requests));
                }
                requests += 1;
                let (outcome, back, came) = self.attempt(place, partial, &mut etag).await;
                *transferred += came;
                let Some(back) = back else {
                    return Err((outcome.err().unwrap_or_else(cancelled), None));
                };
                partial = back;
                let Err(error) = outcome else { continue };
                // Not what came counts, but how far it got: some registries start over each time.
                if partial.done() >= best.saturating_add(PROGRESS) {
                    (failures, best) = (0, partial.done());
                }
                let more = failures < place.retries();
                let Some(pause) = self.client.transport.pause(&error, failures).filter(|_| more) else {
                    let last_place = *first + 1 == places.len();
                    if is_damage(&error.kind()) && !last_place {
                        partial = self.emptied(partial).await.map_err(|e| (e, None))?;
                    }
                    last = error;
                    *first += 1;
                    break;
                };
                failures += 1;
                let digest = self.blob.digest.clone();
                (self.progress)(FetchEvent::Retrying { digest, after: pause, error: error.to_string() });
                tokio::time::sleep(pause).await;
            }
        }
        Err((last, Some(partial)))
    }

    /// One request: how it ended, the file (unless writing failed), and how many bytes came.
    async fn attempt(
        &self,
        place: &Place,
        partial: Partial,
        etag: &mut Option<HeaderValue>,
    ) -> (Result<()>, Option<Partial>, u64) {
        let offset = partial.done();
        let mut stream = match self.client.blob_at(place, &self.blob, offset, etag.take()).await {
            Ok(stream) => stream,
            Err(error) => return (Err(error), Some(partial), 0),
        };
        let partial = match stream.start() {
            start if start == offset => partial,
            _ => match self.emptied(partial).await {
                Ok(partial) => partial,
                Err(error) => return (Err(error), None, 0),
            },
        };
        *etag = stream.etag();
        let left = self.blob.size - partial.done();
        if let Some(error) = stream.announced().and_then(|length| self.wrong_length(length, left)) {
            return (Err(error), Some(partial), 0);
        }
        let mut sink = Sink::new(partial);
        let start = sink.done;
        let outcome = self.pump(&mut stream, &mut sink).await;
        let came = sink.done - start;
        match sink.close().await {
            Ok(partial) => (outcome, Some(partial), came),
            Err(error) => (Err(error), None, came),
        }
    }

    /// A body that is announced to be of another size is another content.
    fn wrong_length(&self, announced: u64, left: u64) -> Option<RegistryError> {
        let (expected, have) = (self.blob.size, self.blob.size - left);
        let error = match announced.cmp(&left) {
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Less => {
                VerifyError::TooShort { expected, actual: have.saturating_add(announced) }
            }
            std::cmp::Ordering::Greater => VerifyError::TooLong { expected },
        };
        Some(mismatch(&format!("blob {}", self.blob.digest), error))
    }

    async fn pump(&self, stream: &mut crate::registry::BlobStream, sink: &mut Sink) -> Result<()> {
        let (digest, total) = (&self.blob.digest, self.blob.size);
        let mut told = sink.done;
        (self.progress)(FetchEvent::Downloading { digest: digest.clone(), done: told, total });
        while let Some(piece) = stream.chunk().await? {
            if sink.done + piece.len() as u64 > total {
                return Err(mismatch(&format!("blob {digest}"), VerifyError::TooLong { expected: total }));
            }
            if !sink.push(piece).await {
                // Closing the sink tells why.
                return Ok(());
            }
            if sink.done - told >= STEP || sink.done == total {
                told = sink.done;
                (self.progress)(FetchEvent::Downloading { digest: digest.clone(), done: told, total });
            }
        }
        if sink.done == total {
            return Ok(());
        }
        let source = VerifyError::TooShort { expected: total, actual: sink.done };
        Err(RegistryError::Unreachable { place: stream.place(), source: source.into() })
    }

    async fn emptied(&self, mut partial: Partial) -> Result<Partial> {
        blocking(&self.store, move |_| partial.restart().map(|()| partial)).await
    }

    /// What is wrong is removed; what is merely not complete waits for the next fetch.
    async fn give_up(&self, error: RegistryError, partial: Option<Partial>) -> Result<u64> {
        if let Some(partial) = partial.filter(|_| is_damage(&error.kind())) {
            blocking(&self.store, move |store| partial.discard(store)).await?;
        }
        Err(error)
    }
}

fn is_damage(kind: &crate::error::StorageErrorKind) -> bool {
    *kind == crate::error::StorageErrorKind::IntegrityViolation
}
