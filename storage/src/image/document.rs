//! [`Document`]: a manifest or an index, told apart beyond doubt.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::descriptor::Descriptor;
use super::platform::Platform;
use super::{ImageError, MAX_DESCRIPTORS, MAX_JSON_BYTES, MAX_LAYERS, media_type};
use crate::error::{Result, StorageError};
use crate::json;

/// A manifest that was checked: known media types, possible sizes, at most [`MAX_LAYERS`] layers.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a descriptor of an image leads to.
#[derive(Debug, Clone)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several, one of which is meant.
    Index(Vec<Descriptor>),
}

/// All fields that decide which of the two it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Decodes `bytes`, whose digest and size were verified against `descriptor`.
    ///
    /// # Errors
    /// `Corrupt` with an [`ImageError`]; `Unsupported` for a media type that is no image or a layer that is no
    /// tar; `LimitExceeded` for too many layers or descriptors.
    pub fn parse(bytes: &[u8], descriptor: &Descriptor) -> Result<Self> {
        let announced = descriptor.media_type.as_str();
        let name = || format!("image document {}", descriptor.digest);
        let wrong = |error: ImageError| StorageError::corrupt(name(), error);
        let is_index = media_type::is_index(announced);
        if !is_index && !media_type::is_manifest(announced) {
            return Err(StorageError::Unsupported { what: format!("media type {announced:?} as an image") });
        }
        let raw: Raw = json::parse(bytes, MAX_JSON_BYTES).map_err(|e| wrong(ImageError::Json(e)))?;
        if raw.schema_version != Some(2) || raw.fs_layers.is_some() {
            return Err(wrong(ImageError::Schema));
        }
        if let Some(actual) = raw.media_type.filter(|actual| actual != announced) {
            return Err(wrong(ImageError::MediaTypeMismatch { announced: announced.into(), actual }));
        }
        match (is_index, raw.config, raw.layers, raw.manifests) {
            (false, Some(config), Some(layers), None) => {
                check_manifest(&config, &layers, wrong)?;
                Ok(Self::Manifest(Box::new(Manifest { config, layers })))
            }
            (true, None, None, Some(manifests)) => {
                check_index(&manifests, wrong)?;
                Ok(Self::Index(manifests))
            }
            (true, ..) => Err(wrong(ImageError::Ambiguous { expected: "index" })),
            (false, ..) => Err(wrong(ImageError::Ambiguous { expected: "manifest" })),
        }
    }
}

fn check_manifest(
    config: &Descriptor,
    layers: &[Descriptor],
    wrong: impl Fn(ImageError) -> StorageError,
) -> Result<()> {
    if layers.len() > MAX_LAYERS {
        return Err(StorageError::LimitExceeded {
            what: format!("an image of {} layers", layers.len()),
            limit: MAX_LAYERS as u64,
        });
    }
    if !media_type::is_config(&config.media_type) {
        let media_type = config.media_type.clone();
        return Err(wrong(ImageError::Role { role: "config", media_type }));
    }
    let mut total = config.size;
    config.check().map_err(&wrong)?;
    for layer in layers {
        layer.check().map_err(&wrong)?;
        total = total.checked_add(layer.size).ok_or_else(|| wrong(ImageError::Size))?;
        check_layer_type(&layer.media_type, &wrong)?;
    }
    if i64::try_from(total).is_ok() { Ok(()) } else { Err(wrong(ImageError::Size)) }
}

/// A configuration as a layer is confusion; something else that is no tar may be valid, but not for us.
fn check_layer_type(layer: &str, wrong: impl Fn(ImageError) -> StorageError) -> Result<()> {
    if media_type::layer_compression(layer).is_some() {
        return Ok(());
    }
    if media_type::is_config(layer) || media_type::is_manifest(layer) || media_type::is_index(layer) {
        return Err(wrong(ImageError::Role { role: "layer", media_type: layer.into() }));
    }
    Err(StorageError::Unsupported { what: format!("a layer of media type {layer:?}") })
}

fn check_index(manifests: &[Descriptor], wrong: impl Fn(ImageError) -> StorageError) -> Result<()> {
    if manifests.len() > MAX_DESCRIPTORS {
        return Err(StorageError::LimitExceeded {
            what: format!("an index of {} descriptors", manifests.len()),
            limit: MAX_DESCRIPTORS as u64,
        });
    }
    manifests.iter().try_for_each(|descriptor| descriptor.check().map_err(&wrong))
}

/// The descriptor that serves `wanted` best; the first of equals. Descriptors that lead to no image are not
/// looked at.
#[must_use]
pub fn best<'a>(
    candidates: impl IntoIterator<Item = &'a Descriptor>,
    wanted: &Platform,
) -> Option<&'a Descriptor> {
    let mut best: Option<(u32, &Descriptor)> = None;
    for candidate in candidates {
        let image =
            media_type::is_manifest(&candidate.media_type) || media_type::is_index(&candidate.media_type);
        let Some(rank) = wanted.rank(candidate.platform.as_ref()).filter(|_| image) else { continue };
        if best.is_none_or(|(highest, _)| rank > highest) {
            best = Some((rank, candidate));
        }
    }
    best.map(|(_, descriptor)| descriptor)
}

#[cfg(test)]
mod tests;
