//! What the fuzz targets share: how archives are changed so that they get past their checksums, and a world to unpack them in.
#![forbid(unsafe_code)]

pub mod tars;
pub mod world;

use vesselrt_runtime::layer::{Dialect, IdPolicy, TreeFormat};

pub use tars::mutate;

/// The first byte of an input: how the rest is taken.
#[must_use]
pub fn options(which: u8) -> (Dialect, TreeFormat, IdPolicy) {
    let (which, dialect) =
        (which / 3, [Dialect::Oci, Dialect::Snapshot, Dialect::Plain][usize::from(which % 3)]);
    let (which, format) = (which / 2, [TreeFormat::Overlay, TreeFormat::Plain][usize::from(which % 2)]);
    let ids = [IdPolicy::Squash, IdPolicy::Ignore, IdPolicy::Keep { count: 1 }][usize::from(which % 3)];
    (dialect, format, ids)
}
