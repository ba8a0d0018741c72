//! What is it? By content, and with as little reading as that takes.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::layer::Counted;
use super::members::{Section, scan_error};
use super::scan::{Kind, Member, Scanner, Source, Streamed};
use super::{ArchiveError, ArchiveKind, ImportLimits, docker};
use crate::compression::{Compression, DETECT_LEN, Decoder, Sniffed, is_tar_header, sniff};
use crate::dir::Dir;
use crate::error::{Result, StorageError};
use crate::image::MAX_JSON_BYTES;

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
    let failed = |e| StorageError::io("read", path, e);
    let (compression, _) = sniff(from_start(file)).map_err(failed)?;
    let mut block = Vec::new();
    decoder(file).and_then(|d| d.take(DETECT_LEN as u64).read_to_end(&mut block)).map_err(failed)?;
    if !is_tar_header(&block) {
        return Err(StorageError::invalid(path.display().to_string(), ArchiveError::Unknown));
    }
    let kind = match compression {
        Compression::None => {
            let size = file.metadata().map_err(failed)?.len();
            decide(Scanner::new(Section::new(file, 0, size)), path, limits)?
        }
        _ => {
            let plain = Counted::new(decoder(file).map_err(failed)?, limits.archive_bytes, "archive", |_| ());
            decide(Scanner::new(Streamed(plain)), path, limits)?
        }
    };
    Ok(Found { kind, compression })
}

/// Looks at members until one of them decides.
fn decide<S: Source>(mut scanner: Scanner<S>, path: &Path, limits: &ImportLimits) -> Result<ArchiveKind> {
    let failed = |e| scan_error(e, path);
    let (mut docker, mut index, mut blobs) = (false, false, false);
    for _ in 0..=limits.members {
        let Some(member) = scanner.next_member().map_err(failed)? else { break };
        let name = member.name.as_deref().unwrap_or("");
        let top = name.split('/').next().unwrap_or("");
        if ROOTFS_NAMES.contains(&top) || member.kind == Kind::Other {
            return Ok(ArchiveKind::RootfsTar);
        }
        blobs |= top == BLOBS;
        index |= name == LAYOUT_INDEX && member.kind == Kind::File;
        if is_document(&member, LAYOUT_MARKER) {
            let content = scanner.content(member.size).map_err(failed)?;
            crate::content::check_layout_marker(&content, path)?;
            return Ok(ArchiveKind::OciArchive);
        }
        if is_document(&member, docker::MANIFEST) {
            docker |= docker::is_manifest(&scanner.content(member.size).map_err(failed)?);
        }
    }
    // A docker-archive may be an OCI layout as well, so its manifest.json alone does not decide.
    match (docker, index && blobs) {
        (true, _) => Ok(ArchiveKind::DockerArchive),
        (false, true) => Err(StorageError::corrupt(path.display().to_string(), ArchiveError::NoLayoutMarker)),
        (false, false) => Ok(ArchiveKind::RootfsTar),
    }
}

fn is_document(member: &Member, name: &str) -> bool {
    member.kind == Kind::File && member.size <= MAX_JSON_BYTES && member.name.as_deref() == Some(name)
}
