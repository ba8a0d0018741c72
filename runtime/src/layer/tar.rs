//! The tar format, read strictly and written canonically: headers, PAX records, sparse maps.
//!
//! The reader takes v7, ustar, star, GNU (`L`, `K`, `S`) and PAX archives as GNU tar, Go's `archive/tar`, libarchive
//! and Python write them, and refuses everything on which readers are known to differ (two sizes for one entry,
//! orphaned or mixed metadata headers, unknown types). It holds one header at a time and never touches a file
//! system. Sources: pax(1) of POSIX.1-2017 "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
//! "Basic Tar Format", "Storing Sparse Files"; star(5).
#![forbid(unsafe_code)]

mod field;
mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use field::FieldError;
pub(crate) use field::Mtime;
pub use reader::ParseError;
pub(crate) use reader::{Entry, Kind, TarReader};
pub(crate) use sparse::Segment;
pub(crate) use writer::{Head, OPAQUE_KEY, Record, encode_sparse_map, push_headers, xattr_record};

/// The unit of every tar archive, in bytes.
pub(crate) const BLOCK: usize = 512;

/// Bytes from `size` to the next block boundary.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
