//! Manifests that were read before: one operation looks at the same document several times, and a vessel with hundreds of
//! snapshots has one of some hundred kilobytes.
//!
//! The document is read from the storage every time; only if it is the same, byte for byte, it is not decoded again. So
//! nothing here can be out of date.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vesselrt_storage::StorageError;
use vesselrt_storage::manifest::VesselManifest;

/// How many are remembered.
const KEPT: usize = 8;
/// What is shorter than this is decoded about as fast as it is copied.
const SHORT: usize = 4 << 10;
/// What is longer than this is not worth the memory.
const LONG: usize = 1 << 20;

/// The manifests that were decoded last, the newest at the back.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    kept: Mutex<VecDeque<(Vec<u8>, Arc<VesselManifest>)>>,
}

impl Manifests {
    /// The manifest in `bytes`, which were stored under `id`.
    ///
    /// # Errors
    /// Those of [`VesselManifest::parse_for`].
    pub(super) fn parse(&self, id: &str, bytes: Vec<u8>) -> Result<Arc<VesselManifest>, StorageError> {
        if !(SHORT..=LONG).contains(&bytes.len()) {
            return VesselManifest::parse_for(id, &bytes).map(Arc::new);
        }
        if let Some(known) = self.known(id, &bytes) {
            return Ok(known);
        }
        let manifest = Arc::new(VesselManifest::parse_for(id, &bytes)?);
        self.learn(bytes, &manifest);
        Ok(manifest)
    }

    /// `bytes` is what `manifest` is written as.
    pub(super) fn learn(&self, bytes: Vec<u8>, manifest: &Arc<VesselManifest>) {
        if !(SHORT..=LONG).contains(&bytes.len()) {
            return;
        }
        let mut kept = self.kept();
        kept.retain(|(_, other)| other.id != manifest.id);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((bytes, Arc::clone(manifest)));
    }

    fn known(&self, id: &str, bytes: &[u8]) -> Option<Arc<VesselManifest>> {
        let kept = self.kept();
        kept.iter()
            .find(|(read, manifest)| manifest.id == id && read == bytes)
            .map(|(_, known)| Arc::clone(known))
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Vec<u8>, Arc<VesselManifest>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests::{manifest, snapshot};

    fn long(id: &str, message: &str) -> (VesselManifest, Vec<u8>) {
        let mut long = manifest();
        id.clone_into(&mut long.id);
        for n in 0..20 {
            let mut one = snapshot(&format!("s{n}"), "");
            message.repeat(100).clone_into(&mut one.message);
            long.snapshots.push(one);
        }
        let bytes = long.to_json().unwrap();
        assert!(bytes.len() > SHORT);
        (long, bytes)
    }

    #[test]
    fn what_was_read_is_what_is_there() {
        let manifests = Manifests::default();
        for (id, message) in [("a", "one"), ("a", "two"), ("a", "two"), ("b", "two"), ("a", "one")] {
            let (expected, bytes) = long(id, message);
            assert_eq!(*manifests.parse(id, bytes).unwrap(), expected);
        }
        assert_eq!(manifests.kept().len(), 2, "one for each vessel");
        let (_, bytes) = long("a", "one");
        manifests.parse("b", bytes).expect_err("it is another vessel's");
    }

    #[test]
    fn few_are_remembered() {
        let manifests = Manifests::default();
        for n in 0..3 * KEPT {
            let id = format!("v{n}");
            let (_, bytes) = long(&id, "text");
            manifests.parse(&id, bytes).unwrap();
        }
        assert_eq!(manifests.kept().len(), KEPT);
    }
}
