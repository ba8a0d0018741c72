//! Reading one file of a snapshot: out of the archives and the image's layers, with nothing restored and nothing mounted.
#![forbid(unsafe_code)]

mod layers;
mod reader;
mod resolve;

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::runtime::Handle;
use vesselrt_storage::ByteStream;
use vesselrt_storage::pipe::generate;

use self::layers::Layers;
use self::resolve::resolve;
use super::ManagerInner;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;

/// How a file of a snapshot is read. The setters return the changed value, to be chained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SnapshotRead {
    /// Read every archive that has a say to its end, and compare it with the manifest's checksum.
    ///
    /// Without it only the parts that are needed are read, and the checksums in them verified, which finds damage but
    /// not what somebody changed on purpose. An archive without a seek table is read to its end in any case.
    pub verify: bool,
}

impl SnapshotRead {
    /// Sets whether every archive is compared with its checksum.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }
}

/// A file of a snapshot, read from its beginning. Its end comes only if all of it was there and verified as asked;
/// everything else is an error.
pub struct SnapshotFile {
    size: u64,
    mode: u32,
    stream: ByteStream,
}

impl SnapshotFile {
    /// Bytes, holes counted.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.mode
    }
}

impl AsyncRead for SnapshotFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(cx, buf)
    }
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotFile")
            .field("size", &self.size)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// See [`Manager::open_snapshot_file`](super::Manager::open_snapshot_file).
pub(super) async fn open(
    manager: &Arc<ManagerInner>,
    vessel: &str,
    snapshot: &str,
    path: &Path,
    read: SnapshotRead,
) -> Result<SnapshotFile> {
    let manifest = manager.load_manifest(vessel).await?;
    if manifest.snapshot(snapshot).is_none() {
        return Err(Error::not_found(format!("snapshot not found: {snapshot}")));
    }
    let whole = Path::new(&manifest.work_dir).join(path);
    let (manager, snapshot, handle) = (Arc::clone(manager), snapshot.to_owned(), Handle::current());
    blocking(move || {
        let mut layers = Layers::new(manager, handle, &manifest, &snapshot, read)?;
        let (index, inside, file) = resolve(&mut layers, whole.as_os_str().as_bytes())?;
        let (size, mode) = (file.size, file.mode);
        let stream = generate(move |out| layers.copy(index, &inside, &file, out));
        Ok(SnapshotFile { size, mode, stream })
    })
    .await
}

/// See [`Vessel::read_snapshot_file`](crate::Vessel::read_snapshot_file).
pub(crate) async fn read(
    manager: &Arc<ManagerInner>,
    vessel: &str,
    snapshot: &str,
    path: &Path,
) -> Result<Vec<u8>> {
    let mut file = open(manager, vessel, snapshot, path, SnapshotRead::default()).await?;
    let limit = manager.config.limits.read_file_bytes;
    if file.size > limit {
        let message = format!("file of {} bytes, more than {limit}: {}", file.size, path.display());
        return Err(Error::new(ErrorKind::LimitExceeded, message));
    }
    let mut bytes = Vec::new();
    let read = file.read_to_end(&mut bytes).await;
    read.map_err(|e| Error::io(format!("failed to read {} of snapshot {snapshot}", path.display()), e))?;
    Ok(bytes)
}
