//! What vessels that come from one another share, and what archives take.
#![forbid(unsafe_code)]

use std::time::SystemTime;

/// A vessel that begins with snapshots of another: what [`Storage::fork_vessel`](super::Storage::fork_vessel) makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VesselFork {
    /// Its id.
    pub vessel_id: String,
    /// Its manifest.
    pub manifest: Vec<u8>,
}

impl VesselFork {
    /// A vessel with this manifest.
    pub fn new(vessel_id: impl Into<String>, manifest: Vec<u8>) -> Self {
        Self { vessel_id: vessel_id.into(), manifest }
    }
}

/// An archive as the backend keeps it: what [`Storage::list_archives`](super::Storage::list_archives) tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveUsage {
    /// The snapshot.
    pub snapshot_id: String,
    /// Bytes that it takes where it is kept, compressed as it is there.
    pub bytes: u64,
    /// Two archives with the same value are kept once; `None`: it is on its own.
    pub content: Option<(u64, u64)>,
    /// How many archives, of this vessel and of others, are kept as this one; 1 when it is on its own.
    pub holders: u64,
    /// When its content was written.
    pub modified: SystemTime,
}

impl ArchiveUsage {
    /// An archive that is kept on its own.
    pub fn new(snapshot_id: impl Into<String>, bytes: u64, modified: SystemTime) -> Self {
        Self { snapshot_id: snapshot_id.into(), bytes, content: None, holders: 1, modified }
    }

    /// The same, kept with others: `content` tells which, `holders` how many there are.
    #[must_use]
    pub fn kept_as(mut self, content: (u64, u64), holders: u64) -> Self {
        self.content = Some(content);
        self.holders = holders;
        self
    }
}
