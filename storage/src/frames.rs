//! zstd in independent frames with a seek table: any part of an archive can be read without the rest.
//!
//! An archive is a sequence of zstd frames of [`FRAME`] bytes of content each (the last one may hold less), every
//! one with its content size and a checksum, and at the end a skippable frame, which decoders of plain zstd pass over.
//! It holds, per frame, the compressed size, the content size and the checksum; its layout is the "Zstandard Seekable
//! Format" of the zstd project (`contrib/seekable_format/zstd_seekable_compression_format.md`), version 0.1.0.
//!
//! The frames depend on nothing but their own content, so the same content is always the same bytes, whatever number of
//! threads compressed it. Content that does not compress costs next to nothing: zstd itself notices, and stores it
//! in raw blocks at about the speed of a copy.
#![forbid(unsafe_code)]

pub(crate) mod reader;
pub mod table;
pub(crate) mod writer;

pub use reader::FrameError;

/// Bytes of content of a frame: what has to be decompressed to read one byte.
///
/// Of 1, 2, 4 and 8 MiB this is where files of a tree, which resemble each other, are near enough for most of the gain.
pub const FRAME: usize = 4 << 20;
/// The window, as a power of two: a whole frame. It costs no time, as the frame is in the cache of the processor anyway.
const WINDOW_LOG: u32 = 22;
/// Size of the hash table of level 1, as a power of two. zstd's own 14 finds little in so large a window.
const HASH_LOG: u32 = 16;

#[cfg(test)]
mod tests;
