//! An image as a docker-archive: `manifest.json`, a configuration and plain layers in a tar.
//!
//! Source: docker's image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};

use serde_json::json;
use vesselrt_storage::compression::{Compression, Decoder, sniff};
use vesselrt_storage::verify::Sha256Reader;
use vesselrt_storage::{ImageRecord, LayerRecord};

use super::{BUFFER, Tar, reference_of};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::ManagerInner;

pub(super) fn write<W: Write>(manager: &ManagerInner, image: &ImageRecord, tar: &mut Tar<W>) -> Result<()> {
    let mut written = HashSet::new();
    for layer in &image.layers {
        if written.insert(&layer.diff_id) {
            let (mut plain, size) = plain(manager, layer)?;
            tar.file(&layer_name(layer), size, &mut plain)?;
        }
    }
    let (_, size) = manager.content.open_blob(&image.config_digest)?;
    let config = manager.content.read_json_blob(&image.config_digest, size)?;
    let config_name = format!("{}.json", image.config_digest.hex());
    tar.file(&config_name, size, &mut config.as_slice())?;
    // A reference that is a digest is no tag.
    let tags: Vec<String> = reference_of(image)
        .filter(|reference| reference.tag().is_some() && reference.digest().is_none())
        .map(|reference| reference.to_string())
        .into_iter()
        .collect();
    let layers: Vec<String> = image.layers.iter().map(layer_name).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": tags, "Layers": layers }]).to_string();
    tar.file("manifest.json", manifest.len() as u64, &mut manifest.as_bytes())
}

fn layer_name(layer: &LayerRecord) -> String {
    format!("{}.tar", layer.diff_id.hex())
}

/// The uncompressed layer, verified, in a file that has no name: a tar says the size first.
fn plain(manager: &ManagerInner, layer: &LayerRecord) -> Result<(BufReader<File>, u64)> {
    let failed = |e| Error::io(format!("failed to decompress the layer {}", layer.digest), e);
    let blob = manager.content.read_blob(&layer.digest, layer.size)?;
    let (compression, reader) = sniff(BufReader::with_capacity(BUFFER, blob)).map_err(failed)?;
    let limit = manager.config.limits.image_archive_bytes;
    let decoder = Decoder::new(reader, compression).map_err(failed)?;
    let mut hashed = Sha256Reader::new(decoder.take(limit.saturating_add(1)));
    let mut scratch = manager.content.scratch()?;
    io::copy(&mut hashed, &mut scratch).map_err(failed)?;
    let (digest, size, decoder) = hashed.finish();
    if size > limit {
        let message = format!("the layer {} has more than {limit} bytes", layer.digest);
        return Err(Error::new(ErrorKind::LimitExceeded, message));
    }
    // What a compressed stream ends before is not covered by the digest of the plain tar.
    if compression != Compression::None {
        io::copy(&mut decoder.into_inner().into_inner(), &mut io::sink()).map_err(failed)?;
    }
    if digest != layer.diff_id {
        let message =
            format!("the layer {} has the diff_id {digest} and not {}", layer.digest, layer.diff_id);
        return Err(Error::integrity(message));
    }
    scratch.rewind().map_err(failed)?;
    Ok((BufReader::with_capacity(BUFFER, scratch), size))
}
