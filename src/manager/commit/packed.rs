//! What packing the layer of a snapshot came to, remembered: a snapshot does not change, so that the next commit of its
//! vessel uses the same blob.
//!
//! `images/packed/SNAPSHOT.COMPRESSION` says which blob that is, and of which archive. It is a cache: the blob is there
//! for as long as an image has it, and what is not there is packed again.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use vesselrt_storage::Digest;
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};

use super::LayerCompression;
use super::layers::Packed;
use crate::error::{Error, Result};
use crate::manager::ManagerInner;
use crate::store::dirs::{self, Durable};

const DIRECTORY: &str = "packed";
/// What is left out of a layer is told within bounds, so that more than this is not ours.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    /// Checksum of the snapshot's archive: a snapshot that was merged with another one keeps its id and is another tree.
    checksum: String,
    digest: Digest,
    size: u64,
    diff_id: Digest,
    entries: u64,
    skipped: Vec<String>,
}

impl ManagerInner {
    /// The layer of a snapshot, if it was packed before and the blob is still there.
    pub(super) fn packed_before(
        &self,
        snapshot: &SnapshotManifest,
        compression: LayerCompression,
    ) -> Result<Option<Packed>> {
        let dir = self.packed()?;
        let Ok(Some(bytes)) = dirs::read_small(dir.as_fd(), &name(&snapshot.id, compression), MAX_BYTES)
        else {
            return Ok(None);
        };
        // Whatever is wrong with it, it is made anew.
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return Ok(None) };
        if record.checksum != snapshot.checksum || !self.content.has_blob(&record.digest, record.size)? {
            return Ok(None);
        }
        Ok(Some(Packed {
            descriptor: Descriptor::new(compression.media_type(), record.digest, record.size),
            diff_id: record.diff_id,
            entries: record.entries,
            skipped: record.skipped,
        }))
    }

    /// Remembers what packing a snapshot came to.
    pub(super) fn remember_packed(
        &self,
        snapshot: &SnapshotManifest,
        compression: LayerCompression,
        packed: &Packed,
    ) -> Result<()> {
        // Not known yet: nothing would tell this tree from another.
        if snapshot.checksum.is_empty() {
            return Ok(());
        }
        let record = Record {
            checksum: snapshot.checksum.clone(),
            digest: packed.descriptor.digest.clone(),
            size: packed.descriptor.size,
            diff_id: packed.diff_id.clone(),
            entries: packed.entries,
            skipped: packed.skipped.clone(),
        };
        let bytes = serde_json::to_vec(&record)
            .map_err(|e| Error::internal("failed to write down a packed layer").with_source(e))?;
        let dir = self.packed()?;
        dirs::write_atomic(dir.as_fd(), &name(&snapshot.id, compression), &bytes, Durable::Nothing)
    }

    /// Forgets the layers of snapshots that none of `vessels` has, and those whose blobs are gone.
    pub(in crate::manager) fn forget_packed(&self, vessels: &[VesselManifest]) -> Result<()> {
        let snapshots = vessels.iter().flat_map(|vessel| &vessel.snapshots);
        let known: HashSet<&str> = snapshots.map(|snapshot| snapshot.id.as_str()).collect();
        let dir = self.packed()?;
        for file in dirs::names(dir.as_fd())? {
            let id = file.rsplit_once('.').map_or("", |(id, _compression)| id);
            if !known.contains(id) || !self.is_packed(&dir, &file)? {
                dirs::unlink(dir.as_fd(), &file)?;
            }
        }
        Ok(())
    }

    fn is_packed(&self, dir: &OwnedFd, file: &str) -> Result<bool> {
        let Ok(Some(bytes)) = dirs::read_small(dir.as_fd(), file, MAX_BYTES) else { return Ok(false) };
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return Ok(false) };
        Ok(self.content.has_blob(&record.digest, record.size)?)
    }

    fn packed(&self) -> Result<OwnedFd> {
        let images = dirs::open_path(&self.store.path("images"))?;
        dirs::make(images.as_fd(), DIRECTORY)
    }
}

/// A name for each way to compress.
fn name(id: &str, compression: LayerCompression) -> String {
    let suffix = match compression {
        LayerCompression::None => "tar",
        LayerCompression::Gzip => "gzip",
        LayerCompression::Zstd => "zstd",
    };
    format!("{id}.{suffix}")
}
