//! [`pack`]: trees become archives, the same tree always the same bytes.
#![forbid(unsafe_code)]

mod data;
mod list;
mod node;
mod walk;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

pub(crate) use data::data_segments;

use self::node::Packer;
use super::limits::Limits;
use super::path::escape;
use super::report::PackReport;
use super::stream::{ChunkSink, PlainSink};
use super::{Dialect, TreeFormat};

/// How a tree is to be packed.
#[derive(Debug, Clone, Copy)]
pub struct PackOptions {
    /// How to write whiteouts.
    pub dialect: Dialect,
    /// What kind of tree it is.
    pub format: TreeFormat,
    /// What the archive may cost; what exceeds it could not be unpacked again either.
    pub limits: Limits,
}

impl PackOptions {
    /// Options with default limits.
    #[must_use]
    pub fn new(dialect: Dialect, format: TreeFormat) -> Self {
        Self { dialect, format, limits: Limits::default() }
    }
}

/// Why a tree was not packed. What was written is to be thrown away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The tree could not be read.
    #[error("failed to {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what: the path in the tree, escaped.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("failed to write the archive")]
    Write(#[source] io::Error),
    /// Names that OCI layers reserve for whiteouts: written literally, they would delete something.
    #[error("an OCI layer cannot hold names that begin with `.wh.`: {}", listed(.paths, .more))]
    ReservedNames {
        /// The paths, escaped; the first [`MAX_RESERVED`] of them.
        paths: Vec<String>,
        /// How many there are besides.
        more: u64,
    },
    /// A whiteout or an opaque directory, which a plain archive cannot express.
    #[error("a plain archive cannot hold the deletion of {path}")]
    Whiteout {
        /// The path, escaped.
        path: String,
    },
    /// The tree was written by an overlay whose files are not all in it (`redirect_dir`, `metacopy`) or without `userxattr`.
    #[error("{path} has the attribute {attribute}: the layer was mounted with other options")]
    ForeignOverlay {
        /// The path, escaped.
        path: String,
        /// The attribute, escaped.
        attribute: String,
    },
    /// The tree changed while it was read.
    #[error("{path} changed while it was read")]
    Changed {
        /// The path, escaped.
        path: String,
    },
    /// A limit was reached.
    #[error("failed to pack {path}: more than {limit} {what}")]
    Limit {
        /// The path, escaped.
        path: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// How many reserved names are told one by one.
pub const MAX_RESERVED: usize = 200;

fn listed(paths: &[String], more: &u64) -> String {
    let list = paths.join(", ");
    if *more == 0 { list } else { format!("{list} and {more} more") }
}

impl PackError {
    fn io(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: escape(path), source: source.into() }
    }
}

/// Packs everything below `tree`, and the directory itself as `./`, to `out`. `tree` must not change meanwhile.
///
/// # Errors
/// [`PackError`].
pub fn pack(tree: BorrowedFd<'_>, out: impl Write, options: &PackOptions) -> Result<PackReport, PackError> {
    pack_to(tree, PlainSink(out), options).map(|(report, _)| report)
}

/// Packs the one thing called `name` in `parent` (a file, a link, a directory with everything in it) under the name
/// `stored`. `name` is not followed.
///
/// # Errors
/// [`PackError`].
pub fn pack_entry(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    stored: &OsStr,
    out: impl Write,
    options: &PackOptions,
) -> Result<PackReport, PackError> {
    let mut packer = Packer::new(PlainSink(out), options);
    packer.one(parent, name.as_bytes(), stored.as_bytes())?;
    packer.finish().map(|(report, _)| report)
}

/// [`pack`] to any sink, which is returned.
pub(super) fn pack_to<S: ChunkSink>(
    tree: BorrowedFd<'_>,
    sink: S,
    options: &PackOptions,
) -> Result<(PackReport, S), PackError> {
    let mut packer = Packer::new(sink, options);
    packer.tree(tree)?;
    packer.finish()
}
