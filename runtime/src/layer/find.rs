//! [`find`]: where a few names are in an archive, by its headers alone; and [`copy`]: the content of one file.
//!
//! Content is skipped, not read: over an archive that can be read in any order only the parts with headers are touched.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::path::{PathError, TreePath};
use super::tar::{Entry, Kind, ParseError, TarReader, padding};

/// An archive (uncompressed tar) that knows where it is being read.
pub trait Source: BufRead {
    /// Bytes of the archive before the next one that is read.
    fn position(&self) -> u64;

    /// Goes on `len` bytes later. May be called for more than there is; reading finds out then.
    ///
    /// # Errors
    /// Those of reading.
    fn skip(&mut self, len: u64) -> io::Result<()>;
}

/// What a layer has under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A directory.
    Directory {
        /// It hides what layers below have under its name.
        opaque: bool,
    },
    /// A regular file.
    File(FileNode),
    /// A symbolic link with this text.
    Symlink(Vec<u8>),
    /// The same file as the one of this path in the same layer.
    Hardlink(Vec<u8>),
    /// The name is deleted: it hides what layers below have.
    Whiteout,
    /// A FIFO or a device.
    Other,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNode {
    /// Bytes, holes counted.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Where its data begins in the archive.
    pub offset: u64,
    /// The parts of the file that are stored, in their order, one after the other: offset in the file and length. What
    /// lies between is zero.
    pub parts: Vec<(u64, u64)>,
}

/// Why an archive could not be searched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// It is no archive that we read.
    #[error("failed to read the archive at byte {at}")]
    Parse {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// An entry has an impossible name.
    #[error("the archive has an entry with an impossible name at byte {at}")]
    Path {
        /// Where.
        at: u64,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// It could not be read on.
    #[error("failed to read the archive at byte {at}")]
    Skip {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More entries than [`Limits::entries`].
    #[error("the archive has more than {limit} entries")]
    TooMany {
        /// The limit.
        limit: u64,
    },
}

impl FindError {
    /// The failure of the source, where it is one.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Skip { source, .. } | Self::Parse { source: ParseError::Io(source), .. } => Some(source),
            _ => None,
        }
    }
}

/// Looks `wanted` (clean paths, relative to the root of the tree) up in `source`, which is at the beginning of an archive
/// of ours, and is read to the archive's end. Of several entries of one name the last counts.
///
/// # Errors
/// [`FindError`].
pub fn find(
    source: &mut impl Source,
    wanted: &[Vec<u8>],
    limits: &Limits,
) -> Result<Vec<Option<Node>>, FindError> {
    let mut found = vec![None; wanted.len()];
    let mut entries = 0;
    loop {
        let at = source.position();
        // A new one for every entry: between them the source goes on by itself.
        let next = TarReader::new(&mut *source, *limits, false).next_entry();
        let Some(entry) = next.map_err(|source| FindError::Parse { at, source })? else { return Ok(found) };
        entries += 1;
        if entries > limits.entries {
            return Err(FindError::TooMany { limit: limits.entries });
        }
        let path = TreePath::clean(&entry.path, limits).map_err(|source| FindError::Path { at, source })?;
        let (stored, offset) = (entry.stored, source.position());
        note(&mut found, wanted, path.as_bytes(), entry, offset);
        let rest = stored.saturating_add(padding(stored));
        source.skip(rest).map_err(|source| FindError::Skip { at, source })?;
    }
}

fn note(found: &mut [Option<Node>], wanted: &[Vec<u8>], path: &[u8], entry: Entry, offset: u64) {
    // A name that is no directory takes away what was below it.
    let is_directory = entry.kind == Kind::Directory;
    let mut node = None;
    for (found, wanted) in found.iter_mut().zip(wanted) {
        if wanted == path {
            node.get_or_insert(found);
        } else if is_below(wanted, path) && !is_directory {
            *found = None;
        } else if is_below(path, wanted) && found.is_none() {
            // Archives of others leave directories out.
            *found = Some(Node::Directory { opaque: false });
        }
    }
    if let Some(found) = node {
        *found = Some(node_of(entry, offset));
    }
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

fn node_of(entry: Entry, offset: u64) -> Node {
    match entry.kind {
        Kind::Directory => Node::Directory { opaque: entry.opaque },
        Kind::Symlink => Node::Symlink(entry.link),
        Kind::Hardlink => Node::Hardlink(entry.link),
        Kind::CharDevice if entry.device == Some((0, 0)) => Node::Whiteout,
        Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => Node::Other,
        Kind::File => {
            let parts = match entry.sparse {
                Some(map) => map.iter().map(|part| (part.offset, part.len)).collect(),
                None => vec![(0, entry.size)],
            };
            Node::File(FileNode { size: entry.size, mode: entry.mode, offset, parts })
        }
    }
}

/// Writes the content of `file`, whose data `source` has not been read past yet.
///
/// # Errors
/// Those of reading and writing; `UnexpectedEof` when the archive ends before the file.
pub fn copy(source: &mut impl Source, file: &FileNode, out: &mut dyn Write) -> io::Result<()> {
    let ahead = file.offset.checked_sub(source.position());
    source.skip(ahead.ok_or_else(|| io::Error::other("the archive was read past the file"))?)?;
    let mut at = 0;
    for &(offset, len) in &file.parts {
        // The map was validated: ordered, without overlap, inside the file.
        zeros(offset.saturating_sub(at), out)?;
        bytes(source, len, out)?;
        at = offset.saturating_add(len);
    }
    zeros(file.size.saturating_sub(at), out)
}

fn bytes(source: &mut impl Source, mut left: u64, out: &mut dyn Write) -> io::Result<()> {
    while left > 0 {
        let some = source.fill_buf()?;
        if some.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = some.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        out.write_all(&some[..len])?;
        source.consume(len);
        left -= len as u64;
    }
    Ok(())
}

fn zeros(mut left: u64, out: &mut dyn Write) -> io::Result<()> {
    const ZEROS: &[u8] = &[0; 64 << 10];
    while left > 0 {
        let len = ZEROS.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        out.write_all(&ZEROS[..len])?;
        left -= len as u64;
    }
    Ok(())
}
