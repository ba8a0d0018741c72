//! [`LocalStorage`]: a directory of this host as [`Storage`].
//!
//! ```text
//! vessels/ID/vessel.dat                      manifest
//! vessels/ID/snapshots/SID.tar[.zst|.gz]     snapshots; the suffix says what the content is
//! vessels/.fork-*                            forks that are being made
//! archives/KEY                               another name of every snapshot: those that are the same are one file
//! images/REF.tar[.zst|.gz]                   base images, put there by hand; slashes of REF are directories
//! ```
//! Directories have mode 0700, files 0600. Files appear by rename (staged, synced, renamed), vessels disappear
//! by rename.
#![forbid(unsafe_code)]

mod file;
mod fork;
mod names;
mod twins;

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::Advice;

use self::file::ArchiveFile;
pub use self::names::{ImageRefError, validate_image_ref};
use self::names::{LOOKUP, archive_name};
pub(crate) use self::names::{check_id, check_image_ref};
use self::twins::Twins;
use crate::backend::{
    ArchiveUsage, ByteStream, MAX_MANIFEST_BYTES, RandomAccess, Storage, VesselFork, blocking, finished,
};
use crate::compression::Compression;
use crate::digest::to_hex;
use crate::dir::Dir;
use crate::dir::stage::{Staged, replace, replace_unsynced, sweep};
use crate::error::{Result, StorageError};
use crate::id::random_bytes;
use crate::pipe::{BlockingReader, pump, to_blocking};

const MANIFEST: &str = "vessel.dat";
/// Instead of it, for a vessel that is thrown away after use.
const VOLATILE: &str = "volatile.dat";
const SNAPSHOTS: &str = "snapshots";
const VESSELS: &str = "vessels";
const IMAGES: &str = "images";
const ARCHIVES: &str = "archives";
/// Bytes of an archive that the disk is told to begin with at once.
const WRITE_BACK: u64 = 8 << 20;
/// What the names of vessels start with that are being deleted; no id starts with a dot.
const TRASH: &str = ".trash-";

/// Storage in a directory of this host. See the module for the layout; clones share the directory.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    vessels: Dir,
    images: Dir,
    twins: Twins,
}

impl LocalStorage {
    /// Uses the directory `dir`, which is made if needed.
    ///
    /// # Errors
    /// `Io` if it cannot be made or opened, `Corrupt` if its subdirectories are something else.
    pub fn new(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().to_path_buf();
        let root = Dir::create(&path)?;
        let vessels = root.make_subdir(VESSELS)?;
        let images = root.make_subdir(IMAGES)?;
        let twins = Twins::new(root.make_subdir(ARCHIVES)?);
        Ok(Self { shared: Arc::new(Shared { path, vessels, images, twins }) })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking(what, move || work(&shared)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for LocalStorage {
    async fn save_vessel_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()> {
        check_id("vessel", vessel_id)?;
        check_manifest_size(manifest)?;
        let (id, manifest) = (vessel_id.to_owned(), manifest.to_vec());
        self.run("saving a manifest", move |shared| shared.save_manifest(&id, &manifest, true)).await
    }

    async fn save_volatile_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()> {
        check_id("vessel", vessel_id)?;
        check_manifest_size(manifest)?;
        let (id, manifest) = (vessel_id.to_owned(), manifest.to_vec());
        self.run("saving a manifest", move |shared| shared.save_manifest(&id, &manifest, false)).await
    }

    async fn load_vessel_manifest(&self, vessel_id: &str) -> Result<Vec<u8>> {
        check_id("vessel", vessel_id)?;
        let id = vessel_id.to_owned();
        self.run("loading a manifest", move |shared| shared.load_manifest(&id)).await
    }

    async fn load_image(&self, image_ref: &str) -> Result<ByteStream> {
        check_image_ref(image_ref)?;
        let image_ref = image_ref.to_owned();
        let file = self.run("loading an image", move |shared| shared.open_image(&image_ref)).await?;
        Ok(Box::pin(tokio::fs::File::from_std(file)))
    }

    async fn save_snapshot(&self, vessel_id: &str, snapshot_id: &str, body: ByteStream) -> Result<()> {
        check_id("vessel", vessel_id)?;
        check_id("snapshot", snapshot_id)?;
        let (vessel, snapshot) = (vessel_id.to_owned(), snapshot_id.to_owned());
        let shared = Arc::clone(&self.shared);
        let (to, from) = to_blocking();
        let mut writer = tokio::task::spawn_blocking(move || shared.save_snapshot(&vessel, &snapshot, from));
        // The writer ends first when it fails, also while the body has nothing to give.
        let joined = tokio::select! {
            biased;
            joined = &mut writer => joined,
            () = pump(body, to) => writer.await,
        };
        finished("saving a snapshot", joined)
    }

    async fn save_snapshot_at(
        &self,
        vessel_id: &str,
        snapshot_id: &str,
        body: ByteStream,
        _level: i32,
    ) -> Result<()> {
        self.save_snapshot(vessel_id, snapshot_id, body).await
    }

    async fn load_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<ByteStream> {
        check_id("vessel", vessel_id)?;
        check_id("snapshot", snapshot_id)?;
        let (vessel, snapshot) = (vessel_id.to_owned(), snapshot_id.to_owned());
        let open = move |shared: &Shared| shared.open_snapshot(&vessel, &snapshot);
        let file = self.run("loading a snapshot", open).await?;
        Ok(Box::pin(tokio::fs::File::from_std(file)))
    }

    async fn open_snapshot(
        &self,
        vessel_id: &str,
        snapshot_id: &str,
    ) -> Result<Option<Arc<dyn RandomAccess>>> {
        check_id("vessel", vessel_id)?;
        check_id("snapshot", snapshot_id)?;
        let (vessel, snapshot) = (vessel_id.to_owned(), snapshot_id.to_owned());
        let open =
            move |shared: &Shared| ArchiveFile::new(shared.open_snapshot(&vessel, &snapshot)?, &snapshot);
        Ok(Some(Arc::new(self.run("opening a snapshot", open).await?)))
    }

    async fn delete_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<()> {
        check_id("vessel", vessel_id)?;
        check_id("snapshot", snapshot_id)?;
        let (vessel, snapshot) = (vessel_id.to_owned(), snapshot_id.to_owned());
        self.run("deleting a snapshot", move |shared| shared.delete_snapshot(&vessel, &snapshot)).await
    }

    async fn delete_vessel(&self, vessel_id: &str) -> Result<()> {
        check_id("vessel", vessel_id)?;
        let id = vessel_id.to_owned();
        self.run("deleting a vessel", move |shared| shared.delete_vessel(&id)).await
    }

    async fn delete_volatile_vessel(&self, vessel_id: &str) -> Result<()> {
        check_id("vessel", vessel_id)?;
        let id = vessel_id.to_owned();
        self.run("deleting a vessel", move |shared| shared.delete_volatile_vessel(&id)).await
    }

    async fn list_vessels(&self) -> Result<Vec<String>> {
        self.run("listing vessels", Shared::list_vessels).await
    }

    async fn copy_snapshot(&self, from_vessel: &str, snapshot_id: &str, to_vessel: &str) -> Result<()> {
        check_id("vessel", from_vessel)?;
        check_id("snapshot", snapshot_id)?;
        check_id("vessel", to_vessel)?;
        let (from, snapshot, to) = (from_vessel.to_owned(), snapshot_id.to_owned(), to_vessel.to_owned());
        self.run("copying a snapshot", move |shared| shared.copy_snapshot(&from, &snapshot, &to)).await
    }

    async fn fork_vessel(&self, from_vessel: &str, snapshots: &[String], forks: &[VesselFork]) -> Result<()> {
        check_id("vessel", from_vessel)?;
        snapshots.iter().try_for_each(|snapshot| check_id("snapshot", snapshot))?;
        for fork in forks {
            check_id("vessel", &fork.vessel_id)?;
            check_manifest_size(&fork.manifest)?;
        }
        let (from, snapshots, forks) = (from_vessel.to_owned(), snapshots.to_vec(), forks.to_vec());
        self.run("forking a vessel", move |shared| shared.fork(&from, &snapshots, &forks)).await
    }

    async fn list_archives(&self, vessel_id: &str) -> Result<Option<Vec<ArchiveUsage>>> {
        check_id("vessel", vessel_id)?;
        let id = vessel_id.to_owned();
        self.run("listing archives", move |shared| shared.list_archives(&id)).await.map(Some)
    }
}

impl Shared {
    fn save_manifest(&self, id: &str, manifest: &[u8], durable: bool) -> Result<()> {
        if !durable {
            let dir = self.vessels.make_subdir_unsynced(id)?;
            return replace_unsynced(&dir, VOLATILE, manifest);
        }
        let dir = self.vessels.make_subdir(id)?;
        sweep(&dir)?;
        replace(&dir, MANIFEST, manifest)
    }

    fn load_manifest(&self, id: &str) -> Result<Vec<u8>> {
        let missing = || StorageError::not_found(format!("manifest of vessel {id}"));
        let dir = self.vessels.subdir(id)?.ok_or_else(missing)?;
        if let Some(manifest) = dir.read_file(MANIFEST, MAX_MANIFEST_BYTES)? {
            return Ok(manifest);
        }
        // An empty one is what a power cut left.
        let volatile = dir.read_file(VOLATILE, MAX_MANIFEST_BYTES)?.filter(|bytes| !bytes.is_empty());
        volatile.ok_or_else(missing)
    }

    fn save_snapshot(&self, vessel: &str, snapshot: &str, body: BlockingReader) -> Result<()> {
        let dir = self.vessels.make_subdir(vessel)?.make_subdir(SNAPSHOTS)?;
        sweep(&dir)?;
        let failed = |e: io::Error| StorageError::io("receive snapshot", dir.path_of(snapshot), e);
        let mut staged = Staged::new(&dir)?;
        let compression = receive(body, &mut staged).map_err(failed)?;
        let name = archive_name(snapshot, compression);
        let replaced = dir.open_file(&name)?;
        self.twins.commit(staged, &dir, &name)?;
        if let Some((replaced, _)) = replaced {
            self.twins.forget(&replaced, 1);
        }
        // Only a snapshot that is replaced has others; until here they were the valid ones.
        self.remove_archives(&dir, snapshot, Some(compression))
    }

    fn open_snapshot(&self, vessel: &str, snapshot: &str) -> Result<File> {
        let missing = || StorageError::not_found(format!("snapshot {snapshot} of vessel {vessel}"));
        let dir = self.vessels.subdir(vessel)?.ok_or_else(missing)?;
        let dir = dir.subdir(SNAPSHOTS)?.ok_or_else(missing)?;
        open_archive(&dir, snapshot)?.ok_or_else(missing)
    }

    fn delete_snapshot(&self, vessel: &str, snapshot: &str) -> Result<()> {
        let Some(dir) = self.vessels.subdir(vessel)? else { return Ok(()) };
        match dir.subdir(SNAPSHOTS)? {
            Some(dir) => self.remove_archives(&dir, snapshot, None),
            None => Ok(()),
        }
    }

    fn remove_archives(&self, dir: &Dir, stem: &str, keep: Option<Compression>) -> Result<()> {
        let mut removed = false;
        for compression in LOOKUP.into_iter().filter(|c| Some(*c) != keep) {
            removed |= self.twins.remove(dir, &archive_name(stem, compression))?;
        }
        if removed { dir.sync() } else { Ok(()) }
    }

    fn delete_vessel(&self, id: &str) -> Result<()> {
        let trash = format!("{TRASH}{}", to_hex(&random_bytes::<8>()));
        if self.vessels.rename(id, &trash)? {
            self.vessels.sync()?;
            self.empty(&trash)?;
        }
        self.sweep_forks()?;
        let mut interrupted = false;
        for name in self.vessels.names()? {
            if name.starts_with(TRASH) {
                // What an earlier delete could not finish; it may be in the middle of it, too.
                let _ = self.empty(&name);
                interrupted = true;
            }
        }
        if interrupted { self.twins.sweep() } else { Ok(()) }
    }

    /// Removes a vessel that is in the trash.
    fn empty(&self, trash: &str) -> Result<()> {
        if let Ok(Some(vessel)) = self.vessels.subdir(trash)
            && let Ok(Some(snapshots)) = vessel.subdir(SNAPSHOTS)
        {
            // Whatever is odd in there is removed with the tree.
            let _ = self.twins.remove_all(&snapshots);
        }
        self.vessels.remove_tree(trash)
    }

    /// Syncing makes freeing the few blocks cost a millisecond each where the file system discards what it frees.
    fn delete_volatile_vessel(&self, id: &str) -> Result<()> {
        let Some(dir) = self.vessels.subdir(id)? else { return Ok(()) };
        dir.remove_file(MANIFEST)?;
        dir.remove_file(VOLATILE)?;
        match self.vessels.remove_empty_dir(id)? {
            true => Ok(()),
            // It has snapshots.
            false => self.delete_vessel(id),
        }
    }

    fn list_vessels(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for name in self.vessels.names()? {
            if crate::id::validate_id(&name).is_ok() && self.has_manifest(&name)? {
                ids.push(name);
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// Whether `id` has something called a manifest: a damaged one is listed, so that it is seen and can be
    /// deleted.
    fn has_manifest(&self, id: &str) -> Result<bool> {
        let found = match self.vessels.subdir(id) {
            Ok(Some(dir)) => dir.open_file(MANIFEST).and_then(|file| match file {
                Some(_) => Ok(true),
                None => Ok(dir.open_file(VOLATILE)?.is_some_and(|(_, size)| size > 0)),
            }),
            Ok(None) => return Ok(false),
            Err(error) => Err(error),
        };
        match found {
            Err(StorageError::Corrupt { .. }) => Ok(true),
            other => other,
        }
    }

    fn open_image(&self, image_ref: &str) -> Result<File> {
        let missing = || StorageError::not_found(format!("image {image_ref}"));
        let mut components: Vec<&str> = image_ref.split('/').collect();
        let stem = components.pop().ok_or_else(missing)?;
        let mut inner: Option<Dir> = None;
        for component in components {
            let parent = inner.as_ref().unwrap_or(&self.images);
            inner = Some(parent.subdir(component)?.ok_or_else(missing)?);
        }
        open_archive(inner.as_ref().unwrap_or(&self.images), stem)?.ok_or_else(missing)
    }
}

/// Writes all of `body`, and tells how it is compressed.
fn receive(mut body: BlockingReader, staged: &mut Staged<'_>) -> io::Result<Compression> {
    let mut compression = None;
    let (mut written, mut begun) = (0, 0);
    while let Some(bytes) = body.next()? {
        // The first piece is short only if it is the only one.
        compression.get_or_insert_with(|| Compression::detect(bytes));
        staged.write_all(bytes)?;
        written += bytes.len() as u64;
        if written - begun >= WRITE_BACK {
            begin_to_write_back(staged.file(), begun, written - begun);
            begun = written;
        }
    }
    Ok(compression.unwrap_or(Compression::None))
}

/// Lets the disk write while the rest is still being made, so that the sync at the end finds little to do. (What is dirty
/// is not dropped by this advice, but written: posix_fadvise(2), "Linux".)
fn begin_to_write_back(file: &File, from: u64, len: u64) {
    // Whatever comes of it, the sync at the end does the rest.
    let _ = rustix::fs::fadvise(file, from, NonZeroU64::new(len), Advice::DontNeed);
}

fn open_archive(dir: &Dir, stem: &str) -> Result<Option<File>> {
    for compression in LOOKUP {
        if let Some((file, _)) = dir.open_file(&archive_name(stem, compression))? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The limit on manifests, for every backend.
pub(crate) fn check_manifest_size(manifest: &[u8]) -> Result<()> {
    if manifest.len() as u64 <= MAX_MANIFEST_BYTES {
        return Ok(());
    }
    let what = format!("a manifest of {} bytes", manifest.len());
    Err(StorageError::LimitExceeded { what, limit: MAX_MANIFEST_BYTES })
}

#[cfg(test)]
mod tests;
