//! [`SnapshotOptions`]: how a snapshot is to be made.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

/// How long the commands of a vessel may stand still for a snapshot, unless told otherwise.
const PAUSE: Duration = Duration::from_secs(60);

/// How a snapshot is to be made. The setters return the changed value, to be chained.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotOptions {
    /// What to say about it.
    pub message: String,
    /// Do not wait for the archive.
    pub sealed: bool,
    /// Labels of the snapshot.
    pub labels: BTreeMap<String, String>,
    /// How long the commands that run may stand still for it. Default: 60 s.
    pub longest_pause: Duration,
    /// How much its archive is compressed, if not as [`ManagerConfig::compression`](crate::ManagerConfig) says.
    pub level: Option<i32>,
}

impl SnapshotOptions {
    /// A snapshot that is there when its archive is stored.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            sealed: false,
            labels: BTreeMap::new(),
            longest_pause: PAUSE,
            level: None,
        }
    }

    /// A snapshot that is there when its layer is sealed and on disk. It can be restored, forked, compared and deleted at
    /// once, on this machine; the archive is packed in the background, by whoever has the vessel open then, and
    /// [`Vessel::wait_snapshot`](crate::Vessel::wait_snapshot) waits for it.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.sealed = true;
        self
    }

    /// Sets the labels.
    #[must_use]
    pub fn labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.labels = labels;
        self
    }

    /// Sets how much its archive is compressed: a level of zstd, 1 (fast) to 22 (small, slow, and with hundreds of MB of
    /// memory), or a negative one, which is faster still. It counts also when the archive is packed later, by another process.
    /// One that zstd does not have is refused, and a storage that does not compress does not care.
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = Some(level);
        self
    }

    /// Sets how long the commands that run may stand still for it: after that time they go on, and there is no snapshot.
    #[must_use]
    pub fn longest_pause(mut self, longest: Duration) -> Self {
        self.longest_pause = longest;
        self
    }
}

impl From<&str> for SnapshotOptions {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}
