//! Image manifests: what is read from them, and what is refused.
//!
//! Sources: OCI image-spec 1.1 (manifest.md, image-index.md, config.md, descriptor.md); docker's image manifest
//! v2, schema 2.
#![forbid(unsafe_code)]

pub mod descriptor;
pub mod document;
pub mod media_type;
pub mod platform;
pub mod record;

use thiserror::Error;

use crate::digest::{Digest, DigestError};
use crate::json::JsonError;

/// The most layers an image may have: the kernel's limit on the layers of an overlay mount.
pub const MAX_LAYERS: usize = 500;
/// The largest manifest, index or configuration, in bytes (as containerd).
pub const MAX_JSON_BYTES: u64 = 4 * 1024 * 1024;
/// How many descriptors are looked at in search of a manifest.
pub const MAX_DESCRIPTORS: usize = 1000;
/// How many indexes may lie between a reference and its manifest.
pub const MAX_INDEX_DEPTH: usize = 2;

/// What is wrong with an image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Manifest, index or configuration is not proper JSON.
    #[error("it cannot be decoded")]
    Json(#[source] JsonError),
    /// The schema version is not 2: not an OCI manifest, or one of docker's first schema.
    #[error("its schemaVersion is not 2")]
    Schema,
    /// The document has fields of both a manifest and an index, or of neither, or of the other kind than it
    /// claims.
    #[error("it is not unambiguously a {expected}")]
    Ambiguous {
        /// What it was announced as.
        expected: &'static str,
    },
    /// The media type inside differs from the one it was announced with.
    #[error("it calls itself {actual:?} but was announced as {announced:?}")]
    MediaTypeMismatch {
        /// The descriptor's media type.
        announced: String,
        /// The document's own.
        actual: String,
    },
    /// A descriptor's media type has no place where it is.
    #[error("its {role} has the media type {media_type:?}")]
    Role {
        /// Where it is: `config`, `layer`, `manifest`.
        role: &'static str,
        /// The media type.
        media_type: String,
    },
    /// A size is beyond 2^63, or the sizes add up to that.
    #[error("its sizes are impossible")]
    Size,
    /// Data embedded in a descriptor is not what the descriptor promises.
    #[error("the data embedded for {digest} is something else")]
    EmbeddedData {
        /// The descriptor's digest.
        digest: Digest,
    },
    /// Manifest and configuration disagree on the number of layers.
    #[error("it has {layers} layers and {diff_ids} diff_ids")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// A diff_id is not a digest.
    #[error("a diff_id is malformed")]
    DiffId(#[source] DigestError),
    /// `rootfs.type` is not `layers`.
    #[error("its rootfs is not made of layers")]
    RootFs,
    /// A reference with a digest was to be set to something of another digest.
    #[error("it is pinned to a digest, and the image has the digest {actual}")]
    PinnedElsewhere {
        /// The image's digest.
        actual: Digest,
    },
    /// More indexes between the reference and the manifest than [`MAX_INDEX_DEPTH`].
    #[error("its indexes are nested deeper than {MAX_INDEX_DEPTH}")]
    IndexDepth,
}
