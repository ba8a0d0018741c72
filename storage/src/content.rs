//! [`ContentStore`]: images by digest, as an OCI image layout that other tools can read.
//!
//! ```text
//! oci-layout                   the marker of a layout
//! index.json                   references → manifests, replaced atomically under a lock
//! blobs/sha256/HEX             content, verified before it gets its name
//! .ingest/                     content on its way in
//! .lock .index.lock            flock(2)
//! ```
//! A blob that nothing refers to yet is kept from [`ContentStore::prune_blobs`] by a [`Lease`]. Source:
//! image-spec, image-layout.md.
#![forbid(unsafe_code)]

mod index;
mod lock;
mod partial;
mod prune;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub use self::index::ImageEntry;
pub use self::lock::Lease;
use self::lock::Mode;
pub(crate) use self::partial::{Claim, Partial};
pub use self::prune::Pruned;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::dir::Dir;
use crate::dir::stage::{Staged, replace, sweep};
use crate::error::{Result, StorageError};
use crate::image::MAX_JSON_BYTES;
use crate::json;
use crate::verify::VerifiedReader;

const LAYOUT_FILE: &str = "oci-layout";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const BLOB_LOCK: &str = ".lock";

/// A directory of images. All methods block; other processes may use the same directory at the same time.
#[derive(Debug)]
pub struct ContentStore {
    path: PathBuf,
    root: Dir,
    blobs: Dir,
    ingest: Dir,
}

impl ContentStore {
    /// Opens the store in `dir`, making it if needed.
    ///
    /// # Errors
    /// `Io`; `Corrupt` if `dir` is something else; `Unsupported` for another version of the layout.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().to_path_buf();
        let root = Dir::create(&path)?;
        match root.read_file(LAYOUT_FILE, MAX_JSON_BYTES)? {
            Some(marker) => check_layout_marker(&marker, &root.path_of(LAYOUT_FILE))?,
            None => replace(&root, LAYOUT_FILE, LAYOUT)?,
        }
        let blobs = root.make_subdir("blobs")?.make_subdir(Algorithm::Sha256.as_str())?;
        let ingest = root.make_subdir(".ingest")?;
        let store = Self { path, root, blobs, ingest };
        store.init_index()?;
        Ok(store)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps every blob of the store from being pruned for as long as the lease lives: take one before the
    /// first [`ContentStore::put_blob`] of an image, and keep it until its reference is set.
    ///
    /// # Errors
    /// `Busy` while others prune for longer than half a minute; `Io`.
    pub fn lease(&self) -> Result<Lease> {
        lock::lock(&self.root, BLOB_LOCK, Mode::Shared)
    }

    /// Stores all of `reader` and returns its digest and size. Idempotent: `Ok` means that the content is
    /// there, durably.
    ///
    /// With `expected`, content of another digest or size is refused, and `reader` is not read at all if the
    /// store has it already. Nothing is visible before it is whole and verified. Only SHA-256 names blobs.
    ///
    /// # Errors
    /// `Corrupt` for content that is not as expected; `Unsupported` for an expected digest of another kind;
    /// `Io`, also for errors of `reader`.
    pub fn put_blob(&self, reader: impl Read, expected: Option<(Digest, u64)>) -> Result<(Digest, u64)> {
        match expected {
            None => self.ingest(reader),
            Some((digest, size)) => {
                if !self.has_blob(&digest, size)? {
                    self.ingest(VerifiedReader::new(reader, digest.clone(), size))?;
                }
                Ok((digest, size))
            }
        }
    }

    /// Whether the store has a blob of this digest and size. One of another size is damaged, and does not
    /// count.
    ///
    /// # Errors
    /// `Unsupported` for a digest that is not SHA-256; `Corrupt` if the blob is not a regular file; `Io`.
    pub fn has_blob(&self, digest: &Digest, size: u64) -> Result<bool> {
        let found = self.blobs.open_file(file_name(digest)?)?;
        Ok(found.is_some_and(|(_, actual)| actual == size))
    }

    /// Opens a blob for reading and tells its size. The content is not verified: read it through a
    /// [`VerifiedReader`] where it has to be.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` for a digest that is not SHA-256; `Corrupt` if it is not a regular file; `Io`.
    pub fn open_blob(&self, digest: &Digest) -> Result<(File, u64)> {
        let found = self.blobs.open_file(file_name(digest)?)?;
        found.ok_or_else(|| StorageError::not_found(format!("blob {digest}")))
    }

    /// [`ContentStore::open_blob`], verified against digest and `size` while it is read.
    ///
    /// # Errors
    /// Those of [`ContentStore::open_blob`]; `Corrupt` for another size.
    pub fn read_blob(&self, digest: &Digest, size: u64) -> Result<VerifiedReader<File>> {
        let (file, actual) = self.open_blob(digest)?;
        if actual == size {
            return Ok(VerifiedReader::new(file, digest.clone(), size));
        }
        let error = format!("it has {actual} bytes and not {size}");
        Err(StorageError::corrupt(format!("blob {digest}"), error))
    }

    /// Reads a JSON document: verified, at most 4 MiB, nested at most [`json::MAX_DEPTH`] deep, without
    /// duplicate keys.
    ///
    /// # Errors
    /// Those of [`ContentStore::read_blob`]; `LimitExceeded`; `Corrupt` with a [`json::JsonError`].
    pub fn read_json_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        if size > MAX_JSON_BYTES {
            let what = format!("a document of {size} bytes, {digest}");
            return Err(StorageError::LimitExceeded { what, limit: MAX_JSON_BYTES });
        }
        let mut bytes = Vec::new();
        let read = self.read_blob(digest, size)?.read_to_end(&mut bytes);
        read.map_err(|e| StorageError::io("read", self.blob_path(digest), e))?;
        json::check(&bytes, MAX_JSON_BYTES)
            .map_err(|e| StorageError::corrupt(format!("blob {digest}"), e))?;
        Ok(bytes)
    }

    /// An unnamed scratch file in the store's file system, gone when it is closed.
    ///
    /// # Errors
    /// `Io`.
    pub fn scratch(&self) -> Result<File> {
        let opened = rustix::fs::openat(
            &self.ingest,
            ".",
            rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        );
        match opened {
            Ok(fd) => Ok(File::from(fd)),
            // Not every file system has O_TMPFILE.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let name = format!(".scratch-{}", crate::digest::to_hex(&crate::id::random_bytes::<8>()));
                let path = self.ingest.path_of(&name);
                let file = File::options().read(true).write(true).create_new(true).open(&path);
                let file = file.map_err(|e| StorageError::io("create", &path, e))?;
                self.ingest.remove_file(&name)?;
                Ok(file)
            }
            Err(e) => Err(StorageError::io("create a scratch file in", self.ingest.path_of("."), e)),
        }
    }

    /// Removes a blob, whatever leads to it: one that is damaged, so that it can be stored again, or one that was only
    /// passing through. False if there is none.
    ///
    /// # Errors
    /// `Unsupported` for a digest that is not SHA-256; `Io`.
    pub fn remove_blob(&self, digest: &Digest) -> Result<bool> {
        let removed = self.blobs.remove_file(file_name(digest)?)?;
        self.blobs.sync()?;
        Ok(removed)
    }

    /// Where a blob is, for messages.
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.path_of(digest.hex())
    }

    fn ingest(&self, mut reader: impl Read) -> Result<(Digest, u64)> {
        let failed = |e| StorageError::io("store", self.ingest.path_of("blob"), e);
        let copied = self.put_with(|mut sink| copy(&mut reader, &mut sink).map_err(failed), |(), _| Ok(()));
        copied.map(|((), digest, size)| (digest, size))
    }

    /// Stores what `fill` writes, unless it fails or `check` refuses its result and the digest of what was
    /// written.
    pub(crate) fn put_with<T>(
        &self,
        fill: impl FnOnce(&mut dyn Write) -> Result<T>,
        check: impl FnOnce(&T, &Digest) -> Result<()>,
    ) -> Result<(T, Digest, u64)> {
        let _lease = self.lease()?;
        sweep(&self.ingest)?;
        let inner = Staged::new(&self.ingest)?;
        let mut sink = HashedWriter { inner, hasher: Hasher::new(Algorithm::Sha256), size: 0 };
        let value = fill(&mut sink)?;
        let (digest, size) = (sink.hasher.finish(), sink.size);
        check(&value, &digest)?;
        if !self.has_blob(&digest, size)? {
            sink.inner.commit(&self.blobs, digest.hex())?;
        }
        Ok((value, digest, size))
    }
}

/// Hashes and counts what is written.
struct HashedWriter<'a> {
    inner: Staged<'a>,
    hasher: Hasher,
    size: u64,
}

impl Write for HashedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = Write::write(&mut self.inner, bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// [`io::copy`] with a buffer that is worth a system call and a round of hashing.
pub(crate) fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buf = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buf[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn file_name(digest: &Digest) -> Result<&str> {
    match digest.algorithm() {
        Algorithm::Sha256 => Ok(digest.hex()),
        Algorithm::Sha512 => {
            Err(StorageError::Unsupported { what: format!("the blob {digest}, named by SHA-512") })
        }
    }
}

/// Checks the content of an `oci-layout` file.
pub(crate) fn check_layout_marker(bytes: &[u8], path: &Path) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker: Marker = json::parse(bytes, MAX_JSON_BYTES)
        .map_err(|e| StorageError::corrupt(path.display().to_string(), e))?;
    if marker.image_layout_version.starts_with("1.") {
        return Ok(());
    }
    let what =
        format!("version {} of the OCI image layout", crate::error::quoted(&marker.image_layout_version));
    Err(StorageError::Unsupported { what })
}

#[cfg(test)]
mod tests;
