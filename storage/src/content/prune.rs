//! Removing what nothing refers to.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;

use super::lock::{Mode, lock_within};
use super::{BLOB_LOCK, ContentStore, file_name};
use crate::digest::{Algorithm, Digest};
use crate::dir::stage::sweep;
use crate::error::{Result, StorageError, StorageErrorKind};
use crate::image::MAX_JSON_BYTES;
use crate::json;

/// What [`ContentStore::prune_blobs`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many blobs.
    pub blobs: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Every field of an image document that may point at a blob; anything else is content.
#[derive(Deserialize)]
struct Pointers {
    #[serde(default)]
    config: Option<Pointer>,
    #[serde(default)]
    subject: Option<Pointer>,
    #[serde(default)]
    layers: Option<Vec<Pointer>>,
    #[serde(default)]
    manifests: Option<Vec<Pointer>>,
    #[serde(default)]
    blobs: Option<Vec<Pointer>>,
}

#[derive(Deserialize)]
struct Pointer {
    digest: Digest,
}

impl ContentStore {
    /// Removes every blob that neither a reference of the index nor one of the manifests `keep` leads to.
    /// Waits until nobody holds a [`super::Lease`], for as long as `patience`.
    ///
    /// # Errors
    /// `Busy` while something is being imported; `Corrupt` if a manifest that is referred to cannot be read:
    /// then nothing is removed; `Io`.
    pub fn prune_blobs_within(&self, keep: &[Digest], patience: Duration) -> Result<Pruned> {
        self.prune_blobs_except(&HashSet::new(), keep, patience)
    }

    /// [`Self::prune_blobs_within`] that leaves the blobs `spared` alone, whether anything leads to them or not.
    ///
    /// # Errors
    /// As there.
    pub fn prune_blobs_except(
        &self,
        spared: &HashSet<Digest>,
        keep: &[Digest],
        patience: Duration,
    ) -> Result<Pruned> {
        let _lock = lock_within(&self.root, BLOB_LOCK, Mode::Exclusive, patience)?;
        sweep(&self.ingest)?;
        self.sweep_partials()?;
        let index = self.read_index()?;
        let roots = index.manifests.into_iter().map(|entry| entry.digest);
        let used = self.mark(roots.chain(keep.iter().cloned()).collect())?;
        let mut pruned = Pruned::default();
        for digest in self.blobs()? {
            if used.contains(&digest) || spared.contains(&digest) {
                continue;
            }
            let size = self.blobs.open_file(digest.hex()).ok().flatten().map_or(0, |(_, size)| size);
            if self.blobs.remove_file(digest.hex())? {
                pruned.blobs += 1;
                pruned.bytes += size;
            }
        }
        self.blobs.sync()?;
        Ok(pruned)
    }

    /// All blobs that are there. What does not look like a blob is not ours.
    ///
    /// # Errors
    /// `Io`.
    pub fn blobs(&self) -> Result<HashSet<Digest>> {
        let digest = |name: String| Digest::parse(&format!("{}:{name}", Algorithm::Sha256.as_str())).ok();
        Ok(self.blobs.names()?.into_iter().filter_map(digest).collect())
    }

    /// [`Self::prune_blobs_within`] half a minute.
    ///
    /// # Errors
    /// As there.
    pub fn prune_blobs(&self, keep: &[Digest]) -> Result<Pruned> {
        self.prune_blobs_within(keep, Duration::from_secs(30))
    }

    /// Everything that `open` leads to. Every document is looked at once, so cycles end.
    fn mark(&self, mut open: Vec<Digest>) -> Result<HashSet<Digest>> {
        let mut documents = HashSet::new();
        let mut used = HashSet::new();
        while let Some(digest) = open.pop() {
            used.insert(digest.clone());
            if file_name(&digest).is_err() || !documents.insert(digest.clone()) {
                continue;
            }
            let Some(pointers) = self.pointers(&digest)? else { continue };
            open.extend(pointers.manifests.into_iter().flatten().chain(pointers.subject).map(|p| p.digest));
            let leaves = [pointers.layers, pointers.blobs].into_iter().flatten().flatten();
            used.extend(leaves.chain(pointers.config).map(|p| p.digest));
        }
        Ok(used)
    }

    /// What a document points at; `None` if it is not here, as the other platforms of an index are not.
    fn pointers(&self, digest: &Digest) -> Result<Option<Pointers>> {
        let size = match self.open_blob(digest) {
            Ok((_, size)) => size,
            Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = self.read_json_blob(digest, size)?;
        let pointers = json::parse(&bytes, MAX_JSON_BYTES);
        pointers.map(Some).map_err(|e| StorageError::corrupt(format!("blob {digest}"), e))
    }
}
