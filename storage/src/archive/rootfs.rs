//! A tar of a root file system becomes an image of one layer.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::json;

use super::detect::from_start;
use super::layer::{self, Source, Stored};
use super::tap::LayerTap;
use super::{ArchiveError, Import, ImportOptions, ImportProgress};
use crate::content::ContentStore;
use crate::digest::Digest;
use crate::error::{Result, StorageError};
use crate::image::descriptor::Descriptor;
use crate::image::media_type::{OCI_CONFIG, OCI_MANIFEST};
use crate::image::record::ImageRecord;
use crate::reference::Reference;

/// `PATH` of an image that does not say.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Imports a root file system from a stream of tar, plain or compressed, as `reference`. The layer is stored as
/// it comes; configuration and manifest are made up, without times: the same stream always makes the same
/// image.
///
/// # Errors
/// `Invalid` with [`super::ArchiveError::Unknown`] if it is no tar; `Corrupt` for a truncated one and a damaged compression;
/// `LimitExceeded`; `Io`, also for errors of `reader`.
pub fn import_rootfs_stream(
    store: &ContentStore,
    reader: impl Read,
    reference: &Reference,
) -> Result<ImageRecord> {
    let options = ImportOptions { reference: Some(reference.clone()), ..ImportOptions::default() };
    let (path, lease) = (Path::new("root file system"), store.lease()?);
    let mut import =
        Import { store, options: &options, progress: &mut |_| (), tap: None, path, _lease: lease };
    let stored = store_layer(&mut import, reader, None)?;
    self::import(&mut import, &stored.ok_or(UNTAPPED)?)
}

/// Without a tap no tap fails.
const UNTAPPED: StorageError = StorageError::Cancelled { what: "storing a layer" };

/// The layer is all of `file`, which is read again if the tap fails.
pub(super) fn import_file(import: &mut Import<'_>, file: &File) -> Result<ImageRecord> {
    import.reference([])?;
    let size = file.metadata().map_err(|e| StorageError::io("stat", import.path, e))?.len();
    let mut stored = store_layer(import, from_start(file), Some(size))?;
    if stored.is_none() {
        import.tap = None;
        stored = store_layer(import, from_start(file), Some(size))?;
    }
    self::import(import, &stored.ok_or(UNTAPPED)?)
}

/// Stores the layer `reader`, of `total` bytes if that is known; `None` when the tap failed.
fn store_layer(import: &mut Import<'_>, reader: impl Read, total: Option<u64>) -> Result<Option<Stored>> {
    let path = import.path;
    let not_tar = |e| match e {
        ArchiveError::Truncated => StorageError::corrupt(path.display().to_string(), e),
        _ => StorageError::invalid(path.display().to_string(), e),
    };
    let progress = &mut *import.progress;
    let report = |bytes| progress(ImportProgress::Layer { index: 0, count: 1, bytes, total });
    let tap = import.tap.as_deref_mut().map(|tap| (tap as &mut dyn LayerTap, 0, None));
    let source = Source { raw: reader, limit: import.options.limits.layer_bytes, report, tap };
    layer::store(import.store, source, |ends, _| layer::expect_tar(ends).map_err(not_tar))
}

/// Makes up an image of one layer.
fn import(import: &mut Import<'_>, layer: &Stored) -> Result<ImageRecord> {
    let reference = import.reference([])?;
    let config = configuration(import, layer)?;
    let manifest = put_manifest(import.store, &config, &[layer.descriptor()])?;
    import.store.tag(&reference, &manifest)
}

/// Makes up a configuration and stores it.
fn configuration(import: &Import<'_>, layer: &Stored) -> Result<Descriptor> {
    let platform = import.wanted();
    let mut config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": { "Env": [DEFAULT_PATH] },
        "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
        "history": [{ "created_by": "vesselrt image import" }],
    });
    if let Some(variant) = platform.variant {
        config["variant"] = variant.into();
    }
    put_json(import.store, OCI_CONFIG, &config)
}

/// Stores the manifest of an image.
pub(super) fn put_manifest(
    store: &ContentStore,
    config: &Descriptor,
    layers: &[Descriptor],
) -> Result<Descriptor> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": layers,
    });
    put_json(store, OCI_MANIFEST, &manifest)
}

fn put_json(store: &ContentStore, media_type: &str, value: &serde_json::Value) -> Result<Descriptor> {
    let bytes = value.to_string().into_bytes();
    let expected = (Digest::sha256(&bytes), bytes.len() as u64);
    let (digest, size) = store.put_blob(bytes.as_slice(), Some(expected))?;
    Ok(Descriptor::new(media_type, digest, size))
}
