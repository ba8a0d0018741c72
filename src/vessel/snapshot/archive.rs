//! The archive of a snapshot on its way into the storage.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use vesselrt_runtime::shim::protocol::Packed;

use crate::error::{Error, ErrorKind, Result};
use crate::manager::ManagerInner;
use crate::offload::blocking;
use crate::vessel::pump;

/// Streams what `pack` writes to its pipe into the storage, as the archive of a snapshot, compressed at `level` or as ever.
pub(crate) async fn stream_archive(
    manager: &ManagerInner,
    vessel: &str,
    snapshot: &str,
    level: Option<i32>,
    pack: impl FnOnce(OwnedFd) -> Result<Packed> + Send + 'static,
) -> Result<Packed> {
    let (ours, theirs) = pump::output_pipe()?;
    let (body, tell, cut) = Whole::new(ours);
    let pack = blocking(move || {
        let packed = pack(theirs);
        // Nobody listens when the storage has given up.
        let _ = tell.send(packed.as_ref().ok().map(|packed| packed.size));
        packed
    });
    let save = async {
        match level {
            Some(level) => manager.storage.save_snapshot_at(vessel, snapshot, Box::pin(body), level).await,
            None => manager.storage.save_snapshot(vessel, snapshot, Box::pin(body)).await,
        }
    };
    let (packed, saved) = tokio::join!(pack, save);
    match (packed, saved) {
        (Ok(packed), Ok(())) if packed.size <= manager.config.limits.snapshot_bytes => Ok(packed),
        (Ok(_), Ok(())) => Err(Error::new(ErrorKind::LimitExceeded, "the snapshot is larger than allowed")),
        // The storage failed only because the packer had: its reason counts. Otherwise the packer met a closed pipe.
        (Err(error), saved) if saved.is_ok() || cut.load(Ordering::Relaxed) => Err(error),
        (_, Err(error)) => {
            Err(Error::storage(format!("failed to save the archive of snapshot {snapshot}"), error))
        }
        (Err(error), Ok(())) => Err(error),
    }
}

/// The archive on its way to the storage: it ends well only if the packer says that it is whole, so that half of one is
/// never taken for all of it.
pub(crate) struct Whole {
    pub(super) pipe: Receiver,
    pub(super) read: u64,
    pub(super) verdict: Option<oneshot::Receiver<Option<u64>>>,
    /// Set when it did not end well.
    pub(super) cut: Arc<AtomicBool>,
}

impl Whole {
    /// What comes through `pipe`; where to tell its size, if it is whole; whether it did not end well.
    pub(crate) fn new(pipe: Receiver) -> (Self, oneshot::Sender<Option<u64>>, Arc<AtomicBool>) {
        let (tell, verdict) = oneshot::channel();
        let cut = Arc::new(AtomicBool::new(false));
        (Self { pipe, read: 0, verdict: Some(verdict), cut: Arc::clone(&cut) }, tell, cut)
    }
}

impl AsyncRead for Whole {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let full = buf.remaining() == 0;
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.read += read as u64;
        if read > 0 || full {
            return Poll::Ready(Ok(()));
        }
        let Some(verdict) = self.verdict.as_mut() else { return Poll::Ready(Ok(())) };
        let size = ready!(Pin::new(verdict).poll(cx)).unwrap_or(None);
        if size == Some(self.read) {
            self.verdict = None;
            return Poll::Ready(Ok(()));
        }
        self.cut.store(true, Ordering::Relaxed);
        // Again and again, should somebody read on.
        self.verdict = Some(oneshot::channel().1);
        Poll::Ready(Err(std::io::Error::other("the archive of the snapshot was not packed to its end")))
    }
}
