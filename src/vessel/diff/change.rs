//! One path that differs, and what is in it on both sides.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vesselrt_runtime::diff as runtime;
use vesselrt_runtime::diff::LayerName;

pub use vesselrt_runtime::diff::{ChangeKind, Differences};

use crate::error::{Error, Result};
use crate::vessel::files::{FileType, time_of};

/// What a path is on one side of a comparison, with ids as they are inside.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangedFile {
    /// What it is.
    pub file_type: FileType,
    /// Permission bits with set-user-ID, set-group-ID and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// When its content changed last.
    pub modified: SystemTime,
    layer: u32,
}

impl From<runtime::Node> for ChangedFile {
    fn from(node: runtime::Node) -> Self {
        Self {
            file_type: FileType::of(node.mode),
            mode: node.mode & 0o7777,
            uid: node.uid,
            gid: node.gid,
            size: node.size,
            modified: time_of(node.mtime),
            layer: node.layer,
        }
    }
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The path, from `/` on.
    pub path: PathBuf,
    /// What became of it.
    pub kind: ChangeKind,
    /// What it was called before, if it was renamed.
    pub old_path: Option<PathBuf>,
    /// What it was; `None` if it is new.
    pub old: Option<ChangedFile>,
    /// What it is; `None` if it is gone.
    pub new: Option<ChangedFile>,
    /// In what both differ; nothing where one of them is missing.
    pub differences: Differences,
}

impl From<runtime::Change> for Change {
    fn from(change: runtime::Change) -> Self {
        Self {
            path: absolute(change.path),
            kind: change.kind,
            old_path: change.old_path.map(absolute),
            old: change.old.map(ChangedFile::from),
            new: change.new.map(ChangedFile::from),
            differences: change.differences,
        }
    }
}

fn absolute(mut path: Vec<u8>) -> PathBuf {
    path.insert(0, b'/');
    OsString::from_vec(path).into()
}

/// What a path has in it on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// There is nothing to read: the path is not there on this side, or is neither a file nor a symlink, or has the same
    /// content on both.
    None,
    /// The bytes of a file, or the target of a symlink.
    Bytes(Vec<u8>),
    /// It is larger than was asked for.
    TooLarge,
    /// It is not there any more.
    Gone,
}

/// What a path has in it on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contents {
    /// On the older side.
    pub old: Content,
    /// On the newer side.
    pub new: Content,
}

/// Contents of which some must be read.
pub(super) struct Wanted(Vec<[Side; 2]>);

enum Side {
    Known(Content),
    Unread(u64, (LayerName, Vec<u8>)),
}

/// What must be read for `changes`, of which nothing larger than `limit` is.
pub(super) fn wanted(changes: &[Change], layers: &[LayerName], limit: u64) -> Result<Wanted> {
    let both = |change: &Change| {
        let old_path = change.old_path.as_ref().unwrap_or(&change.path);
        let same = change.old.is_some()
            && change.new.is_some()
            && !(change.differences.content || change.differences.kind);
        let side = |file: &Option<ChangedFile>, path: &Path| match file {
            Some(file) if !same => side(file, path, layers, limit),
            _ => Ok(Side::Known(Content::None)),
        };
        Ok([side(&change.old, old_path)?, side(&change.new, &change.path)?])
    };
    Ok(Wanted(changes.iter().map(both).collect::<Result<_>>()?))
}

fn side(file: &ChangedFile, path: &Path, layers: &[LayerName], limit: u64) -> Result<Side> {
    if !matches!(file.file_type, FileType::File | FileType::Symlink) {
        return Ok(Side::Known(Content::None));
    }
    if file.size > limit {
        return Ok(Side::Known(Content::TooLarge));
    }
    let layer = usize::try_from(file.layer).ok().and_then(|at| layers.get(at)).cloned();
    let layer =
        layer.ok_or_else(|| Error::invalid(format!("{path:?} is not a change of this comparison")))?;
    let path = path.as_os_str().as_bytes();
    Ok(Side::Unread(file.size, (layer, path.strip_prefix(b"/").unwrap_or(path).to_vec())))
}

impl Wanted {
    /// What is to be read, with the sizes.
    pub(super) fn files(&self) -> impl Iterator<Item = (u64, (LayerName, Vec<u8>))> {
        self.0.iter().flatten().filter_map(|side| match side {
            Side::Unread(size, file) => Some((*size, file.clone())),
            Side::Known(_) => None,
        })
    }

    /// Puts what was read where it belongs.
    pub(super) fn answer(self, read: Vec<runtime::Content>) -> Result<Vec<Contents>> {
        let mut read = read.into_iter();
        let mut one = |side| match side {
            Side::Known(content) => Ok(content),
            Side::Unread(..) => match read.next() {
                Some(runtime::Content::Bytes(bytes)) => Ok(Content::Bytes(bytes)),
                Some(runtime::Content::TooLarge) => Ok(Content::TooLarge),
                Some(runtime::Content::Gone) => Ok(Content::Gone),
                None => Err(Error::internal("unexpected reply of the worker: contents are missing")),
            },
        };
        self.0.into_iter().map(|[old, new]| Ok(Contents { old: one(old)?, new: one(new)? })).collect()
    }
}
