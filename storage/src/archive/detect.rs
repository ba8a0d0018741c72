//! What is it? By content, and with as little reading as that takes.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::layer::{Counted, Tee};
use super::members::{Section, scan_error};
use super::scan::{Kind, Member, Scanner, Source, Streamed};
use super::{ArchiveError, ArchiveKind, ImportLimits, docker};
use crate::compression::{Compression, DETECT_LEN, Decoder, Sniffed, is_tar_header, sniff};
use crate::content::{check_layout_marker, copy};
use crate::dir::Dir;
use crate::error::{Result, StorageError};
use crate::image::MAX_JSON_BYTES;
use crate::json::JsonError;

/// Top-level names of a root file system that no image archive has: seeing one decides.
const ROOTFS_NAMES: [&str; 20] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "media", "mnt", "opt", "proc", "root",
    "run", "sbin", "srv", "sys", "tmp", "usr", "var",
];
pub(super) const LAYOUT_MARKER: &str = "oci-layout";
pub(super) const LAYOUT_INDEX: &str = "index.json";
const BLOBS: &str = "blobs";

/// What a file holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) kind: ArchiveKind,
    pub(super) compression: Compression,
}

/// `file` from its beginning, whoever else reads it.
pub(super) fn from_start(file: &File) -> Section<'_> {
    Section::new(file, 0, u64::MAX)
}

/// `file` without its compression.
pub(super) fn decoder(file: &File) -> io::Result<Decoder<Sniffed<Section<'_>>>> {
    let (compression, reader) = sniff(from_start(file))?;
    Decoder::new(reader, compression)
}

/// The kind of a directory.
pub(super) fn directory(path: &Path) -> Result<ArchiveKind> {
    let dir = Dir::open(path)?;
    if dir.open_file(LAYOUT_MARKER)?.is_some() {
        return Ok(ArchiveKind::OciLayout);
    }
    if dir.subdir(BLOBS).is_ok_and(|found| found.is_some()) && dir.open_file(LAYOUT_INDEX)?.is_some() {
        return Err(StorageError::corrupt(path.display().to_string(), ArchiveError::NoLayoutMarker));
    }
    Ok(ArchiveKind::RootfsDirectory)
}

/// The kind of a regular file.
pub(super) fn file(file: &File, path: &Path, limits: &ImportLimits) -> Result<Found> {
    let compression = compression(file, path)?;
    if compression == Compression::None {
        return plain(file, path, limits);
    }
    let reader = decoder(file).map_err(|e| StorageError::io("read", path, e))?;
    let reader = Counted::new(reader, limits.archive_bytes, "archive", |_| ());
    let kind = decide(&mut Scanner::new(Streamed(reader)), path, limits)?;
    Ok(Found { kind, compression })
}

/// The compression of a tar; an error if it is none.
pub(super) fn compression(file: &File, path: &Path) -> Result<Compression> {
    let failed = |e| StorageError::io("read", path, e);
    let (compression, _) = sniff(from_start(file)).map_err(failed)?;
    let mut block = Vec::new();
    decoder(file).and_then(|d| d.take(DETECT_LEN as u64).read_to_end(&mut block)).map_err(failed)?;
    if is_tar_header(&block) {
        return Ok(compression);
    }
    Err(StorageError::invalid(path.display().to_string(), ArchiveError::Unknown))
}

/// The kind of an uncompressed tar.
pub(super) fn plain(file: &File, path: &Path, limits: &ImportLimits) -> Result<Found> {
    let size = file.metadata().map_err(|e| StorageError::io("stat", path, e))?.len();
    let kind = decide(&mut Scanner::new(Section::new(file, 0, size)), path, limits)?;
    Ok(Found { kind, compression: Compression::None })
}

/// The kind of a compressed tar. If it is an archive of images, `scratch` holds all of it uncompressed;
/// otherwise some of it.
pub(super) fn decompressing(
    file: &File,
    path: &Path,
    limits: &ImportLimits,
    scratch: &mut File,
    report: impl FnMut(u64),
) -> Result<ArchiveKind> {
    let failed = |e| StorageError::io("decompress", path, e);
    let reader = Counted::new(decoder(file).map_err(failed)?, limits.archive_bytes, "archive", report);
    let mut scanner = Scanner::new(Streamed(Tee { inner: reader, sink: scratch }));
    let kind = decide(&mut scanner, path, limits)?;
    if kind != ArchiveKind::RootfsTar {
        copy(&mut scanner.into_source(), &mut io::sink()).map_err(failed)?;
    }
    Ok(kind)
}

/// Looks at members until one of them decides.
fn decide<S: Source>(scanner: &mut Scanner<S>, path: &Path, limits: &ImportLimits) -> Result<ArchiveKind> {
    let failed = |e| scan_error(e, path);
    let corrupt = |error| StorageError::corrupt(path.display().to_string(), error);
    let mut docker: Option<std::result::Result<(), JsonError>> = None;
    let (mut index, mut parts) = (false, false);
    for _ in 0..=limits.members {
        let Some(member) = scanner.next_member().map_err(failed)? else { break };
        let name = member.name.as_deref().unwrap_or("");
        if is_of_rootfs(name) || member.kind == Kind::Other {
            return Ok(ArchiveKind::RootfsTar);
        }
        parts |= is_part_of_image(name);
        index |= name == LAYOUT_INDEX && member.kind == Kind::File;
        if is_document(&member, LAYOUT_MARKER) {
            let content = scanner.content(member.size).map_err(failed)?;
            check_layout_marker(&content, path)?;
            return Ok(ArchiveKind::OciArchive);
        }
        if is_document(&member, docker::MANIFEST) {
            docker = Some(docker::check_manifest(&scanner.content(member.size).map_err(failed)?));
        }
    }
    // A docker-archive may be an OCI layout as well, so its manifest.json alone did not decide. And where the
    // parts of an image lie about, a damaged or missing manifest does not make them a root file system.
    match docker {
        Some(Ok(())) => Ok(ArchiveKind::DockerArchive),
        Some(Err(source)) if parts => {
            Err(corrupt(ArchiveError::Json { name: docker::MANIFEST.into(), source }))
        }
        None if parts && index => Err(corrupt(ArchiveError::NoLayoutMarker)),
        None if parts => Err(corrupt(ArchiveError::Missing { name: docker::MANIFEST.into() })),
        Some(Err(_)) | None => Ok(ArchiveKind::RootfsTar),
    }
}

fn is_of_rootfs(name: &str) -> bool {
    name.split('/').next().is_some_and(|top| ROOTFS_NAMES.contains(&top))
}

/// Blobs, configurations and layers: called after their digest, or `layer.tar`.
fn is_part_of_image(name: &str) -> bool {
    name.ends_with("/layer.tar") || docker::digest_in_name(name).is_some()
}

fn is_document(member: &Member, name: &str) -> bool {
    member.kind == Kind::File && member.size <= MAX_JSON_BYTES && member.name.as_deref() == Some(name)
}
