//! Images from files: docker-archive, oci-archive, OCI layout, root file system; told apart by content.
//!
//! Everything is verified on its way into the [`ContentStore`]: digests and sizes of all blobs, and the
//! diff_ids of the layers of a docker-archive and of a root file system. The layers of OCI inputs are stored
//! compressed as they are; **their diff_ids are left to whoever unpacks them**, who reads the uncompressed
//! bytes anyway.
//!
//! Nothing in an archive ever becomes a path of this host: members are found by name in an index and read by
//! offset.
#![forbid(unsafe_code)]

mod detect;
mod docker;
mod layer;
mod layout;
mod members;
mod rootfs;
mod scan;
mod tap;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::image::ImageConfiguration;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use self::layer::Counted;
use self::members::Members;
pub use self::rootfs::import_rootfs_stream;
pub use self::tap::{LayerTap, TapLayer, TapStream, Tapped};
use crate::compression::Compression;
use crate::content::{ContentStore, Lease};
use crate::digest::Digest;
use crate::dir::FileError;
use crate::error::{Result, StorageError};
use crate::image::platform::Platform;
use crate::image::record::{self, ImageRecord};
use crate::json::JsonError;
use crate::reference::Reference;

/// What a file or directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveKind {
    /// What `docker save` writes: a tar with `manifest.json`.
    DockerArchive,
    /// An OCI image layout in a tar.
    OciArchive,
    /// An OCI image layout in a directory.
    OciLayout,
    /// A tar of a root file system.
    RootfsTar,
    /// A root file system in a directory. [`import`] does not take it: pack it, and pass the tar to
    /// [`import_rootfs_stream`].
    RootfsDirectory,
}

/// What is to be imported, and as what.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The reference of the image in the store; by default the one in the archive.
    pub reference: Option<Reference>,
    /// Which image of the archive, if it has several: a reference, a tag, or a manifest digest.
    pub source: Option<String>,
    /// Which platform, if it has several; by default this host's. An image for another one is refused.
    pub platform: Option<Platform>,
    /// What is too much.
    pub limits: ImportLimits,
}

/// The limits of an import. Documents are limited by [`crate::image::MAX_JSON_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportLimits {
    /// Size of an archive after its outer compression, in bytes.
    pub archive_bytes: u64,
    /// Size of an uncompressed layer, in bytes.
    pub layer_bytes: u64,
    /// Members of an image archive.
    pub members: usize,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self { archive_bytes: 64 << 30, layer_bytes: 64 << 30, members: 65_536 }
    }
}

/// What an import is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImportProgress {
    /// It is known what the input is. A compressed archive of images has been decompressed by then.
    Detected {
        /// The kind.
        kind: ArchiveKind,
        /// The outer compression.
        compression: Compression,
    },
    /// The outer compression is being undone.
    Decompressing {
        /// Bytes so far.
        bytes: u64,
    },
    /// A layer is being stored.
    Layer {
        /// Which one, from 0.
        index: usize,
        /// Of how many.
        count: usize,
        /// Bytes so far.
        bytes: u64,
        /// Of how many, if that is known.
        total: Option<u64>,
    },
}

/// What is wrong with an archive.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Neither a tar nor anything else that is known.
    #[error("it is neither a tar archive nor an OCI image layout")]
    Unknown,
    /// A root file system in a directory, which has to be packed first.
    #[error("it is a root file system in a directory")]
    RootfsDirectory,
    /// `index.json` and `blobs` without `oci-layout`.
    #[error("it looks like an OCI image layout but has no oci-layout file")]
    NoLayoutMarker,
    /// The tar ends in the middle of a member.
    #[error("it is truncated")]
    Truncated,
    /// A tar header is malformed.
    #[error("the tar header at byte {offset} is malformed")]
    Header {
        /// Offset in the uncompressed archive.
        offset: u64,
    },
    /// A document in it cannot be decoded.
    #[error("its {name} cannot be decoded")]
    Json {
        /// The member.
        name: String,
        /// Why.
        #[source]
        source: JsonError,
    },
    /// A file that is referred to is not there, or is no file.
    #[error("its {name} is missing")]
    Missing {
        /// The member.
        name: String,
    },
    /// It has several images, and nothing says which one is meant.
    #[error("it has several images ({names}), one of which must be chosen")]
    SeveralImages {
        /// Their names.
        names: String,
    },
    /// It has no name for the image, and none was given.
    #[error("it does not say what the image is called")]
    NoReference,
    /// The content of a layer is not the one that the configuration promises.
    #[error("layer {index} has the diff_id {actual} and not {expected}")]
    DiffId {
        /// Which layer, from 0.
        index: usize,
        /// In the configuration.
        expected: Digest,
        /// Of the content.
        actual: Digest,
    },
    /// The name of the configuration is its digest, and its content has another one.
    #[error("its configuration has the digest {actual} and not {expected}")]
    ConfigDigest {
        /// In the name.
        expected: Digest,
        /// Of the content.
        actual: Digest,
    },
}

/// Finds out what is at `path`, without storing anything.
///
/// # Errors
/// `NotFound`, `PermissionDenied`; `Invalid` with [`ArchiveError::Unknown`]; `Corrupt` for a damaged archive.
pub fn detect(path: &Path, limits: &ImportLimits) -> Result<(ArchiveKind, Compression)> {
    let file = open(path)?;
    if is_directory(&file, path)? {
        return Ok((detect::directory(path)?, Compression::None));
    }
    detect::file(&file, path, limits).map(|found| (found.kind, found.compression))
}

/// Imports the image at `path`: a regular file or an OCI layout directory.
///
/// The image is complete and verified when it gets its reference; a failure leaves at most blobs that nothing
/// refers to.
///
/// # Errors
/// Those of [`detect`]; `Invalid` with an [`ArchiveError`] for a directory that is a root file system, and when
/// it is not clear which image is meant or what it is called; `Corrupt` for anything that is not what it
/// claims; `Unsupported` for an image of another platform; `LimitExceeded`; `Io`.
pub fn import(
    store: &ContentStore,
    path: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<ImageRecord> {
    import_tapped(store, path, options, progress, None)
}

/// [`import`] that lets `tap` have the layers on their way.
///
/// # Errors
/// Those of [`import`].
pub fn import_tapped<'a>(
    store: &'a ContentStore,
    path: &'a Path,
    options: &'a ImportOptions,
    progress: &'a mut dyn FnMut(ImportProgress),
    tap: Option<&'a mut dyn LayerTap>,
) -> Result<ImageRecord> {
    let file = open(path)?;
    let lease = store.lease()?;
    let mut import = Import { store, options, progress, tap, path, _lease: lease };
    if is_directory(&file, path)? {
        let kind = detect::directory(path)?;
        if kind == ArchiveKind::RootfsDirectory {
            return Err(import.refuse(ArchiveError::RootfsDirectory));
        }
        import.report(ImportProgress::Detected { kind, compression: Compression::None });
        return layout::import(&mut import, &layout::DirLayout::open(path)?);
    }
    import.file(&file)
}

/// Imports the archive that `reader` gives, as [`import`] would from a file: for what a [`crate::Storage`]
/// holds, and for standard input. It is written to a scratch file of the store first, at most
/// [`ImportLimits::archive_bytes`].
///
/// # Errors
/// Those of [`import`]; `Io` also for errors of `reader`.
pub fn import_reader(
    store: &ContentStore,
    reader: impl Read,
    options: &ImportOptions,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<ImageRecord> {
    let (path, lease) = (Path::new("image stream"), store.lease()?);
    let mut scratch = store.scratch()?;
    let mut limited = Counted::new(reader, options.limits.archive_bytes, "archive", |_| ());
    crate::content::copy(&mut limited, &mut scratch).map_err(|e| StorageError::io("receive", path, e))?;
    Import { store, options, progress, tap: None, path, _lease: lease }.file(&scratch)
}

/// What all importers need.
struct Import<'a> {
    store: &'a ContentStore,
    options: &'a ImportOptions,
    progress: &'a mut dyn FnMut(ImportProgress),
    /// Who else wants the layers.
    tap: Option<&'a mut dyn LayerTap>,
    path: &'a Path,
    /// Held until the reference is set.
    _lease: Lease,
}

impl Import<'_> {
    fn report(&mut self, progress: ImportProgress) {
        (self.progress)(progress);
    }

    fn file(&mut self, file: &File) -> Result<ImageRecord> {
        let compression = detect::compression(file, self.path)?;
        let unpacked;
        let (kind, plain) = match compression {
            Compression::None => (detect::plain(file, self.path, &self.options.limits)?.kind, file),
            _ => {
                let (kind, scratch) = self.decompress(file)?;
                unpacked = scratch;
                (kind, &unpacked)
            }
        };
        self.report(ImportProgress::Detected { kind, compression });
        if kind == ArchiveKind::RootfsTar {
            return rootfs::import_file(self, file);
        }
        let members = Members::scan(plain, self.path, &self.options.limits)?;
        match kind {
            ArchiveKind::DockerArchive => docker::import(self, &members),
            _ => layout::import(self, &members),
        }
    }

    /// The kind of a compressed archive; and its content in a scratch file, if that is needed.
    fn decompress(&mut self, file: &File) -> Result<(ArchiveKind, File)> {
        let mut scratch = self.store.scratch()?;
        let progress = &mut *self.progress;
        let report = |bytes| progress(ImportProgress::Decompressing { bytes });
        let kind = detect::decompressing(file, self.path, &self.options.limits, &mut scratch, report)?;
        Ok((kind, scratch))
    }

    /// The archive is damaged or lies.
    fn corrupt(&self, error: ArchiveError) -> StorageError {
        StorageError::corrupt(self.path.display().to_string(), error)
    }

    /// The archive is not what the caller can have meant.
    fn refuse(&self, error: ArchiveError) -> StorageError {
        StorageError::invalid(self.path.display().to_string(), error)
    }

    fn wanted(&self) -> Platform {
        self.options.platform.clone().unwrap_or_else(Platform::host)
    }

    /// Refuses an image that says it runs on something else. The variant is the index's business:
    /// configurations are sloppy about it.
    fn check_platform(&self, config: &ImageConfiguration) -> Result<()> {
        let wanted = self.wanted();
        let Some(mut actual) = record::platform(config) else { return Ok(()) };
        actual.variant.clone_from(&wanted.variant);
        if wanted.rank(Some(&actual)).is_some() {
            return Ok(());
        }
        let what = format!("an image for {}/{} where {wanted} is wanted", actual.os, actual.architecture);
        Err(StorageError::Unsupported { what })
    }

    /// The reference to set: the caller's, or the one in the archive.
    fn reference(&self, names: impl IntoIterator<Item = String>) -> Result<Reference> {
        if let Some(reference) = &self.options.reference {
            return Ok(reference.clone());
        }
        let own = names.into_iter().find_map(|name| Reference::parse(&name).ok());
        own.ok_or_else(|| self.refuse(ArchiveError::NoReference))
    }
}

/// Opens what the user named; symbolic links of the user are followed.
fn open(path: &Path) -> Result<File> {
    // O_NONBLOCK: a FIFO must not hang us before it is found out.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    Ok(File::from(opened.map_err(|e| StorageError::io("open", path, e))?))
}

fn is_directory(file: &File, path: &Path) -> Result<bool> {
    let metadata = file.metadata().map_err(|e| StorageError::io("stat", path, e))?;
    if metadata.is_dir() || metadata.is_file() {
        return Ok(metadata.is_dir());
    }
    Err(StorageError::invalid(path.display().to_string(), FileError::NotRegular))
}

/// Whether `selector`, given by the user, means the image that an archive calls `name`.
fn selects(selector: &str, name: &str) -> bool {
    let same = |a: &Reference| Reference::parse(name).is_ok_and(|b| *a == b);
    selector == name || Reference::parse(selector).is_ok_and(|reference| same(&reference))
}

/// Reads all of a small document.
fn read_document(reader: impl Read, size: u64, path: &Path) -> Result<Vec<u8>> {
    let limit = crate::image::MAX_JSON_BYTES;
    if size > limit {
        let what = format!("a document of {size} bytes in {}", path.display());
        return Err(StorageError::LimitExceeded { what, limit });
    }
    let mut bytes = Vec::new();
    reader.take(limit).read_to_end(&mut bytes).map_err(|e| StorageError::io("read", path, e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
