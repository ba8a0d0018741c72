//! [`VesselManifest`]: what is known about a vessel and its snapshots, as stored in `vessel.dat`.
//!
//! The field names are those of the system this one follows; `version` and `baseImageDigest` are additions,
//! whose absence means version 1 and an unknown digest. Times are RFC 3339 with up to nanoseconds.
#![forbid(unsafe_code)]

mod unnamed;
mod validate;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;

pub use self::unnamed::UNNAMED;
pub use self::validate::ManifestError;
use crate::backend::MAX_MANIFEST_BYTES;
use crate::error::{Result, StorageError};
use crate::json::{self, JsonError};

/// The newest manifest version this crate reads, and the one it writes.
pub const MANIFEST_VERSION: u32 = 1;

/// A vessel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VesselManifest {
    /// Version of this structure; see [`MANIFEST_VERSION`].
    #[serde(default = "first_version")]
    pub version: u32,
    /// The vessel's id.
    pub id: String,
    /// Reference of the image it is based on, as the user gave it.
    pub base_image_ref: String,
    /// Digest of that image's manifest; empty if unknown.
    #[serde(default)]
    pub base_image_digest: String,
    /// The snapshot that the vessel's state is based on; empty for the image itself.
    #[serde(default)]
    pub current_snapshot_id: String,
    /// Working directory inside, absolute.
    pub work_dir: String,
    /// When the vessel was created.
    #[serde(with = "time::serde::rfc3339")]
    pub create_time: OffsetDateTime,
    /// When this manifest last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub update_time: OffsetDateTime,
    /// The user's labels.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The snapshots in order of creation.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub snapshots: Vec<SnapshotManifest>,
}

/// A snapshot: the changes relative to its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotManifest {
    /// The snapshot's id, unique within its vessel.
    pub id: String,
    /// The vessel it was made in.
    pub vessel_id: String,
    /// The snapshot it is based on; empty for the image.
    #[serde(default)]
    pub parent_id: String,
    /// What the user said about it.
    #[serde(default)]
    pub message: String,
    /// Digest of the uncompressed tar, `sha256:…`. Empty while there is no archive yet, which no stored manifest has.
    pub checksum: String,
    /// Size of the uncompressed tar in bytes; 0 while there is no archive yet.
    pub size: u64,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub create_time: OffsetDateTime,
    /// The user's labels.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How it was made; unknown for snapshots of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<SnapshotMode>,
    /// How long the commands in the vessel stood still for it, in milliseconds; unknown when none ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
}

/// How a snapshot was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SnapshotMode {
    /// The writable layer itself became the snapshot's layer.
    Sealed,
    /// The commands were stopped while the writable layer was cloned by the file system.
    Reflinked,
    /// The commands were stopped while the writable layer was copied.
    Copied,
    /// The archive was packed from the writable layer while nothing could change it.
    Packed,
    /// A way that this version does not know.
    #[serde(other)]
    Other,
}

/// What can be read of a manifest whose other fields are not what they were.
#[derive(Deserialize)]
struct VersionOnly {
    #[serde(default = "first_version")]
    version: u32,
}

fn first_version() -> u32 {
    1
}

/// Go writes a nil slice or map as `null`.
fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl SnapshotManifest {
    /// Whether its archive is in the storage: until then it is only on the machine that made it.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        !self.checksum.is_empty()
    }
}

impl VesselManifest {
    /// Reads a stored manifest and checks all of it: ids, digests, and that the snapshots form a forest.
    /// Unknown fields are ignored.
    ///
    /// # Errors
    /// `Unsupported` for a newer version; `Corrupt` for anything malformed; `LimitExceeded` above
    /// [`MAX_MANIFEST_BYTES`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            let what = format!("a vessel manifest of {} bytes", bytes.len());
            return Err(StorageError::LimitExceeded { what, limit: MAX_MANIFEST_BYTES });
        }
        let malformed = |e| StorageError::corrupt("vessel manifest", e);
        let decoded = json::parse::<Self>(bytes, MAX_MANIFEST_BYTES);
        // Before anything that is wrong with it: a newer manifest is newer and not malformed.
        let version = match &decoded {
            Ok(manifest) => manifest.version,
            Err(JsonError::Structure(_)) => {
                serde_json::from_slice(bytes).map_or(0, |VersionOnly { version }| version)
            }
            Err(_) => 0,
        };
        if version > MANIFEST_VERSION {
            let what = format!("vessel manifest version {version} (the newest known is {MANIFEST_VERSION})");
            return Err(StorageError::Unsupported { what });
        }
        let manifest = decoded.map_err(malformed)?;
        manifest.check().map_err(|e| StorageError::corrupt("vessel manifest", e))?;
        Ok(manifest)
    }

    /// [`VesselManifest::parse`] of what was stored under `vessel_id`: it must be that vessel's.
    ///
    /// # Errors
    /// Those of [`VesselManifest::parse`]; `Corrupt` if the manifest belongs to another vessel.
    pub fn parse_for(vessel_id: &str, bytes: &[u8]) -> Result<Self> {
        let manifest = Self::parse(bytes)?;
        if manifest.id == vessel_id {
            return Ok(manifest);
        }
        let error = ManifestError::OtherVessel { id: manifest.id };
        Err(StorageError::corrupt(format!("manifest of vessel {vessel_id}"), error))
    }

    /// The manifest as compact JSON. What could not be read back is not written.
    ///
    /// # Errors
    /// `Invalid` for anything that [`VesselManifest::parse`] would refuse; `LimitExceeded` above
    /// [`MAX_MANIFEST_BYTES`].
    pub fn to_json(&self) -> Result<Vec<u8>> {
        self.check().map_err(|e| StorageError::invalid("vessel manifest", e))?;
        let bytes = serde_json::to_vec(self).map_err(|e| StorageError::invalid("vessel manifest", e))?;
        if bytes.len() as u64 <= MAX_MANIFEST_BYTES {
            return Ok(bytes);
        }
        let what = format!("a vessel manifest of {} bytes", bytes.len());
        Err(StorageError::LimitExceeded { what, limit: MAX_MANIFEST_BYTES })
    }

    /// The snapshot called `id`.
    #[must_use]
    pub fn snapshot(&self, id: &str) -> Option<&SnapshotManifest> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    /// The snapshots that lead to `id`, from the one based on the image to `id` itself; empty for the empty id,
    /// the image.
    ///
    /// # Errors
    /// `NotFound` for an unknown snapshot; `Corrupt` for a broken chain, which [`VesselManifest::parse`] does
    /// not let in.
    pub fn chain(&self, id: &str) -> Result<Vec<&SnapshotManifest>> {
        let by_id: HashMap<&str, &SnapshotManifest> =
            self.snapshots.iter().map(|s| (s.id.as_str(), s)).collect();
        let mut chain = Vec::new();
        let mut next = id;
        while !next.is_empty() {
            let found = by_id.get(next).copied();
            let snapshot = found.ok_or_else(|| StorageError::not_found(format!("snapshot {next}")))?;
            if chain.len() == self.snapshots.len() {
                let error = ManifestError::Cycle { id: id.to_owned() };
                return Err(StorageError::corrupt("vessel manifest", error));
            }
            chain.push(snapshot);
            next = &snapshot.parent_id;
        }
        chain.reverse();
        Ok(chain)
    }

    /// The snapshots whose parent is `id`, in order of creation; for the empty id those based on the image.
    pub fn children<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a SnapshotManifest> {
        self.snapshots.iter().filter(move |snapshot| snapshot.parent_id == id)
    }
}

#[cfg(test)]
mod tests;
