//! [`LayerTap`]: layers are unpacked while they are stored.
//!
//! An import reads, hashes and stores every layer. Whoever wants the layers unpacked as well can have their bytes on
//! the way, and tells in return what the import would otherwise have to decompress them for.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};

use super::layer::Ends;
use crate::compression::Compression;
use crate::digest::Digest;

/// A layer that comes.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct TapLayer<'a> {
    /// Which one of the image, from 0 and from below.
    pub index: usize,
    /// What it is to be, if the archive says so.
    pub diff_id: Option<&'a Digest>,
    /// How it is compressed.
    pub compression: Compression,
    /// The most bytes that it may have uncompressed.
    pub limit: u64,
}

/// What was found in a layer.
#[derive(Debug, Clone)]
pub struct Tapped {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// With how many zero bytes it ends.
    pub zeros: u64,
    /// How many entries it has.
    pub entries: u64,
}

/// Takes layers as they are read.
///
/// It is an offer and no promise: a tap that fails says nothing about the layer. Then the import finds out by itself
/// what is wrong with it, if anything is, and stores it or not.
pub trait LayerTap {
    /// The way in for a layer that comes now; `None` when it is not wanted.
    fn begin<'a>(&'a mut self, layer: &TapLayer<'_>) -> Option<Box<dyn TapStream + 'a>>;
}

/// Takes the bytes of one layer, compressed as they are. Dropped before [`TapStream::finish`], it has seen a part only, or
/// something that is not the layer.
pub trait TapStream: Write {
    /// All bytes of the layer were written, and were the right ones as far as that is known.
    fn finish(self: Box<Self>) -> Option<Tapped>;
}

/// How much is read at once: a few system calls less, and still in the processor's cache.
const CHUNK: usize = 256 * 1024;

/// Writes all of `layer` to `sink` and to the tap. Its failure ends its part alone; `None` then.
pub(super) fn copy(
    layer: &mut impl Read,
    sink: &mut dyn Write,
    tap: Box<dyn TapStream + '_>,
) -> io::Result<Option<Tapped>> {
    let mut tap = Some(tap);
    let mut buffer = vec![0; CHUNK];
    loop {
        let bytes = match layer.read(&mut buffer) {
            Ok(0) => return Ok(tap.and_then(TapStream::finish)),
            Ok(len) => &buffer[..len],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sink.write_all(bytes)?;
        tap = tap.and_then(|mut tap| tap.write_all(bytes).is_ok().then_some(tap));
    }
}

impl Tapped {
    /// How the tar begins and ends. Its first header was read, if there is one.
    pub(super) fn ends(&self) -> Ends {
        Ends::new(self.entries > 0, self.zeros)
    }
}
