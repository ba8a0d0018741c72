//! What makes a vessel manifest consistent.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use thiserror::Error;

use super::{SnapshotManifest, VesselManifest};
use crate::digest::{Digest, DigestError};
use crate::id::{IdError, validate_id};

/// The longest reference, path or label key, in bytes.
const MAX_TEXT: usize = 4096;

/// What is wrong with a vessel manifest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// An id is malformed.
    #[error("its {field} is not an id")]
    BadId {
        /// The JSON field.
        field: &'static str,
        /// Why not.
        #[source]
        source: IdError,
    },
    /// A digest is malformed.
    #[error("its {field} is not a digest")]
    BadDigest {
        /// The JSON field.
        field: &'static str,
        /// Why not.
        #[source]
        source: DigestError,
    },
    /// A text is empty where it must not be, too long, or has control characters.
    #[error("its {field} is empty, too long or has control characters")]
    BadText {
        /// The JSON field.
        field: &'static str,
    },
    /// The version is 0.
    #[error("its version is 0")]
    BadVersion,
    /// The working directory is not absolute.
    #[error("its workDir is not an absolute path")]
    RelativeWorkDir,
    /// Two snapshots have one id.
    #[error("the snapshot {id} occurs twice")]
    DuplicateSnapshot {
        /// The id.
        id: String,
    },
    /// A snapshot, or the vessel itself, is based on a snapshot that is not there.
    #[error("the snapshot {id} is referred to and missing")]
    MissingSnapshot {
        /// The missing id.
        id: String,
    },
    /// A snapshot is its own ancestor.
    #[error("the snapshot {id} is its own ancestor")]
    Cycle {
        /// A snapshot of the cycle.
        id: String,
    },
    /// The manifest was found under the id of another vessel.
    #[error("it is that of vessel {id}")]
    OtherVessel {
        /// The id in it.
        id: String,
    },
}

impl VesselManifest {
    /// Everything that [`VesselManifest::parse`] demands beyond the JSON structure.
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if self.version == 0 {
            return Err(ManifestError::BadVersion);
        }
        check_id("id", &self.id)?;
        check_text("baseImageRef", &self.base_image_ref)?;
        check_text("workDir", &self.work_dir)?;
        if !self.work_dir.starts_with('/') {
            return Err(ManifestError::RelativeWorkDir);
        }
        if !self.base_image_digest.is_empty() {
            check_digest("baseImageDigest", &self.base_image_digest)?;
        }
        self.snapshots.iter().try_for_each(SnapshotManifest::check)?;
        self.check_forest()
    }

    /// Unique ids, no missing parents, no cycles; in linear time.
    fn check_forest(&self) -> Result<(), ManifestError> {
        let mut parents: HashMap<&str, &str> = HashMap::with_capacity(self.snapshots.len());
        for snapshot in &self.snapshots {
            if parents.insert(&snapshot.id, &snapshot.parent_id).is_some() {
                return Err(ManifestError::DuplicateSnapshot { id: snapshot.id.clone() });
            }
        }
        let referred = parents.values().copied().chain([self.current_snapshot_id.as_str()]);
        if let Some(id) = referred.filter(|id| !id.is_empty()).find(|id| !parents.contains_key(id)) {
            return Err(ManifestError::MissingSnapshot { id: id.to_owned() });
        }
        // Every walk ends at the image, at a snapshot of an earlier walk, or where it began: a cycle.
        let mut walked: HashMap<&str, usize> = HashMap::with_capacity(parents.len());
        for (walk, snapshot) in self.snapshots.iter().enumerate() {
            let mut at = snapshot.id.as_str();
            while !at.is_empty() {
                match walked.insert(at, walk) {
                    None => at = parents[at],
                    Some(earlier) if earlier == walk => {
                        return Err(ManifestError::Cycle { id: at.to_owned() });
                    }
                    Some(earlier) => {
                        walked.insert(at, earlier);
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

impl SnapshotManifest {
    fn check(&self) -> Result<(), ManifestError> {
        check_id("snapshots.id", &self.id)?;
        check_id("snapshots.vesselId", &self.vessel_id)?;
        check_digest("snapshots.checksum", &self.checksum)
    }
}

fn check_id(field: &'static str, id: &str) -> Result<(), ManifestError> {
    validate_id(id).map_err(|source| ManifestError::BadId { field, source })
}

fn check_digest(field: &'static str, text: &str) -> Result<(), ManifestError> {
    Digest::parse(text).map(|_| ()).map_err(|source| ManifestError::BadDigest { field, source })
}

fn check_text(field: &'static str, text: &str) -> Result<(), ManifestError> {
    let good = !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
    if good { Ok(()) } else { Err(ManifestError::BadText { field }) }
}
