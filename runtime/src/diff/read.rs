//! [`read`]: the content of files, for whoever shows in what they differ.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, fstat, readlinkat};
use rustix::io::Errno;

use super::layers::{Layers, is_gone};
use super::{Content, DiffError, LayerName, ReadRequest, number_of};
use crate::layer::TreeFormat;
use crate::layer::path::split;

/// Reads files of layers, in the order of the request. `dirs` are those of [`super::compare`].
pub(crate) fn read(dirs: &[OwnedFd; 3], request: &ReadRequest) -> Result<Vec<Content>, DiffError> {
    let mut names: Vec<LayerName> = Vec::new();
    let numbers: Vec<u32> = request.files.iter().map(|(layer, _)| number_of(&mut names, layer)).collect();
    // Where a file is, is known: what hides what does not matter.
    let layers = Layers::open(dirs, &names, TreeFormat::Plain)?;
    let one =
        |(layer, (_, path)): (u32, &(LayerName, Vec<u8>))| match content(&layers, layer, path, request.limit)
        {
            Ok(content) => Ok(content),
            Err(errno) if is_gone(errno) => Ok(Content::Gone),
            Err(errno) => Err(DiffError::io("read", path, errno)),
        };
    numbers.into_iter().zip(&request.files).map(one).collect()
}

fn content(layers: &Layers, layer: u32, path: &[u8], limit: u64) -> Result<Content, Errno> {
    let fd = match layers.file(layer, path) {
        // A symbolic link, at its end or before; then the directory it is in is not there either.
        Err(Errno::LOOP) => {
            let parent = layers.parent(layer, path)?;
            return match readlinkat(&parent, split(path).1, Vec::new()) {
                Ok(target) => Ok(Content::Bytes(target.into_bytes())),
                Err(Errno::INVAL) => Ok(Content::Gone),
                Err(errno) => Err(errno),
            };
        }
        other => other?,
    };
    let stat = fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Content::Gone);
    }
    if u64::try_from(stat.st_size).unwrap_or(0) > limit {
        return Ok(Content::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0));
    // One more than allowed, as it may grow while it is read.
    let read = File::from(fd).take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(if bytes.len() as u64 > limit { Content::TooLarge } else { Content::Bytes(bytes) })
}
