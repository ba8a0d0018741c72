//! [`ImageRecord`]: everything that is to be known about a stored image.
#![forbid(unsafe_code)]

use oci_spec::image::ImageConfiguration;
use serde::Serialize;

use super::descriptor::Descriptor;
use super::document::Manifest;
use super::platform::Platform;
use super::{ImageError, MAX_JSON_BYTES, media_type};
use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::{Result, StorageError, quoted};
use crate::json;

/// A stored image.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// The reference it was found by, canonical; `None` if by digest and it has none.
    pub reference: Option<String>,
    /// Digest of the manifest: what pins an image.
    pub manifest_digest: Digest,
    /// Digest of the configuration: what docker calls the image id.
    pub config_digest: Digest,
    /// The configuration.
    pub config: ImageConfiguration,
    /// The layers, lowest first. May be empty: an image of nothing.
    pub layers: Vec<LayerRecord>,
    /// Size of manifest, configuration and layers as stored, in bytes.
    pub size: u64,
    /// When it was made, RFC 3339, if the image says so.
    pub created: Option<String>,
}

/// A layer of an [`ImageRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerRecord {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Media type of the blob.
    pub media_type: String,
    /// What the media type says about its compression. What the blob *is* shows when it is unpacked.
    pub compression: Compression,
    /// Digest of the uncompressed tar. It is for whoever unpacks the layer to verify.
    pub diff_id: Digest,
    /// Identifies this layer on top of all those below (image-spec, config.md, "Layer ChainID").
    pub chain_id: Digest,
}

impl ImageRecord {
    /// Joins a checked manifest with its configuration, whose digest and size were verified.
    ///
    /// # Errors
    /// `Corrupt` with an [`ImageError`], `Unsupported` for another operating system than Linux.
    pub(crate) fn new(descriptor: &Descriptor, manifest: &Manifest, config: &[u8]) -> Result<Self> {
        let wrong = |error| StorageError::corrupt(format!("image {}", descriptor.digest), error);
        let config: ImageConfiguration =
            json::parse(config, MAX_JSON_BYTES).map_err(|e| wrong(ImageError::Json(e)))?;
        let os = config.os().to_string();
        if !os.is_empty() && os != "linux" {
            return Err(StorageError::Unsupported { what: format!("an image for {}", quoted(&os)) });
        }
        let diff_ids = diff_ids(&config).map_err(wrong)?;
        if diff_ids.len() != manifest.layers.len() {
            let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
            return Err(wrong(ImageError::LayerCount { layers, diff_ids }));
        }
        let stored = manifest.layers.iter().map(|layer| layer.size);
        let total = stored.chain([manifest.config.size]).try_fold(descriptor.size, u64::checked_add);
        Ok(Self {
            reference: None,
            manifest_digest: descriptor.digest.clone(),
            config_digest: manifest.config.digest.clone(),
            layers: layer_records(&manifest.layers, diff_ids),
            size: total.ok_or_else(|| wrong(ImageError::Size))?,
            created: config.created().clone(),
            config,
        })
    }

    /// What the image says it runs on; nothing if it says nothing.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        platform(&self.config)
    }
}

/// See [`ImageRecord::platform`].
pub(crate) fn platform(config: &ImageConfiguration) -> Option<Platform> {
    let architecture = config.architecture().to_string();
    let os = config.os().to_string();
    let variant = config.variant().clone().filter(|v| !v.is_empty());
    if architecture.is_empty() || os.is_empty() { None } else { Some(Platform { os, architecture, variant }) }
}

/// The uncompressed digests that a configuration promises.
pub(crate) fn diff_ids(config: &ImageConfiguration) -> std::result::Result<Vec<Digest>, ImageError> {
    if config.rootfs().typ() != "layers" {
        return Err(ImageError::RootFs);
    }
    config.rootfs().diff_ids().iter().map(|text| Digest::parse(text).map_err(ImageError::DiffId)).collect()
}

/// The name of a layer with this content on the layers that are called `below` (image-spec, config.md, "Layer ChainID").
#[must_use]
pub fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    match below {
        None => diff_id.clone(),
        Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
    }
}

fn layer_records(layers: &[Descriptor], diff_ids: Vec<Digest>) -> Vec<LayerRecord> {
    let mut chain: Option<Digest> = None;
    let mut records = Vec::with_capacity(layers.len());
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let chain_id = chain_id(chain.as_ref(), &diff_id);
        chain = Some(chain_id.clone());
        records.push(LayerRecord {
            digest: layer.digest.clone(),
            size: layer.size,
            media_type: layer.media_type.clone(),
            compression: media_type::layer_compression(&layer.media_type).unwrap_or(Compression::None),
            diff_id,
            chain_id,
        });
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(config: &str, layers: usize) -> Result<ImageRecord> {
        let layer = |n: usize| Descriptor::new(media_type::OCI_LAYER, Digest::sha256(&[n as u8]), 10);
        let manifest = Manifest {
            config: Descriptor::new(media_type::OCI_CONFIG, Digest::sha256(config.as_bytes()), 5),
            layers: (0..layers).map(layer).collect(),
        };
        let descriptor = Descriptor::new(media_type::OCI_MANIFEST, Digest::sha256(b"m"), 7);
        ImageRecord::new(&descriptor, &manifest, config.as_bytes())
    }

    fn config(diff_ids: &[&str]) -> String {
        let ids = serde_json::to_string(diff_ids).unwrap();
        format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":{ids}}}}}"#)
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let ids = ["a", "b", "c"].map(|c| format!("sha256:{}", c.repeat(64)));
        let made = record(&config(&[&ids[0], &ids[1], &ids[2]]), 3).unwrap();
        let second = Digest::sha256(format!("{} {}", ids[0], ids[1]).as_bytes());
        let third = Digest::sha256(format!("{second} {}", ids[2]).as_bytes());
        let chain: Vec<String> = made.layers.iter().map(|l| l.chain_id.to_string()).collect();
        assert_eq!(chain, [ids[0].clone(), second.to_string(), third.to_string()]);
        assert_eq!(made.size, 7 + 5 + 30);
    }

    #[test]
    fn counts_and_digests_must_fit() {
        let id = format!("sha256:{}", "a".repeat(64));
        assert!(record(&config(&[&id]), 1).is_ok());
        assert!(record(&config(&[]), 0).unwrap().layers.is_empty());
        assert!(record(&config(&[&id]), 2).is_err());
        assert!(record(&config(&[&id, &id]), 1).is_err());
        assert!(record(&config(&["sha256:../../x"]), 1).is_err());
        assert!(record(&config(&[&id]).replace("layers", "other"), 1).is_err());
        assert!(record(&config(&[&id]).replace("\"os\"", "\"os\":\"x\",\"os\""), 1).is_err());
    }

    #[test]
    fn the_nulls_of_docker_are_read() {
        let config = r#"{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00.5Z","config":{"Hostname":"",
            "User":"","Env":["A=b"],"Cmd":["sh"],"ArgsEscaped":true,"Image":"","Volumes":null,"WorkingDir":"",
            "Entrypoint":null,"OnBuild":null,"Labels":null,"ExposedPorts":null,"StopSignal":null},
            "container_config":{"Cmd":null},"docker_version":"20.10","history":null,"variant":"",
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let record = record(config, 0).unwrap();
        assert_eq!(record.created.as_deref(), Some("2024-01-01T00:00:00.5Z"));
        assert_eq!(record.platform().unwrap().to_string(), "linux/amd64");
        assert_eq!(record.config.config().as_ref().unwrap().env().as_ref().unwrap(), &["A=b"]);
    }
}
