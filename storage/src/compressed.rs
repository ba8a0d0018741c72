//! [`CompressedStorage`]: snapshots as zstd, over any [`Storage`].
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;

use crate::backend::{ArchiveUsage, ByteStream, RandomAccess, Storage, VesselFork};
use crate::compression::{Compression, DETECT_LEN, Decoder};
use crate::error::{Result, StorageError};
use crate::frames::reader::Framed;
use crate::frames::writer::{Settings, compress};
use crate::local::LocalStorage;
use crate::pipe::transform;

/// The level that snapshots are compressed with unless told otherwise: the fastest that zstd calls normal.
pub const DEFAULT_LEVEL: i32 = 1;

/// Frames beyond this that are compressed at the same time take memory (about 10 MiB each) and bring little.
const MAX_THREADS: usize = 8;

/// Compresses the snapshots of another storage; manifests pass through.
///
/// Snapshots are saved as zstd, in [frames](crate::frames) that are compressed on all cores: the same snapshot is always
/// the same bytes, and any part of it can be read without the rest. Snapshots and images are loaded as plain tars,
/// whatever the inner storage holds: zstd, gzip or a plain tar, told apart by content, so that a storage may hold all
/// three.
#[derive(Debug, Clone)]
pub struct CompressedStorage<S> {
    inner: S,
    settings: Settings,
}

impl CompressedStorage<LocalStorage> {
    /// A [`LocalStorage`] in `dir`, compressed.
    ///
    /// # Errors
    /// Those of [`LocalStorage::new`].
    pub fn local(dir: impl AsRef<Path>) -> Result<Self> {
        LocalStorage::new(dir).map(Self::new)
    }
}

impl<S: Storage> CompressedStorage<S> {
    /// Compresses what goes to `inner`, with [`DEFAULT_LEVEL`].
    pub fn new(inner: S) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        Self { inner, settings: Settings { level: DEFAULT_LEVEL, threads } }
    }

    /// Another compression level.
    ///
    /// # Errors
    /// `Invalid` for a level that zstd does not have.
    pub fn with_level(self, level: i32) -> Result<Self> {
        check_level(level)?;
        Ok(Self { settings: Settings { level, ..self.settings }, ..self })
    }

    /// Another number of frames (4 MiB each) to be compressed at the same time, at least 1; by default as many as there
    /// are processors, at most 8. The result does not depend on it.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { settings: Settings { threads: threads.max(1), ..self.settings }, ..self }
    }

    /// The storage underneath.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

/// Whether zstd has this level: 1 to 22, 0 for its own default, and negative ones, which are faster.
///
/// # Errors
/// `Invalid`.
pub fn check_level(level: i32) -> Result<()> {
    let known = zstd::compression_level_range();
    if known.contains(&level) {
        return Ok(());
    }
    let why = format!("it is not between {} and {}", known.start(), known.end());
    Err(StorageError::invalid(format!("zstd level {level}"), why))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Storage> Storage for CompressedStorage<S> {
    async fn save_vessel_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()> {
        self.inner.save_vessel_manifest(vessel_id, manifest).await
    }

    async fn save_volatile_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()> {
        self.inner.save_volatile_manifest(vessel_id, manifest).await
    }

    async fn load_vessel_manifest(&self, vessel_id: &str) -> Result<Vec<u8>> {
        self.inner.load_vessel_manifest(vessel_id).await
    }

    async fn load_image(&self, image_ref: &str) -> Result<ByteStream> {
        decoded(self.inner.load_image(image_ref).await?, image_ref).await
    }

    async fn save_snapshot(&self, vessel_id: &str, snapshot_id: &str, body: ByteStream) -> Result<()> {
        self.inner.save_snapshot(vessel_id, snapshot_id, compress(body, self.settings)).await
    }

    async fn save_snapshot_at(
        &self,
        vessel_id: &str,
        snapshot_id: &str,
        body: ByteStream,
        level: i32,
    ) -> Result<()> {
        check_level(level)?;
        let settings = Settings { level, ..self.settings };
        self.inner.save_snapshot(vessel_id, snapshot_id, compress(body, settings)).await
    }

    async fn load_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<ByteStream> {
        decoded(self.inner.load_snapshot(vessel_id, snapshot_id).await?, snapshot_id).await
    }

    async fn open_snapshot(
        &self,
        vessel_id: &str,
        snapshot_id: &str,
    ) -> Result<Option<Arc<dyn RandomAccess>>> {
        let Some(archive) = self.inner.open_snapshot(vessel_id, snapshot_id).await? else { return Ok(None) };
        match Compression::detect(&archive.read_at(0, DETECT_LEN).await?) {
            Compression::None => Ok(Some(archive)),
            Compression::Gzip => Ok(None),
            Compression::Zstd => {
                let framed = Framed::open(archive, &format!("snapshot {snapshot_id}")).await?;
                Ok(framed.map(|framed| Arc::new(framed) as _))
            }
        }
    }

    async fn delete_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<()> {
        self.inner.delete_snapshot(vessel_id, snapshot_id).await
    }

    async fn delete_vessel(&self, vessel_id: &str) -> Result<()> {
        self.inner.delete_vessel(vessel_id).await
    }

    async fn delete_volatile_vessel(&self, vessel_id: &str) -> Result<()> {
        self.inner.delete_volatile_vessel(vessel_id).await
    }

    async fn list_vessels(&self) -> Result<Vec<String>> {
        self.inner.list_vessels().await
    }

    async fn copy_snapshot(&self, from_vessel: &str, snapshot_id: &str, to_vessel: &str) -> Result<()> {
        self.inner.copy_snapshot(from_vessel, snapshot_id, to_vessel).await
    }

    async fn fork_vessel(&self, from_vessel: &str, snapshots: &[String], forks: &[VesselFork]) -> Result<()> {
        self.inner.fork_vessel(from_vessel, snapshots, forks).await
    }

    async fn list_archives(&self, vessel_id: &str) -> Result<Option<Vec<ArchiveUsage>>> {
        self.inner.list_archives(vessel_id).await
    }
}

/// `stream` as the plain tar it holds.
async fn decoded(mut stream: ByteStream, what: &str) -> Result<ByteStream> {
    let mut start = Vec::with_capacity(DETECT_LEN);
    let peeked = stream.as_mut().take(DETECT_LEN as u64).read_to_end(&mut start).await;
    peeked.map_err(|e| StorageError::io("read the start of", what, e))?;
    let compression = Compression::detect(&start);
    let whole: ByteStream = Box::pin(io::Cursor::new(start).chain(stream));
    if compression == Compression::None {
        return Ok(whole);
    }
    Ok(transform(whole, move |reader, writer| {
        let mut decoder = Decoder::new(io::BufReader::with_capacity(128 * 1024, reader), compression)?;
        io::copy(&mut decoder, writer).map(|_| ())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{StorageErrorKind, io_kind};
    use crate::memory::{Fault, MemoryStorage};
    use std::io::Write;
    use std::time::Duration;

    async fn bytes(mut stream: ByteStream) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        stream.read_to_end(&mut out).await.map(|_| out)
    }

    fn body(bytes: &[u8]) -> ByteStream {
        Box::pin(io::Cursor::new(bytes.to_vec()))
    }

    #[tokio::test]
    async fn snapshots_are_zstd_with_a_checksum_inside() {
        let storage = CompressedStorage::new(MemoryStorage::new());
        let tar = vec![b'x'; 1_000_000];
        storage.save_snapshot("v", "s", body(&tar)).await.unwrap();
        let raw = bytes(storage.inner().load_snapshot("v", "s").await.unwrap()).await.unwrap();
        assert!(raw.len() < 10_000 && raw.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
        // Bit 2 of the frame header descriptor is the content checksum flag (RFC 8878, 3.1.1.1.1).
        assert_eq!(raw[4] & 4, 4);
        assert_eq!(bytes(storage.load_snapshot("v", "s").await.unwrap()).await.unwrap(), tar);
    }

    #[tokio::test]
    async fn gzip_and_plain_are_read_too() {
        let inner = MemoryStorage::new();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"gzipped").unwrap();
        let zipped = encoder.finish().unwrap();
        inner.put_image("img", &zipped).unwrap();
        inner.save_snapshot("v", "g", body(&zipped)).await.unwrap();
        inner.save_snapshot("v", "p", body(b"plain")).await.unwrap();
        let storage = CompressedStorage::new(inner);
        assert_eq!(bytes(storage.load_snapshot("v", "g").await.unwrap()).await.unwrap(), b"gzipped");
        assert_eq!(bytes(storage.load_snapshot("v", "p").await.unwrap()).await.unwrap(), b"plain");
        assert_eq!(bytes(storage.load_image("img").await.unwrap()).await.unwrap(), b"gzipped");
    }

    #[tokio::test]
    async fn damage_is_an_error_of_the_stream() {
        let storage = CompressedStorage::new(MemoryStorage::new());
        storage.save_snapshot("v", "s", body(&[5; 50_000])).await.unwrap();
        let raw = bytes(storage.inner().load_snapshot("v", "s").await.unwrap()).await.unwrap();
        storage.inner().save_snapshot("v", "s", body(&raw[..raw.len() - 3])).await.unwrap();
        let error = bytes(storage.load_snapshot("v", "s").await.unwrap()).await.unwrap_err();
        assert_eq!(io_kind(&error), StorageErrorKind::IntegrityViolation, "{error}");
    }

    #[tokio::test]
    async fn an_inner_storage_that_fails_early_does_not_hang_the_save() {
        for fault in [Fault::OnCall(1), Fault::AfterBytes(100)] {
            let storage = CompressedStorage::new(MemoryStorage::new().with_fault(fault));
            // Endless and incompressible: only the inner error can end it.
            let body: ByteStream = Box::pin(tokio::fs::File::open("/dev/urandom").await.unwrap());
            let save = storage.save_snapshot("v", "s", body);
            let error =
                tokio::time::timeout(Duration::from_secs(20), save).await.expect("no hang").unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::Unavailable, "{fault:?}: {error}");
        }
    }

    #[tokio::test]
    async fn levels_are_checked() {
        let storage = CompressedStorage::new(MemoryStorage::new());
        assert!(storage.clone().with_level(1000).is_err());
        let storage = storage.with_level(9).unwrap();
        storage.save_snapshot("v", "s", body(b"nine")).await.unwrap();
        assert_eq!(bytes(storage.load_snapshot("v", "s").await.unwrap()).await.unwrap(), b"nine");
        let refused = storage.save_snapshot_at("v", "t", body(b"t"), 1000).await.unwrap_err();
        assert_eq!(refused.kind(), StorageErrorKind::InvalidArgument);
        let tar: Vec<u8> = (0..200_000u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        let mut sizes = Vec::new();
        for level in [-50, 1, 19] {
            storage.save_snapshot_at("v", "t", body(&tar), level).await.unwrap();
            sizes.push(bytes(storage.inner().load_snapshot("v", "t").await.unwrap()).await.unwrap().len());
            assert_eq!(bytes(storage.load_snapshot("v", "t").await.unwrap()).await.unwrap(), tar);
        }
        assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
    }

    #[tokio::test]
    async fn the_local_suffix_says_zstd() {
        let tmp = tempfile::tempdir().unwrap();
        let storage = CompressedStorage::local(tmp.path()).unwrap();
        storage.save_snapshot("v", "s", body(b"x")).await.unwrap();
        assert!(tmp.path().join("vessels/v/snapshots/s.tar.zst").is_file());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
        #[test]
        fn load_is_the_inverse_of_save(tar in proptest::collection::vec(proptest::num::u8::ANY, 0..5000), times in 0usize..200) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let storage = CompressedStorage::new(MemoryStorage::new());
                let tar = tar.repeat(times);
                storage.save_snapshot("v", "s", body(&tar)).await.unwrap();
                assert_eq!(bytes(storage.load_snapshot("v", "s").await.unwrap()).await.unwrap(), tar);
            });
        }
    }
}
