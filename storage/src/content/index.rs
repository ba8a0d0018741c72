//! References: `index.json` of the store, and the images it leads to.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ContentStore;
use super::lock::{Lease, Mode, lock};
use crate::digest::Digest;
use crate::dir::stage::replace;
use crate::error::{Result, StorageError};
use crate::image::descriptor::{Descriptor, REF_NAME};
use crate::image::document::{Document, best};
use crate::image::platform::Platform;
use crate::image::record::ImageRecord;
use crate::image::{ImageError, MAX_INDEX_DEPTH, MAX_JSON_BYTES, media_type};
use crate::json;
use crate::reference::Reference;
use crate::verify::VerifiedReader;

const INDEX_FILE: &str = "index.json";
const INDEX_LOCK: &str = ".index.lock";
/// The largest index of a store: some ten thousands of references.
const MAX_INDEX_BYTES: u64 = 4 * MAX_JSON_BYTES;

/// The content of `index.json`; what is not known is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    schema_version: u64,
    pub(super) manifests: Vec<Descriptor>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// A reference of the store, and what it leads to.
#[derive(Debug)]
pub struct ImageEntry {
    /// The reference as stored: canonical if this crate set it, arbitrary (often a bare tag) if another tool
    /// did.
    pub reference: Option<String>,
    /// What it points at.
    pub manifest_digest: Digest,
    /// The image, or why it cannot be used: one damaged image does not hide the others.
    pub record: Result<ImageRecord>,
}

impl ContentStore {
    /// Makes `reference` lead to the manifest `descriptor`, whose blobs must all be there. What it led to
    /// before stays without reference. Hold a [`Lease`] since before the blobs were stored.
    ///
    /// # Errors
    /// `Invalid` if the reference has the digest of something else; `NotFound` for a missing blob; `Corrupt` or
    /// `Unsupported` for a manifest or configuration that is not acceptable; `Io`.
    pub fn tag(&self, reference: &Reference, descriptor: &Descriptor) -> Result<ImageRecord> {
        let name = reference.to_string();
        if reference.digest().is_some_and(|digest| *digest != descriptor.digest) {
            let error = ImageError::PinnedElsewhere { actual: descriptor.digest.clone() };
            return Err(StorageError::invalid(format!("reference {name}"), error));
        }
        let mut record = self.record(descriptor)?;
        for layer in &record.layers {
            self.read_blob(&layer.digest, layer.size)?;
        }
        let mut entry = descriptor.clone();
        entry.annotations.get_or_insert_default().insert(REF_NAME.into(), name.clone());
        self.change_index(|entries| {
            // In its place: a tag that is set to what it is already changes nothing.
            let named = |e: &Descriptor| e.ref_name() == Some(&name);
            match entries.iter_mut().find(|e| named(e)) {
                Some(old) => *old = entry,
                None => entries.push(entry),
            }
        })?;
        record.reference = Some(name);
        Ok(record)
    }

    /// Makes `reference` lead to an image that is here, by the digest of its manifest.
    ///
    /// # Errors
    /// `NotFound` if there is no such image; those of [`ContentStore::tag`].
    pub fn tag_digest(&self, reference: &Reference, digest: &Digest) -> Result<ImageRecord> {
        let named = self.read_index()?.manifests.into_iter().find(|entry| entry.digest == *digest);
        let descriptor = match named {
            Some(descriptor) => Some(descriptor),
            None => self.guess_descriptor(digest)?,
        };
        let missing = || StorageError::not_found(format!("image {digest}"));
        self.tag(reference, &descriptor.ok_or_else(missing)?)
    }

    /// The image that `reference` leads to. Of a reference with a digest only the digest counts.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported` for an image that is there and cannot be used; `Io`.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<ImageRecord>> {
        if let Some(digest) = reference.digest() {
            return self.resolve_digest(digest);
        }
        let name = reference.to_string();
        let index = self.read_index()?;
        let Some(entry) = index.manifests.iter().find(|e| e.ref_name() == Some(&name)) else {
            return Ok(None);
        };
        let record = self.record(entry)?;
        Ok(Some(ImageRecord { reference: Some(name), ..record }))
    }

    /// The image with the manifest (or index) `digest`, whether or not a reference leads to it. Other blobs are
    /// no images.
    ///
    /// # Errors
    /// Those of [`ContentStore::resolve`].
    pub fn resolve_digest(&self, digest: &Digest) -> Result<Option<ImageRecord>> {
        let index = self.read_index()?;
        let descriptor = match index.manifests.into_iter().find(|entry| entry.digest == *digest) {
            Some(entry) => entry,
            None => match self.guess_descriptor(digest)? {
                Some(descriptor) => descriptor,
                None => return Ok(None),
            },
        };
        let record = self.record(&descriptor)?;
        Ok(Some(ImageRecord { reference: descriptor.ref_name().map(str::to_owned), ..record }))
    }

    /// All references, in the order of the index.
    ///
    /// # Errors
    /// `Corrupt` index; `Io`.
    pub fn list(&self) -> Result<Vec<ImageEntry>> {
        let entry = |descriptor: Descriptor| {
            let reference = descriptor.ref_name().map(str::to_owned);
            let record = self.record(&descriptor).map(|r| ImageRecord { reference: reference.clone(), ..r });
            ImageEntry { reference, manifest_digest: descriptor.digest, record }
        };
        Ok(self.read_index()?.manifests.into_iter().map(entry).collect())
    }

    /// Removes a reference; false if there is none. The blobs stay until [`ContentStore::prune_blobs`].
    ///
    /// # Errors
    /// `Corrupt` index; `Io`.
    pub fn untag(&self, reference: &Reference) -> Result<bool> {
        let name = reference.to_string();
        let mut found = false;
        self.change_index(|entries| {
            let before = entries.len();
            entries.retain(|entry| entry.ref_name() != Some(&name));
            found = entries.len() < before;
        })?;
        Ok(found)
    }

    pub(super) fn init_index(&self) -> Result<()> {
        if self.root.open_file(INDEX_FILE)?.is_none() {
            let _lock = self.lock_index()?;
            if self.root.open_file(INDEX_FILE)?.is_none() {
                self.write_index(&Index::empty())?;
            }
        }
        Ok(())
    }

    pub(super) fn read_index(&self) -> Result<Index> {
        let Some(bytes) = self.root.read_file(INDEX_FILE, MAX_INDEX_BYTES)? else {
            return Ok(Index::empty());
        };
        let path = || self.root.path_of(INDEX_FILE).display().to_string();
        let index: Index =
            json::parse(&bytes, MAX_INDEX_BYTES).map_err(|e| StorageError::corrupt(path(), e))?;
        if index.schema_version == 2 {
            Ok(index)
        } else {
            Err(StorageError::corrupt(path(), ImageError::Schema))
        }
    }

    /// Follows a descriptor, through indexes, to the manifest for this host, and reads that with its
    /// configuration.
    pub(crate) fn record(&self, descriptor: &Descriptor) -> Result<ImageRecord> {
        let mut descriptor = descriptor.clone();
        for _ in 0..=MAX_INDEX_DEPTH {
            let bytes = self.read_json_blob(&descriptor.digest, descriptor.size)?;
            let host = Platform::host();
            match Document::parse(&bytes, &descriptor)? {
                Document::Manifest(manifest) => {
                    let config = self.read_json_blob(&manifest.config.digest, manifest.config.size)?;
                    return ImageRecord::new(&descriptor, &manifest, &config);
                }
                Document::Index(entries) => {
                    let chosen = best(&entries, &host).cloned();
                    descriptor =
                        chosen.ok_or_else(|| StorageError::not_found(format!("an image for {host}")))?;
                }
            }
        }
        Err(StorageError::corrupt(format!("image {}", descriptor.digest), ImageError::IndexDepth))
    }

    /// A descriptor for a manifest that no reference leads to: its type is what it calls itself, or OCI's.
    /// `None` if there is no such blob, or it is something else.
    pub(crate) fn guess_descriptor(&self, digest: &Digest) -> Result<Option<Descriptor>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
            layers: Option<serde::de::IgnoredAny>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let Some((file, size)) = self.blobs.open_file(super::file_name(digest)?)? else { return Ok(None) };
        if size > MAX_JSON_BYTES {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = VerifiedReader::new(file, digest.clone(), size).read_to_end(&mut bytes);
        read.map_err(|e| StorageError::io("read", self.blob_path(digest), e))?;
        let Ok(typed) = json::parse::<Typed>(&bytes, MAX_JSON_BYTES) else { return Ok(None) };
        let default = match (typed.layers, typed.manifests) {
            (_, Some(_)) => media_type::OCI_INDEX,
            (Some(_), None) => media_type::OCI_MANIFEST,
            (None, None) => return Ok(None),
        };
        let media_type = typed.media_type.unwrap_or_else(|| default.to_owned());
        Ok(Some(Descriptor::new(media_type, digest.clone(), size)))
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<()> {
        let _lock = self.lock_index()?;
        let mut index = self.read_index()?;
        let before = index.manifests.clone();
        change(&mut index.manifests);
        if index.manifests == before { Ok(()) } else { self.write_index(&index) }
    }

    fn write_index(&self, index: &Index) -> Result<()> {
        let bytes = serde_json::to_vec(index).map_err(|e| StorageError::invalid("image index", e))?;
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            let what = format!("an image index of {} bytes", bytes.len());
            return Err(StorageError::LimitExceeded { what, limit: MAX_INDEX_BYTES });
        }
        crate::dir::stage::sweep(&self.root)?;
        replace(&self.root, INDEX_FILE, &bytes)
    }

    fn lock_index(&self) -> Result<Lease> {
        lock(&self.root, INDEX_LOCK, Mode::Exclusive)
    }
}

impl Index {
    fn empty() -> Self {
        let media_type = Value::String(media_type::OCI_INDEX.into());
        let other = BTreeMap::from([("mediaType".to_owned(), media_type)]);
        Self { schema_version: 2, manifests: Vec::new(), other }
    }
}
