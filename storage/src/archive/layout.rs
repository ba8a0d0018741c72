//! OCI image layouts, in a directory or in a tar.
//!
//! Source: image-spec, image-layout.md and image-index.md.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::detect::{LAYOUT_INDEX, LAYOUT_MARKER};
use super::layer::Counted;
use super::members::Members;
use super::tap::{self, TapLayer};
use super::{ArchiveError, Import, ImportProgress, selects};
use crate::compression::sniff;
use crate::content::check_layout_marker;
use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::{Result, StorageError, quoted};
use crate::image::descriptor::Descriptor;
use crate::image::document::{Document, Manifest, best};
use crate::image::record::ImageRecord;
use crate::image::{ImageError, MAX_DESCRIPTORS, MAX_INDEX_DEPTH, MAX_JSON_BYTES, media_type};
use crate::json;
use crate::verify::VerifiedReader;

/// Where containerd and docker put the full reference, next to a bare tag in the standard annotation.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Where the files of a layout come from.
pub(super) trait Layout {
    /// Opens a regular file and tells its size.
    fn open(&self, name: &[&str]) -> Result<(Box<dyn Read + '_>, u64)>;
}

impl Layout for Members<'_> {
    fn open(&self, name: &[&str]) -> Result<(Box<dyn Read + '_>, u64)> {
        let found = self.find(&name.join("/"))?;
        Ok((Box::new(self.section(found)), found.1))
    }
}

/// A layout in a directory, which may be hostile: no link is followed.
pub(super) struct DirLayout {
    root: Dir,
    path: PathBuf,
}

impl DirLayout {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { root: Dir::open(path)?, path: path.to_path_buf() })
    }
}

impl Layout for DirLayout {
    fn open(&self, name: &[&str]) -> Result<(Box<dyn Read + '_>, u64)> {
        let missing = || {
            let error = ArchiveError::Missing { name: name.join("/") };
            StorageError::corrupt(self.path.display().to_string(), error)
        };
        let Some((file, parents)) = name.split_last() else { return Err(missing()) };
        let mut inner: Option<Dir> = None;
        for parent in parents {
            let dir = inner.as_ref().unwrap_or(&self.root);
            inner = Some(dir.subdir(parent)?.ok_or_else(missing)?);
        }
        let dir = inner.as_ref().unwrap_or(&self.root);
        let (file, size) = dir.open_file(file)?.ok_or_else(missing)?;
        Ok((Box::new(file), size))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u64,
    manifests: Vec<Descriptor>,
}

/// Imports the image that is meant.
pub(super) fn import(import: &mut Import<'_>, layout: &dyn Layout) -> Result<ImageRecord> {
    check_layout_marker(&document(import, layout, LAYOUT_MARKER)?, import.path)?;
    let index = read_index(import, layout)?;
    let chosen = choose(import, &index.manifests)?.clone();
    let names = [CONTAINERD_NAME, crate::image::descriptor::REF_NAME];
    let names = names.iter().filter_map(|key| chosen.annotation(key)).filter(|name| is_full_name(name));
    let reference = import.reference(names.map(str::to_owned))?;

    let budget = MAX_DESCRIPTORS.saturating_sub(index.manifests.len());
    let (descriptor, manifest) = follow(import, layout, chosen, budget)?;
    let config = blob(import, layout, &manifest.config)?;
    let record = ImageRecord::new(&descriptor, &manifest, &config)?;
    import.check_platform(&record.config)?;
    for (at, layer) in manifest.layers.iter().enumerate() {
        let diff_id = record.layers.get(at).map(|layer| &layer.diff_id);
        store_layer(import, layout, layer, (at, manifest.layers.len()), diff_id)?;
    }
    store_document(import, &manifest.config, &config)?;
    store_document(import, &descriptor, &blob(import, layout, &descriptor)?)?;
    // Not with the annotations of the source, which would fill up the index of the store.
    let plain = Descriptor::new(descriptor.media_type, descriptor.digest, descriptor.size);
    import.store.tag(&reference, &plain)
}

/// A bare tag is not the name of an image.
fn is_full_name(name: &str) -> bool {
    name.contains(['/', ':'])
}

fn read_index(import: &Import<'_>, layout: &dyn Layout) -> Result<Index> {
    let bytes = document(import, layout, LAYOUT_INDEX)?;
    let index: Index = json::parse(&bytes, MAX_JSON_BYTES)
        .map_err(|source| import.corrupt(ArchiveError::Json { name: LAYOUT_INDEX.into(), source }))?;
    let wrong = |e| StorageError::corrupt(import.path.display().to_string(), e);
    if index.schema_version != 2 {
        return Err(wrong(ImageError::Schema));
    }
    if index.manifests.len() > MAX_DESCRIPTORS {
        return Err(too_many());
    }
    index.manifests.iter().try_for_each(Descriptor::check).map_err(wrong)?;
    Ok(index)
}

/// The entry that the caller named; else the one that is called like the result; else the only name there is.
/// Entries of one name are for different platforms.
fn choose<'a>(import: &Import<'_>, entries: &'a [Descriptor]) -> Result<&'a Descriptor> {
    let is_image =
        |d: &&Descriptor| media_type::is_manifest(&d.media_type) || media_type::is_index(&d.media_type);
    let images: Vec<&Descriptor> = entries.iter().filter(is_image).collect();
    let named =
        |selector: &str| images.iter().copied().filter(|d| is_called(d, selector)).collect::<Vec<_>>();
    let mut meant = Vec::new();
    if let Some(source) = &import.options.source {
        meant = named(source);
        if meant.is_empty() {
            return Err(import.refuse(ArchiveError::Missing { name: format!("image {}", quoted(source)) }));
        }
    } else if let Some(reference) = &import.options.reference {
        meant = named(&reference.to_string());
    }
    if meant.is_empty() {
        meant = images;
    }
    let names: BTreeSet<Option<&str>> = meant.iter().map(|d| d.ref_name()).collect();
    if names.len() > 1 {
        let names: Vec<&str> = names.into_iter().flatten().take(20).collect();
        return Err(import.refuse(ArchiveError::SeveralImages { names: names.join(", ") }));
    }
    let wanted = import.wanted();
    best(meant, &wanted).ok_or_else(|| StorageError::not_found(format!("an image for {wanted}")))
}

fn is_called(descriptor: &Descriptor, selector: &str) -> bool {
    let names = [descriptor.ref_name(), descriptor.annotation(CONTAINERD_NAME)];
    descriptor.digest.to_string() == selector
        || names.into_iter().flatten().any(|name| selects(selector, name))
}

/// From a descriptor through indexes to a manifest. A blob cannot contain its own digest, so this ends even
/// without the depth.
fn follow(
    import: &Import<'_>,
    layout: &dyn Layout,
    mut descriptor: Descriptor,
    mut budget: usize,
) -> Result<(Descriptor, Manifest)> {
    let wanted = import.wanted();
    for _ in 0..=MAX_INDEX_DEPTH {
        let bytes = blob(import, layout, &descriptor)?;
        match Document::parse(&bytes, &descriptor)? {
            Document::Manifest(manifest) => return Ok((descriptor, *manifest)),
            Document::Index(entries) => {
                budget = budget.checked_sub(entries.len()).ok_or_else(too_many)?;
                let found = best(&entries, &wanted).cloned();
                descriptor =
                    found.ok_or_else(|| StorageError::not_found(format!("an image for {wanted}")))?;
            }
        }
    }
    Err(StorageError::corrupt(import.path.display().to_string(), ImageError::IndexDepth))
}

fn too_many() -> StorageError {
    StorageError::LimitExceeded { what: "descriptors in an index".into(), limit: MAX_DESCRIPTORS as u64 }
}

/// A file at the top of the layout.
fn document(import: &Import<'_>, layout: &dyn Layout, name: &str) -> Result<Vec<u8>> {
    let (reader, size) = layout.open(&[name])?;
    super::read_document(reader, size, import.path)
}

/// The verified content of a small blob.
fn blob(import: &Import<'_>, layout: &dyn Layout, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let size = descriptor.size;
    if size > MAX_JSON_BYTES {
        let what = format!("a document of {size} bytes in {}", import.path.display());
        return Err(StorageError::LimitExceeded { what, limit: MAX_JSON_BYTES });
    }
    let mut bytes = Vec::new();
    let mut reader = open_blob(layout, &descriptor.digest, size)?;
    reader.read_to_end(&mut bytes).map_err(|e| StorageError::io("read", import.path, e))?;
    Ok(bytes)
}

fn open_blob<'a>(
    layout: &'a dyn Layout,
    digest: &Digest,
    size: u64,
) -> Result<VerifiedReader<Box<dyn Read + 'a>>> {
    let (reader, actual) = layout.open(&["blobs", digest.algorithm().as_str(), digest.hex()])?;
    if actual == size {
        return Ok(VerifiedReader::new(reader, digest.clone(), size));
    }
    // Found out before a gigabyte is read in vain.
    Err(StorageError::corrupt(format!("blob {digest}"), format!("it has {actual} bytes and not {size}")))
}

fn store_document(import: &Import<'_>, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    import.store.put_blob(bytes, Some((descriptor.digest.clone(), descriptor.size))).map(|_| ())
}

fn store_layer(
    import: &mut Import<'_>,
    layout: &dyn Layout,
    layer: &Descriptor,
    (index, count): (usize, usize),
    diff_id: Option<&Digest>,
) -> Result<()> {
    let expected = (layer.digest.clone(), layer.size);
    if import.store.has_blob(&layer.digest, layer.size)? {
        return Ok(());
    }
    let reader = open_blob(layout, &layer.digest, layer.size)?;
    let total = Some(layer.size);
    let progress = &mut *import.progress;
    let report = |bytes| progress(ImportProgress::Layer { index, count, bytes, total });
    let reader = Counted::new(reader, u64::MAX, "layer", report);
    let Some(tap) = import.tap.as_deref_mut() else {
        return import.store.put_blob(reader, Some(expected)).map(|_| ());
    };
    let (path, limit) = (import.path, import.options.limits.layer_bytes);
    let failed = |e| StorageError::io("read layer of", path, e);
    let fill = |sink: &mut dyn Write| {
        let (compression, mut reader) = sniff(reader).map_err(failed)?;
        match tap.begin(&TapLayer { index, diff_id, compression, limit }) {
            // What became of it is for the tap to know: here all bytes were verified.
            Some(stream) => tap::copy(&mut reader, sink, stream).map(drop).map_err(failed),
            None => crate::content::copy(&mut reader, &mut { sink }).map_err(failed),
        }
    };
    import.store.put_with(fill, |(), _| Ok(())).map(drop)
}
