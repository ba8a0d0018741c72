//! docker-archive: `manifest.json`, a configuration and layers in a tar.
//!
//! Source: docker's image specification v1.2, "Combined Image JSON + Filesystem Changeset Format"; seen from
//! docker, podman, skopeo, kaniko.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::layer::{self, Source, Stored};
use super::members::Members;
use super::rootfs::put_manifest;
use super::tap::LayerTap;
use super::{ArchiveError, Import, ImportProgress, selects};
use crate::digest::Digest;
use crate::error::{Result, StorageError};
use crate::image::descriptor::Descriptor;
use crate::image::media_type::OCI_CONFIG;
use crate::image::record::{ImageRecord, diff_ids};
use crate::image::{ImageError, MAX_JSON_BYTES, MAX_LAYERS};
use crate::json::{self, JsonError};

/// The member that makes a tar a docker-archive.
pub(super) const MANIFEST: &str = "manifest.json";

/// An image of the archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Entry {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

/// Whether this is the content of [`MANIFEST`], and not some file of that name.
pub(super) fn check_manifest(bytes: &[u8]) -> std::result::Result<(), JsonError> {
    json::parse::<Vec<Entry>>(bytes, MAX_JSON_BYTES).map(|_| ())
}

/// Imports the image that is meant.
pub(super) fn import(import: &mut Import<'_>, members: &Members<'_>) -> Result<ImageRecord> {
    let bytes = members.document(MANIFEST)?;
    let undecodable = |name: &str, source| ArchiveError::Json { name: name.to_owned(), source };
    let entries: Vec<Entry> =
        json::parse(&bytes, MAX_JSON_BYTES).map_err(|e| import.corrupt(undecodable(MANIFEST, e)))?;
    let entry = choose(import, entries)?;
    let reference = import.reference(entry.tags().iter().cloned())?;

    let config_bytes = members.document(&entry.config)?;
    let digest = Digest::sha256(&config_bytes);
    if let Some(expected) = digest_in_name(&entry.config).filter(|expected| *expected != digest) {
        return Err(import.corrupt(ArchiveError::ConfigDigest { expected, actual: digest }));
    }
    let config: ImageConfiguration = json::parse(&config_bytes, MAX_JSON_BYTES)
        .map_err(|e| import.corrupt(undecodable("configuration", e)))?;
    import.check_platform(&config)?;
    let layers = store_layers(import, members, &entry, &config)?;

    let size = config_bytes.len() as u64;
    import.store.put_blob(config_bytes.as_slice(), Some((digest.clone(), size)))?;
    let config = Descriptor::new(OCI_CONFIG, digest, size);
    let descriptors: Vec<Descriptor> = layers.iter().map(Stored::descriptor).collect();
    let manifest = put_manifest(import.store, &config, &descriptors)?;

    import.store.tag(&reference, &manifest)
}

/// The image that the caller named; else the one that is called like the result; else the only one.
fn choose(import: &Import<'_>, mut entries: Vec<Entry>) -> Result<Entry> {
    let named = |selector: &str| {
        entries.iter().position(|entry| entry.tags().iter().any(|tag| selects(selector, tag)))
    };
    let at = match (&import.options.source, &import.options.reference) {
        (Some(source), _) => {
            let missing = || {
                import
                    .refuse(ArchiveError::Missing { name: format!("image {}", crate::error::quoted(source)) })
            };
            Some(named(source).ok_or_else(missing)?)
        }
        (None, Some(reference)) => named(&reference.to_string()),
        (None, None) => None,
    };
    match (at, entries.len()) {
        (Some(at), _) => Ok(entries.swap_remove(at)),
        (None, 1) => Ok(entries.swap_remove(0)),
        (None, 0) => Err(import.corrupt(ArchiveError::Missing { name: "image".into() })),
        (None, _) => {
            let tags: Vec<&str> = entries.iter().flat_map(Entry::tags).map(String::as_str).take(20).collect();
            Err(import.refuse(ArchiveError::SeveralImages { names: tags.join(", ") }))
        }
    }
}

/// The configuration is called after its digest: `HEX.json`, `sha256:HEX`, `blobs/sha256/HEX`.
pub(super) fn digest_in_name(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last.strip_suffix(".json").unwrap_or(last);
    let hex = hex.strip_prefix("sha256:").unwrap_or(hex);
    Digest::parse(&format!("sha256:{hex}")).ok()
}

/// Stores the layers as they are. Several names may mean one file (docker saved repeated layers as links).
fn store_layers(
    import: &mut Import<'_>,
    members: &Members<'_>,
    entry: &Entry,
    config: &ImageConfiguration,
) -> Result<Vec<Stored>> {
    let wrong = |path: &std::path::Path, e: ImageError| StorageError::corrupt(path.display().to_string(), e);
    let names = entry.layers.as_deref().unwrap_or_default();
    let expected = diff_ids(config).map_err(|e| wrong(import.path, e))?;
    if names.len() != expected.len() {
        let error = ImageError::LayerCount { layers: names.len(), diff_ids: expected.len() };
        return Err(wrong(import.path, error));
    }
    if names.len() > MAX_LAYERS {
        let what = format!("an image of {} layers", names.len());
        return Err(StorageError::LimitExceeded { what, limit: MAX_LAYERS as u64 });
    }
    let mut done: HashMap<u64, Stored> = HashMap::new();
    let mut layers = Vec::with_capacity(names.len());
    for (index, (name, diff_id)) in names.iter().zip(&expected).enumerate() {
        let found = members.find(name)?;
        let stored = match done.get(&found.0) {
            Some(stored) => stored.clone(),
            None => store_whole(import, members, found, (index, names.len()), diff_id)?,
        };
        layer::expect_diff_id(index, diff_id, &stored.diff_id).map_err(|e| import.corrupt(e))?;
        done.insert(found.0, stored.clone());
        layers.push(stored);
    }
    Ok(layers)
}

/// [`store_layer`], by ourselves if the tap fails.
fn store_whole(
    import: &mut Import<'_>,
    members: &Members<'_>,
    found: (u64, u64),
    at: (usize, usize),
    diff_id: &Digest,
) -> Result<Stored> {
    if let Some(stored) = store_layer(import, members, found, at, diff_id)? {
        return Ok(stored);
    }
    import.tap = None;
    let stored = store_layer(import, members, found, at, diff_id)?;
    stored.ok_or(StorageError::Cancelled { what: "storing a layer" })
}

/// `None` when the tap failed.
fn store_layer(
    import: &mut Import<'_>,
    members: &Members<'_>,
    found: (u64, u64),
    (index, count): (usize, usize),
    diff_id: &Digest,
) -> Result<Option<Stored>> {
    let path = import.path;
    let progress = &mut *import.progress;
    let report = |bytes| progress(ImportProgress::Layer { index, count, bytes, total: Some(found.1) });
    let tap = import.tap.as_deref_mut().map(|tap| (tap as &mut dyn LayerTap, index, Some(diff_id)));
    let limit = import.options.limits.layer_bytes;
    let source = Source { raw: members.section(found), limit, report, tap };
    layer::store(import.store, source, |_, actual| {
        let checked = layer::expect_diff_id(index, diff_id, actual);
        checked.map_err(|e| StorageError::corrupt(path.display().to_string(), e))
    })
}
