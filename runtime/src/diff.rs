//! What differs between two stacks of overlay layers: between two snapshots, or a snapshot and the vessel as it is now.
//!
//! Both stacks usually end in the same layers. Nothing is looked up there but names that the layers above have: a walk
//! begins at the root with both stacks and leaves a directory as soon as both sides have the same layers there, because
//! then all that is below is the same. What it costs depends on what changed and not on the size of the image.
//!
//! ```text
//!   from  s3 s1 │ image…        names of s3, s5 and s4 are looked at;
//!   to    s5 s4 s1 │ image…     s1 and the image answer what was there before
//! ```
//!
//! An opaque directory, or a file where the other side has a directory, cuts a side's stack: the stacks differ down to
//! their end then, and everything that was below is found as deleted.
//!
//! The rules of merging are those of Documentation/filesystems/overlayfs.rst; what fuse-overlayfs writes differently,
//! [`TreeFormat::FuseOverlay`] says. The layers may change meanwhile (one may be mounted): what goes away while it is
//! looked at counts as not there.
//!
//! Names are whatever a guest made them: they are only ever given to the kernel as single names beside a descriptor, or as a
//! path below the root of a layer in which no symbolic link is followed.
#![forbid(unsafe_code)]

mod compare;
mod layers;
mod read;
mod rename;
#[cfg(test)]
mod tests;
mod walk;

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

pub(crate) use read::read;

use self::layers::Layers;
use crate::layer::TreeFormat;
use crate::shim::protocol::{Fault, FaultKind};

/// A layer by the name of its directory, which has its tree in `fs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LayerName {
    /// Of an image: in the first directory.
    Image(String),
    /// Of a snapshot: in the second.
    Sealed(String),
    /// A vessel's writable one: in the third.
    Writable(String),
}

impl LayerName {
    fn name(&self) -> &str {
        match self {
            Self::Image(name) | Self::Sealed(name) | Self::Writable(name) => name,
        }
    }
}

/// Which stacks are compared, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiffRequest {
    /// The older side, topmost first.
    pub from: Vec<LayerName>,
    /// The newer side, topmost first.
    pub to: Vec<LayerName>,
    /// What wrote the layers.
    pub format: TreeFormat,
    /// Only these and what is below them, without a leading slash; all if there are none.
    pub paths: Vec<Vec<u8>>,
    /// Look for what was only renamed.
    pub renames: bool,
}

/// What a path is on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// Owner, as seen inside.
    pub uid: u32,
    /// Group, as seen inside.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Which of [`Comparison::layers`] it is in.
    pub layer: u32,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It was there and is something else now.
    Modified,
    /// It is gone.
    Deleted,
    /// It is new, and has the content of one that is gone.
    Renamed,
}

/// In what both sides of a path differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "a set of flags")]
pub struct Differences {
    /// The type of file.
    pub kind: bool,
    /// The bytes of a file, the target of a symbolic link, the number of a device.
    pub content: bool,
    /// The permission bits.
    pub mode: bool,
    /// Owner or group.
    pub owner: bool,
    /// The modification time. That of a directory does not count: it changes with whatever comes and goes in it.
    pub mtime: bool,
    /// Extended attributes that a snapshot keeps.
    pub attributes: bool,
}

impl Differences {
    /// Whether there is any.
    #[must_use]
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The path, without a leading slash; empty for the root.
    pub path: Vec<u8>,
    /// What became of it.
    pub kind: ChangeKind,
    /// What it was called before, if it was renamed.
    pub old_path: Option<Vec<u8>>,
    /// What it was; `None` if it is new.
    pub old: Option<Node>,
    /// What it is; `None` if it is gone.
    pub new: Option<Node>,
    /// In what both differ; nothing where one of them is missing.
    pub differences: Differences,
}

/// All that differs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// The layers that [`Node::layer`] speaks of.
    pub layers: Vec<LayerName>,
    /// What differs; a directory before what is in it.
    pub changes: Vec<Change>,
    /// There was too much to look for all renames: some may be told as deleted and added.
    pub renames_limited: bool,
}

/// Which files are to be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadRequest {
    /// Layer and path of each.
    pub files: Vec<(LayerName, Vec<u8>)>,
    /// The largest that is read, in bytes.
    pub limit: u64,
}

/// The content of a file of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Its bytes, or the target of a symbolic link.
    Bytes(Vec<u8>),
    /// It is larger than was asked for.
    TooLarge,
    /// It is not there any more, or no file.
    Gone,
}

/// What is compared at most; a change takes about 200 bytes.
const MAX_CHANGES: u64 = 2_000_000;
/// The sum of the lengths of their paths.
const MAX_PATH_BYTES: u64 = 256 << 20;

/// Why two stacks could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A layer is not there.
    #[error("failed to open the layer {name}")]
    Layer {
        /// Its directory.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer could not be read.
    #[error("failed to {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what: the path in the layer, escaped.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A limit was reached.
    #[error("more than {limit} {what} differ")]
    TooMuch {
        /// Of what there is too much.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

impl DiffError {
    fn io(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: crate::layer::path::escape(path), source: source.into() }
    }

    /// As it crosses a socket.
    pub(crate) fn fault(&self, doing: &str) -> Fault {
        match self {
            Self::Layer { source, .. } | Self::Io { source, .. } => {
                Fault::io(format!("{doing}: {self}"), source)
            }
            Self::TooMuch { .. } => Fault::new(FaultKind::LimitExceeded, format!("{doing}: {self}"))
                .with_remedy("compare a part of the tree: name the paths"),
        }
    }
}

/// Compares. `dirs` are the directories of image layers, of sealed layers, and of the vessel.
pub(crate) fn compare(dirs: &[OwnedFd; 3], request: &DiffRequest) -> Result<Comparison, DiffError> {
    let mut names: Vec<LayerName> = Vec::new();
    let mut numbers =
        |side: &[LayerName]| -> Vec<u32> { side.iter().map(|name| number_of(&mut names, name)).collect() };
    let stacks = [numbers(&request.from), numbers(&request.to)];
    let layers = Layers::open(dirs, &names, request.format)?;
    let mut changes = walk::walk(&layers, stacks, &request.paths)?;
    let renames_limited = request.renames && rename::find(&layers, &mut changes)?;
    changes.sort_unstable_by(|a, b| layers::tree_order(&a.path, &b.path));
    Ok(Comparison { layers: names, changes, renames_limited })
}

fn number_of(names: &mut Vec<LayerName>, name: &LayerName) -> u32 {
    let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.clone());
        names.len() - 1
    });
    u32::try_from(at).expect("a stack has some hundred layers")
}
