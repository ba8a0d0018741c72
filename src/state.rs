//! What a store knows of a vessel besides its manifest: `vessels/ID/state.json`.
//!
//! The manifest, in the [`Storage`](crate::Storage), says which snapshots exist; the state says what the local
//! directories are. Both change in one operation, so the state announces it first ([`Pending`]) and
//! [`crate::recover`] decides what a crash left.
//!
//! Snapshots whose layers are sealed and whose archives are not stored yet are in no manifest: another machine could not
//! restore them. They are listed here ([`VesselState::packing`]), and [`crate::history`] shows both as one.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vesselrt_runtime::settings::Settings;
use vesselrt_runtime::shim::protocol::{Driver, MountSpec};
use vesselrt_storage::manifest::SnapshotManifest;

use crate::error::{Error, ErrorKind, Result};

/// Version of the file that this code writes. The first one knew no snapshots without archives: whoever ignores those
/// takes the layers of a vessel for ones that were deleted. The second knew no settings: whoever ignores those gives a
/// vessel more than it may have.
const VERSION: u32 = 3;
/// The oldest that this code reads.
const OLDEST: u32 = 1;
/// A state with some hundred snapshots has some kilobytes.
pub(crate) const MAX_BYTES: u64 = 16 << 20;

/// Layers below the writable one that overlayfs mounts at most (OVL_MAX_STACK, fs/overlayfs/params.h): one is the
/// shim's own.
const MAX_LAYERS: usize = 500 - 1;

/// What commands take from the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageDefaults {
    /// `KEY=VALUE` entries.
    pub(crate) env: Vec<String>,
    /// `User` of the image configuration; empty is root.
    pub(crate) user: String,
}

/// The base image as this vessel uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageState {
    /// Digest of the manifest.
    pub(crate) digest: String,
    /// Directories under `images/layers`, topmost first.
    pub(crate) layers: Vec<String>,
    #[serde(flatten)]
    pub(crate) defaults: ImageDefaults,
}

/// An operation that changes manifest and local state both, written down before it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Pending {
    /// The writable layer becomes this snapshot.
    Seal { snapshot: String },
    /// This snapshot exists; `gen-N` becomes its layer, if it is still there.
    Sealed { snapshot: String, generation: u64 },
    /// This snapshot leaves the manifest, and then its archive goes.
    Delete { snapshot: String },
}

impl Pending {
    /// What it is about.
    pub(crate) fn snapshot(&self) -> &String {
        match self {
            Self::Seal { snapshot } | Self::Sealed { snapshot, .. } | Self::Delete { snapshot } => snapshot,
        }
    }
}

/// The content of `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VesselState {
    pub(crate) version: u32,
    pub(crate) image: ImageState,
    /// Snapshots below the writable layer, topmost first: directories under `layers`.
    pub(crate) sealed: Vec<String>,
    /// The writable layer is `gen-N`.
    pub(crate) generation: u64,
    /// The vessel is thrown away after use: nothing of it is synced.
    pub(crate) volatile: bool,
    /// `None` until the vessel was mounted once.
    pub(crate) driver: Option<Driver>,
    pub(crate) pending: Option<Pending>,
    /// Snapshots whose archives are not stored yet, in the order of their creation; without checksum and size.
    #[serde(default)]
    pub(crate) packing: Vec<SnapshotManifest>,
    /// What the commands may use of the host.
    #[serde(default)]
    pub(crate) settings: Settings,
    /// How much archives of theirs are to be compressed that are not to be as the others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) levels: BTreeMap<String, i32>,
    /// The latest snapshot that was taken while commands ran: a copy of a writable layer that stayed the writable one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) copied: Option<Copied>,
}

/// A copy of a writable layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copied {
    pub(crate) snapshot: String,
    pub(crate) generation: u64,
}

impl VesselState {
    pub(crate) fn new(image: ImageState, sealed: Vec<String>, volatile: bool) -> Self {
        Self {
            version: VERSION,
            image,
            sealed,
            generation: 1,
            volatile,
            driver: None,
            pending: None,
            packing: Vec::new(),
            settings: Settings::default(),
            levels: BTreeMap::new(),
            copied: None,
        }
    }

    /// # Errors
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation).
    pub(crate) fn parse(vessel: &str, bytes: &[u8]) -> Result<Self> {
        let mut state: Self = serde_json::from_slice(bytes).map_err(|e| {
            Error::integrity(format!("local state of vessel {vessel} is damaged")).with_source(e)
        })?;
        if !(OLDEST..=VERSION).contains(&state.version) {
            let version = state.version;
            let message = format!(
                "local state of vessel {vessel} has version {version}, this vesselrt knows {VERSION}"
            );
            return Err(Error::integrity(message).with_remedy("use the vesselrt that wrote it"));
        }
        state.version = VERSION;
        state.check_names(vessel)?;
        let VesselState { levels, packing, .. } = &mut state;
        levels.retain(|id, _| packing.iter().any(|waiting| waiting.id == *id));
        Ok(state)
    }

    /// Names become directory names: a damaged file must not name anything else.
    fn check_names(&self, vessel: &str) -> Result<()> {
        let pending = self.pending.as_ref().map(Pending::snapshot);
        let packing = self.packing.iter().map(|snapshot| &snapshot.id);
        for name in self.image.layers.iter().chain(&self.sealed).chain(pending).chain(packing) {
            vesselrt_storage::validate_id(name).map_err(|e| {
                Error::integrity(format!("local state of vessel {vessel} is damaged")).with_source(e)
            })?;
        }
        Ok(())
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self)
            .expect("it has neither maps with odd keys nor values that JSON cannot express")
    }

    /// What a shim is to mount; `stack` stands for the sealed layers.
    pub(crate) fn mount_spec(&self, driver: Driver, stack: Vec<String>) -> MountSpec {
        MountSpec {
            sealed: stack,
            image: self.image.layers.clone(),
            generation: self.generation,
            volatile: self.volatile,
            driver,
        }
    }

    /// Whether the writable layer can be sealed, when so many layers stand for the sealed ones: what cannot be mounted any
    /// more would be lost with it.
    ///
    /// # Errors
    /// [`LimitExceeded`](ErrorKind::LimitExceeded).
    pub(crate) fn check_room(&self, stack: usize) -> Result<()> {
        let layers = self.image.layers.len() + stack;
        if layers < MAX_LAYERS {
            return Ok(());
        }
        let message = format!("the vessel has {layers} layers, and no more can be mounted");
        let remedy = "restore an earlier snapshot and go on from there";
        Err(Error::new(ErrorKind::LimitExceeded, message).with_remedy(remedy))
    }

    /// Whether a stack is long enough to be worth waiting for merged layers.
    pub(crate) fn is_crowded(&self, stack: usize) -> bool {
        self.image.layers.len() + stack >= MAX_LAYERS / 2
    }

    /// The snapshot that the writable layer lies on; empty when it is the image.
    pub(crate) fn top(&self) -> &str {
        self.sealed.first().map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> VesselState {
        let defaults = ImageDefaults { env: vec!["A=b".into()], user: String::new() };
        let image =
            ImageState { digest: "sha256:00".into(), layers: vec!["c2".into(), "c1".into()], defaults };
        VesselState::new(image, vec!["s1".into()], false)
    }

    #[test]
    fn the_file_reads_back() {
        let mut state = state();
        for pending in [
            None,
            Some(Pending::Seal { snapshot: "s2".into() }),
            Some(Pending::Delete { snapshot: "s1".into() }),
            Some(Pending::Sealed { snapshot: "s1".into(), generation: 1 }),
        ] {
            state.pending = pending;
            assert_eq!(VesselState::parse("v", &state.to_json()).unwrap(), state);
        }
    }

    #[test]
    fn what_could_not_be_mounted_is_not_sealed() {
        let state = state();
        state.check_room(MAX_LAYERS - 3).unwrap();
        assert!(state.is_crowded(MAX_LAYERS - 3) && !state.is_crowded(100));
        assert_eq!(state.check_room(MAX_LAYERS - 2).unwrap_err().kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn a_damaged_or_newer_file_is_refused() {
        let good = String::from_utf8(state().to_json()).unwrap();
        for bad in
            ["{", &good.replace("\"version\":3", "\"version\":4"), &good.replace("\"s1\"", "\"../s1\"")]
        {
            let error = VesselState::parse("v", bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::IntegrityViolation, "{bad}");
        }
    }
}
