//! Durable bytes of vesselrt: storage backends, manifests, image references, and the OCI content store.
//!
//! Two things live side by side and know nothing of each other:
//! * [`backend::Storage`] keeps what a vessel cannot be rebuilt from: its manifest and its snapshot archives.
//!   [`local::LocalStorage`] is a directory, [`compressed::CompressedStorage`] adds zstd to any other.
//! * [`content::ContentStore`] keeps images as an OCI image layout; [`archive`] brings them in from files, and
//!   [`registry`] from and to registries.
//!
//! Nothing here knows of overlays, users or processes.
#![forbid(unsafe_code)]

pub mod archive;
pub mod backend;
pub mod compressed;
pub mod compression;
pub mod conformance;
pub mod content;
pub mod digest;
mod dir;
pub mod error;
pub mod frames;
#[doc(hidden)]
pub mod fuzzing;
pub mod id;
pub mod image;
pub mod json;
pub mod local;
pub mod manifest;
pub mod memory;
pub mod pipe;
pub mod reference;
pub mod registry;
pub mod verify;

pub use backend::{ArchiveUsage, ByteStream, RandomAccess, Storage, VesselFork};
pub use compressed::CompressedStorage;
pub use content::ContentStore;
pub use digest::Digest;
pub use dir::FileError;
pub use error::{Result, StorageError, StorageErrorKind};
pub use id::{IdGenerator, UniqueIdGenerator, validate_id};
pub use image::record::{ImageRecord, LayerRecord};
pub use local::LocalStorage;
pub use manifest::{SnapshotManifest, SnapshotMode, VesselManifest};
pub use memory::MemoryStorage;
pub use reference::Reference;
