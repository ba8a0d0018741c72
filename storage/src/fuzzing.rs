//! A door for the fuzz targets (`fuzz/`) to what is otherwise private. No part of the API, and without any logic of its own.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::error::Result;
use crate::image::descriptor::Descriptor;
use crate::image::document::Manifest;
use crate::image::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::image::record::ImageRecord;

/// Joins a configuration with a manifest of so many layers, as it is done for an image whose blobs were verified.
///
/// # Errors
/// Those of an image with such a configuration.
pub fn image(config: &[u8], layers: usize) -> Result<ImageRecord> {
    let descriptor = |kind: &str| Descriptor::new(kind, Digest::sha256(config), config.len() as u64);
    let manifest = Manifest { config: descriptor(OCI_CONFIG), layers: vec![descriptor(OCI_LAYER); layers] };
    ImageRecord::new(&descriptor(OCI_MANIFEST), &manifest, config)
}
