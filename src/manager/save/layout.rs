//! An image as an OCI image layout (image-spec, image-layout.md).
#![forbid(unsafe_code)]

use std::io::Read;

use serde_json::{Map, json};
use vesselrt_storage::image::descriptor::{Descriptor, REF_NAME};
use vesselrt_storage::image::media_type;
use vesselrt_storage::{Digest, ImageRecord};

use super::{blob_name, reference_of};
use crate::error::{Error, Result};
use crate::manager::ManagerInner;
use crate::manager::parts::Parts;

/// Where containerd, docker and podman look for the full reference.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// One file of a layout.
pub(super) enum File<'a> {
    Directory(&'a str),
    Bytes(&'a str, &'a [u8]),
    Blob(&'a str, u64, &'a mut dyn Read),
}

/// An image on its way into a layout.
pub(super) struct Layout<'a> {
    manager: &'a ManagerInner,
    parts: Parts,
    index: Vec<u8>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(manager: &'a ManagerInner, image: &ImageRecord) -> Result<Self> {
        let parts = oci(manager.parts(&image.manifest_digest)?)?;
        let mut entry = parts.descriptor.clone();
        let mut annotations = std::collections::BTreeMap::new();
        if let Some(reference) = reference_of(image) {
            if let Some(tag) = reference.tag() {
                annotations.insert(REF_NAME.to_owned(), tag.to_owned());
            }
            annotations.insert(CONTAINERD_NAME.to_owned(), reference.to_string());
        }
        entry.annotations = (!annotations.is_empty()).then_some(annotations);
        entry.platform = image.platform();
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry] });
        let index = serde_json::to_vec(&index)
            .map_err(|e| Error::internal("failed to write an index").with_source(e))?;
        Ok(Self { manager, parts, index })
    }

    /// Gives out every file, directories before what is in them.
    pub(super) fn write(&self, put: &mut dyn FnMut(File<'_>) -> Result<()>) -> Result<()> {
        put(File::Bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#))?;
        put(File::Directory("blobs"))?;
        put(File::Directory("blobs/sha256"))?;
        for blob in self.parts.blobs() {
            let reader = self.manager.content.read_blob(&blob.digest, blob.size);
            let mut reader = reader.map_err(|e| Error::storage("failed to read a blob of the image", e))?;
            put(File::Blob(&blob_name(&blob.digest), blob.size, &mut reader))?;
        }
        put(File::Bytes(&blob_name(&self.parts.descriptor.digest), &self.parts.bytes))?;
        // Last: what has it is whole.
        put(File::Bytes("index.json", &self.index))
    }
}

/// The image with OCI's media types: docker's have no place in a layout.
fn oci(parts: Parts) -> Result<Parts> {
    if parts.descriptor.media_type == media_type::OCI_MANIFEST {
        return Ok(parts);
    }
    let mut manifest = parts.manifest;
    manifest.config.media_type = media_type::OCI_CONFIG.to_owned();
    for layer in &mut manifest.layers {
        if let Some(compression) = media_type::layer_compression(&layer.media_type) {
            media_type::oci_layer(compression).clone_into(&mut layer.media_type);
        }
        // Where docker would have it fetched from: the bytes are here.
        layer.other = Default::default();
    }
    let mut document = Map::new();
    document.insert("schemaVersion".into(), 2.into());
    document.insert("mediaType".into(), media_type::OCI_MANIFEST.into());
    document.insert("config".into(), json!(manifest.config));
    document.insert("layers".into(), json!(manifest.layers));
    let bytes = serde_json::to_vec(&document)
        .map_err(|e| Error::internal("failed to write a manifest").with_source(e))?;
    let descriptor = Descriptor::new(media_type::OCI_MANIFEST, Digest::sha256(&bytes), bytes.len() as u64);
    Ok(Parts { descriptor, bytes, manifest })
}
