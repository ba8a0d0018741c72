//! [`Parts`]: an image as the blobs it is made of.
#![forbid(unsafe_code)]

use serde::Deserialize;
use vesselrt_storage::Digest;
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::image::document::{Document, Manifest};
use vesselrt_storage::image::media_type;

use super::ManagerInner;
use crate::error::{Error, Result};

/// The manifest of an image, and what it leads to.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) descriptor: Descriptor,
    pub(super) bytes: Vec<u8>,
    pub(super) manifest: Manifest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<String>,
}

impl ManagerInner {
    /// The parts of the image whose manifest is `digest`.
    pub(super) fn parts(&self, digest: &Digest) -> Result<Parts> {
        let failed = |e| Error::storage(format!("failed to read the manifest {digest}"), e);
        let (_, size) = self.content.open_blob(digest).map_err(failed)?;
        let bytes = self.content.read_json_blob(digest, size).map_err(failed)?;
        let typed: Typed = serde_json::from_slice(&bytes)
            .map_err(|e| Error::integrity(format!("the manifest {digest} is malformed")).with_source(e))?;
        // One that does not say what it is, is OCI's (image-spec manifest.md).
        let kind = typed.media_type.unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned());
        let descriptor = Descriptor::new(kind, digest.clone(), size);
        match Document::parse(&bytes, &descriptor).map_err(failed)? {
            Document::Manifest(manifest) => Ok(Parts { descriptor, bytes, manifest: *manifest }),
            Document::Index(_) => Err(Error::invalid(format!("{digest} is an index and no image"))),
        }
    }
}

impl Parts {
    /// Configuration and layers, each once.
    pub(super) fn blobs(&self) -> Vec<&Descriptor> {
        let mut blobs: Vec<&Descriptor> = Vec::with_capacity(self.manifest.layers.len() + 1);
        for blob in self.manifest.layers.iter().chain([&self.manifest.config]) {
            if !blobs.iter().any(|other| other.digest == blob.digest) {
                blobs.push(blob);
            }
        }
        blobs
    }
}
