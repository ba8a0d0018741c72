//! Layers on disk: tar streams in, tar streams out.
//!
//! Three kinds of archive ([`Dialect`]) and two kinds of tree ([`TreeFormat`]) meet here:
//!
//! | dialect | whiteout | opaque directory | made by |
//! |---|---|---|---|
//! | `Oci` | empty file `.wh.NAME` | empty file `.wh..wh..opq` inside | every image builder |
//! | `Snapshot` | character device 0:0 | PAX record `VESSELRT.opaque=y` | us |
//! | `Plain` | none | none | `tar`, `cp` |
//!
//! An OCI layer cannot hold a file whose own name begins with `.wh.`; a snapshot can, because the kernel's overlay
//! can. In a tree of the kernel's overlay (mounted with `userxattr`) a whiteout is a character device 0:0, an opaque
//! directory has the attribute `user.overlay.opaque` = `y`, and an attribute that a guest itself named
//! `user.overlay.NAME` is stored as `user.overlay.overlay.NAME` (Documentation/filesystems/overlayfs.rst).
//!
//! # How an archive becomes a tree
//!
//! `tar` reads entries strictly; [`entry`] judges each one without touching anything; `unpack` does what was decided,
//! always relative to a directory descriptor: parents are resolved inside the root, the last component is never
//! followed. The first entry that is refused fails the whole layer, and the caller throws the staging directory away.
//!
//! Within one layer the later entry wins, whatever stood there before; whiteouts and opaque marks apply to the layers
//! below only, in whatever order they come. Directories get their mode and times last, children before parents.
//!
//! # How a tree becomes an archive
//!
//! The same tree always gives the same bytes: names sorted by byte, directories before what is in them, ustar
//! headers with a PAX header only for what does not fit (times with nanoseconds, long names, attributes), holes
//! as PAX 1.0 sparse files, numeric owners only, no access or change times, hard links to the first name.
#![forbid(unsafe_code)]

pub mod allowance;
pub mod blob;
pub mod compare;
pub mod entry;
pub mod find;
mod incoming;
pub mod limits;
pub mod look;
pub mod measure;
mod merge;
pub mod pack;
pub mod path;
pub mod remove;
pub mod report;
pub mod snapshot;
mod stream;
pub mod tar;
pub mod unpack;
pub(crate) mod xattr;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use blob::{BlobError, BlobSource, Compression, unpack_blob};
pub use compare::{Comparison, compare_trees};
pub use entry::Reject;
pub use find::{FileNode, FindError, Node};
pub use incoming::{Incoming, unpack_incoming};
pub use limits::Limits;
pub use measure::Measure;
pub(crate) use merge::merge;
pub use pack::{PackError, PackOptions, pack, pack_entry};
pub use remove::remove_tree;
pub use report::{PackReport, UnpackReport, Warning, WarningKind, Warnings};
pub use snapshot::{Packed, SnapshotError, pack_snapshot, unpack_snapshot};
pub use tar::ParseError;
pub use unpack::{UnpackError, UnpackOptions, extract, unpack};

/// How an archive writes what is not a file: whiteouts and opaque directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OCI image layers: `.wh.NAME`, `.wh..wh..opq`.
    Oci,
    /// Our own archives: device 0:0 and a PAX record, so that every name a guest can make survives.
    Snapshot,
    /// No whiteouts at all; every name is literal.
    Plain,
}

/// What kind of tree lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeFormat {
    /// A layer of the kernel's overlay with `userxattr`.
    Overlay,
    /// A writable layer of fuse-overlayfs: only read. Its opaque directories have an attribute of its own name and the
    /// file `.wh..wh..opq`; where it may not make devices its whiteouts are files `.wh.NAME`, a name that it refuses to
    /// guests.
    FuseOverlay,
    /// An ordinary directory.
    Plain,
}

/// What becomes of the owners in an archive. Ids are those of the user namespace that unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdPolicy {
    /// Keep them. An id of `count` or above fails the layer: it would not be mapped, and is never wrapped to another.
    Keep {
        /// Ids from 0 that are mapped.
        count: u32,
    },
    /// All become 0, counted in the report: only one id is mapped.
    Squash,
    /// Owners are left to whoever unpacks.
    Ignore,
}

impl IdPolicy {
    /// What becomes of owners where ids `0..count` are mapped.
    #[must_use]
    pub fn for_ids(count: u32) -> Self {
        if count > 1 { Self::Keep { count } } else { Self::Squash }
    }
}
