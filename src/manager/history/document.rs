//! A vessel's history as OCI artifacts: which documents there are, and reading them with suspicion.
//!
//! ```text
//! index                  artifactType …vessel.v1; annotations: id of the vessel, its base
//! ├─ manifest            artifactType …vessel.v1; config: the vessel's manifest
//! ├─ manifest            the base image, as it is
//! └─ manifest …          one per snapshot: artifactType …snapshot.v1; config: the snapshot's manifest;
//!                        layer: its archive, tar+zstd
//! ```
//! Source: image-spec 1.1, manifest.md, "Guidelines for Artifact Usage"; image-index.md.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::image::{MAX_DESCRIPTORS, MAX_JSON_BYTES, media_type};
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};
use vesselrt_storage::{Digest, ImageRecord, json as strict};

use crate::error::{Error, ErrorKind, Result};

const VESSEL: &str = "application/vnd.vesselrt.vessel.v1";
const VESSEL_CONFIG: &str = "application/vnd.vesselrt.vessel.v1+json";
const SNAPSHOT: &str = "application/vnd.vesselrt.snapshot.v1";
const SNAPSHOT_CONFIG: &str = "application/vnd.vesselrt.snapshot.v1+json";
const ARCHIVE: &str = "application/vnd.vesselrt.snapshot.v1.tar+zstd";
/// image-spec, manifest.md: what stands for nothing, since a manifest has at least one layer.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub(super) const EMPTY_BYTES: &[u8] = b"{}";

/// Which snapshot an entry of the index is.
const SNAPSHOT_ID: &str = "com.vesselrt.snapshot.id";
const VESSEL_ID: &str = "com.vesselrt.vessel.id";
/// The base image's entry has its reference here.
const BASE_NAME: &str = "org.opencontainers.image.base.name";
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// A document with its descriptor.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) descriptor: Descriptor,
    pub(super) bytes: Vec<u8>,
}

impl Document {
    fn new(media_type: &str, value: &impl Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(value)
            .map_err(|e| Error::internal("failed to write a document").with_source(e))?;
        let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        if descriptor.size > MAX_JSON_BYTES {
            let message = format!("a document of {} bytes is more than a registry takes", descriptor.size);
            return Err(Error::new(ErrorKind::LimitExceeded, message));
        }
        Ok(Self { descriptor, bytes })
    }
}

/// The manifest of an artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    schema_version: u64,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// What stands for a layer where there is none.
pub(super) fn empty() -> Descriptor {
    Descriptor::new(EMPTY, Digest::sha256(EMPTY_BYTES), EMPTY_BYTES.len() as u64)
}

/// The configuration of the vessel's artifact, and the artifact.
pub(super) fn vessel(manifest: &VesselManifest) -> Result<(Document, Document)> {
    let config = Document::new(VESSEL_CONFIG, manifest)?;
    let artifact = artifact(VESSEL, &config.descriptor, empty())?;
    Ok((config, artifact))
}

/// The configuration of a snapshot's artifact.
pub(super) fn snapshot_config(snapshot: &SnapshotManifest) -> Result<Document> {
    Document::new(SNAPSHOT_CONFIG, snapshot)
}

/// A snapshot's archive as a layer.
pub(super) fn archive(digest: Digest, size: u64) -> Descriptor {
    Descriptor::new(ARCHIVE, digest, size)
}

/// A snapshot's artifact.
pub(super) fn snapshot(config: &Descriptor, archive: Descriptor) -> Result<Document> {
    artifact(SNAPSHOT, config, archive)
}

fn artifact(kind: &str, config: &Descriptor, layer: Descriptor) -> Result<Document> {
    let artifact = Artifact {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: kind.to_owned(),
        config: config.clone(),
        layers: vec![layer],
    };
    Document::new(media_type::OCI_MANIFEST, &artifact)
}

/// The index over everything.
pub(super) fn index(
    manifest: &VesselManifest,
    vessel: &Descriptor,
    base: Option<(&Descriptor, &ImageRecord)>,
    snapshots: &[Descriptor],
) -> Result<Document> {
    let marked = |descriptor: &Descriptor, kind: &str, key: &str, value: &str| {
        let mut entry = descriptor.clone();
        entry.annotations = Some(BTreeMap::from([(key.to_owned(), value.to_owned())]));
        entry.other.insert("artifactType".to_owned(), kind.into());
        entry
    };
    let mut entries = vec![marked(vessel, VESSEL, VESSEL_ID, &manifest.id)];
    if let Some((descriptor, record)) = base {
        let mut entry = descriptor.clone();
        let name = (BASE_NAME.to_owned(), manifest.base_image_ref.clone());
        entry.annotations = Some(BTreeMap::from([name]));
        // Whoever takes the index for an image gets the base.
        entry.platform = record.platform();
        entries.push(entry);
    }
    let of_snapshot = |(snapshot, descriptor): (&SnapshotManifest, &Descriptor)| {
        marked(descriptor, SNAPSHOT, SNAPSHOT_ID, &snapshot.id)
    };
    entries.extend(manifest.snapshots.iter().zip(snapshots).map(of_snapshot));
    if entries.len() > MAX_DESCRIPTORS {
        let message = format!("a history of {} entries, and {MAX_DESCRIPTORS} is the most", entries.len());
        return Err(Error::new(ErrorKind::LimitExceeded, message));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "artifactType": VESSEL,
        "manifests": entries,
        "annotations": {
            VESSEL_ID: manifest.id,
            BASE_NAME: manifest.base_image_ref,
            BASE_DIGEST: manifest.base_image_digest,
        },
    });
    Document::new(media_type::OCI_INDEX, &index)
}

/// What an index leads to.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) vessel: Descriptor,
    pub(super) base: Option<Descriptor>,
    pub(super) snapshots: BTreeMap<String, Descriptor>,
}

fn malformed(what: &str) -> Error {
    Error::integrity(format!("the history is malformed: {what}"))
}

/// Reads an index whose digest was verified.
pub(super) fn parse_index(bytes: &[u8]) -> Result<History> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Index {
        schema_version: u64,
        artifact_type: Option<String>,
        manifests: Vec<Descriptor>,
    }
    let index: Index =
        strict::parse(bytes, MAX_JSON_BYTES).map_err(|e| malformed("its index").with_source(e))?;
    if index.schema_version != 2 || index.artifact_type.as_deref() != Some(VESSEL) {
        return Err(Error::invalid("this is no history of a vessel"));
    }
    if index.manifests.len() > MAX_DESCRIPTORS {
        return Err(Error::new(ErrorKind::LimitExceeded, "the history has too many entries"));
    }
    let mut vessel = None;
    let mut history = (None, BTreeMap::new());
    for entry in index.manifests {
        let kind = entry.other.get("artifactType").and_then(|kind| kind.as_str()).map(str::to_owned);
        let fresh = match kind.as_deref() {
            Some(VESSEL) => vessel.replace(entry).is_none(),
            Some(SNAPSHOT) => {
                let id = entry.annotation(SNAPSHOT_ID).map(str::to_owned);
                let id = id.ok_or_else(|| malformed("a snapshot without an id"))?;
                history.1.insert(id, entry).is_none()
            }
            None if entry.annotation(BASE_NAME).is_some() => history.0.replace(entry).is_none(),
            // Of a later version.
            _ => true,
        };
        if !fresh {
            return Err(malformed("two entries are the same"));
        }
    }
    let vessel = vessel.ok_or_else(|| malformed("it has no manifest of the vessel"))?;
    Ok(History { vessel, base: history.0, snapshots: history.1 })
}

/// Reads an artifact: its configuration and its one layer.
fn parse_artifact(bytes: &[u8], kind: &str, config: &str) -> Result<(Descriptor, Descriptor)> {
    let artifact: Artifact =
        strict::parse(bytes, MAX_JSON_BYTES).map_err(|e| malformed("an artifact").with_source(e))?;
    let typed = artifact.artifact_type == kind && artifact.config.media_type == config;
    let [layer] = <[Descriptor; 1]>::try_from(artifact.layers)
        .map_err(|_| malformed("an artifact has not one layer"))?;
    if artifact.schema_version == 2 && artifact.media_type == media_type::OCI_MANIFEST && typed {
        return Ok((artifact.config, layer));
    }
    Err(malformed("an artifact is of another type"))
}

/// Where the vessel's manifest is.
pub(super) fn parse_vessel(bytes: &[u8]) -> Result<Descriptor> {
    parse_artifact(bytes, VESSEL, VESSEL_CONFIG).map(|(config, _)| config)
}

/// Where a snapshot's archive is; its artifact must be that of `snapshot`.
pub(super) fn parse_snapshot(bytes: &[u8], snapshot: &SnapshotManifest) -> Result<Descriptor> {
    let (config, layer) = parse_artifact(bytes, SNAPSHOT, SNAPSHOT_CONFIG)?;
    if config.digest != snapshot_config(snapshot)?.descriptor.digest {
        return Err(malformed(&format!("snapshot {} is another one than the vessel's", snapshot.id)));
    }
    if layer.media_type != ARCHIVE {
        return Err(malformed(&format!("the archive of snapshot {} is of another type", snapshot.id)));
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;

    fn manifest() -> VesselManifest {
        let snapshot = |id: &str, parent: &str| SnapshotManifest {
            id: id.into(),
            vessel_id: "v".into(),
            parent_id: parent.into(),
            message: "m".into(),
            checksum: Digest::sha256(b"x").to_string(),
            size: 1,
            create_time: OffsetDateTime::UNIX_EPOCH,
            labels: BTreeMap::new(),
            mode: None,
            pause_ms: None,
        };
        VesselManifest {
            version: 1,
            id: "v".into(),
            base_image_ref: "base".into(),
            base_image_digest: Digest::sha256(b"b").to_string(),
            current_snapshot_id: "s2".into(),
            work_dir: "/".into(),
            create_time: OffsetDateTime::UNIX_EPOCH,
            update_time: OffsetDateTime::UNIX_EPOCH,
            labels: BTreeMap::new(),
            snapshots: vec![snapshot("s1", ""), snapshot("s2", "s1")],
        }
    }

    fn whole() -> (VesselManifest, Document, Vec<Document>, Document) {
        let manifest = manifest();
        let (_, vessel) = vessel(&manifest).unwrap();
        let artifacts: Vec<Document> = manifest
            .snapshots
            .iter()
            .map(|s| {
                snapshot(&snapshot_config(s).unwrap().descriptor, archive(Digest::sha256(b"a"), 1)).unwrap()
            })
            .collect();
        let entries: Vec<Descriptor> = artifacts.iter().map(|artifact| artifact.descriptor.clone()).collect();
        let index = index(&manifest, &vessel.descriptor, None, &entries).unwrap();
        (manifest, vessel, artifacts, index)
    }

    #[test]
    fn what_is_written_reads_back() {
        let (manifest, vessel, artifacts, index) = whole();
        let history = parse_index(&index.bytes).unwrap();
        assert_eq!(history.vessel.digest, vessel.descriptor.digest);
        assert!(history.base.is_none());
        for (snapshot, artifact) in manifest.snapshots.iter().zip(&artifacts) {
            assert_eq!(history.snapshots[&snapshot.id].digest, artifact.descriptor.digest);
            assert_eq!(parse_snapshot(&artifact.bytes, snapshot).unwrap().digest, Digest::sha256(b"a"));
        }
        assert_eq!(parse_vessel(&vessel.bytes).unwrap().media_type, VESSEL_CONFIG);
    }

    #[test]
    fn what_is_something_else_is_refused() {
        let (manifest, vessel, artifacts, index) = whole();
        assert!(parse_snapshot(&artifacts[0].bytes, &manifest.snapshots[1]).is_err());
        assert!(parse_snapshot(&vessel.bytes, &manifest.snapshots[0]).is_err());
        assert!(parse_vessel(&artifacts[0].bytes).is_err());
        let text = String::from_utf8(index.bytes).unwrap();
        for (from, to) in [
            ("\"schemaVersion\":2", "\"schemaVersion\":1"),
            ("\"artifactType\":\"application/vnd.vesselrt.vessel.v1\",\"manifests\"", "\"manifests\""),
            ("\"com.vesselrt.snapshot.id\":\"s2\"", "\"com.vesselrt.snapshot.id\":\"s1\""),
            ("\"com.vesselrt.snapshot.id\":\"s2\"", "\"x\":\"s2\""),
            ("vessel.v1\",\"digest\"", "other\",\"digest\""),
        ] {
            let changed = text.replacen(from, to, 1);
            assert!(changed == text || parse_index(changed.as_bytes()).is_err(), "{from}");
        }
        assert!(parse_index(b"{}").is_err() && parse_index(b"").is_err());
    }
}
