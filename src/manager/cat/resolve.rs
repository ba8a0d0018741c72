//! Paths through the layers of a snapshot, as the overlay would merge them.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use vesselrt_runtime::layer::{FileNode, Node};

use crate::error::{Error, Result};

/// Symbolic links that are followed on one path, as Linux has it (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Layers that are looked into, the topmost first.
pub(super) trait Look {
    /// How many there are.
    fn count(&self) -> usize;

    /// What the layer `index` has under `path`, which is clean and relative. `rest` are the paths below it that may be
    /// asked for next.
    fn look(&mut self, index: usize, path: &[u8], rest: &[Vec<u8>]) -> Result<Option<Node>>;
}

/// What all layers together have under a path.
enum Merged {
    /// A directory.
    Directory,
    /// Something else, in this layer.
    Leaf(usize, Node),
    /// The component of this index is a symbolic link.
    Link(usize, Vec<u8>),
    /// A component is no directory, and others follow it.
    NotDirectory,
    Nothing,
}

/// The regular file that `path` leads to: the layer that has it, its path there, and what it is.
///
/// # Errors
/// `NotFound`; `InvalidArgument` for what is no regular file, and for more than 40 symbolic links.
pub(super) fn resolve(layers: &mut impl Look, path: &[u8]) -> Result<(usize, Vec<u8>, FileNode)> {
    let shown = path.escape_ascii().to_string();
    let mut todo: VecDeque<Vec<u8>> = parts(path).collect();
    // Components that are directories, then some that are looked at next.
    let mut here: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    loop {
        while todo.front().is_some_and(|name| name != b"..") {
            here.extend(todo.pop_front());
        }
        let prefixes = prefixes(&here);
        match merged(layers, &prefixes)? {
            Merged::Directory if todo.is_empty() => {
                return Err(Error::invalid(format!("path is a directory: {shown}")));
            }
            Merged::Directory => {
                // The `..` that ended the run.
                todo.pop_front();
                here.pop();
            }
            Merged::Link(at, text) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::invalid(format!("too many symbolic links: {shown}")));
                }
                here.drain(at + 1..).rev().for_each(|part| todo.push_front(part));
                here.truncate(if text.starts_with(b"/") { 0 } else { at });
                parts(&text).rev().for_each(|part| todo.push_front(part));
            }
            Merged::Leaf(layer, node) if todo.is_empty() => {
                let inside = prefixes.last().cloned().unwrap_or_default();
                return regular(layers, layer, inside, node, &shown);
            }
            Merged::Leaf(..) | Merged::NotDirectory => {
                return Err(Error::invalid(format!("path leads through what is no directory: {shown}")));
            }
            Merged::Nothing => return Err(Error::not_found(format!("file not found: {shown}"))),
        }
    }
}

/// `a`, `a/b`, `a/b/c`.
fn prefixes(components: &[Vec<u8>]) -> Vec<Vec<u8>> {
    (1..=components.len()).map(|count| components[..count].join(&b'/')).collect()
}

/// The components that lead somewhere.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec)
}

/// Looks into one layer after the other, and no further than needed.
fn merged(layers: &mut impl Look, prefixes: &[Vec<u8>]) -> Result<Merged> {
    if prefixes.is_empty() {
        return Ok(Merged::Directory);
    }
    // So many are directories of layers above, which hide what is none.
    let mut directories = 0;
    for layer in 0..layers.count() {
        let mut is_last = false;
        for (index, path) in prefixes.iter().enumerate() {
            let is_end = index + 1 == prefixes.len();
            match layers.look(layer, path, &prefixes[index + 1..])? {
                None => break,
                Some(Node::Directory { .. }) if is_end => return Ok(Merged::Directory),
                Some(Node::Directory { opaque }) => {
                    directories = directories.max(index + 1);
                    is_last |= opaque;
                }
                Some(_) if index < directories => return Ok(Merged::Nothing),
                Some(Node::Whiteout) => return Ok(Merged::Nothing),
                Some(Node::Symlink(text)) => return Ok(Merged::Link(index, text)),
                Some(node) if is_end => return Ok(Merged::Leaf(layer, node)),
                Some(_) => return Ok(Merged::NotDirectory),
            }
        }
        if is_last {
            break;
        }
    }
    Ok(Merged::Nothing)
}

/// Another name of a file leads to the first, in the same layer.
fn regular(
    layers: &mut impl Look,
    layer: usize,
    path: Vec<u8>,
    node: Node,
    shown: &str,
) -> Result<(usize, Vec<u8>, FileNode)> {
    match node {
        Node::File(file) => Ok((layer, path, file)),
        Node::Hardlink(target) => {
            let target = parts(&target).collect::<Vec<_>>().join(&b'/');
            match layers.look(layer, &target, &[])? {
                Some(Node::File(file)) => Ok((layer, target, file)),
                _ => Err(Error::integrity(format!("the archive has a link to what is no file: {shown}"))),
            }
        }
        _ => Err(Error::invalid(format!("path is not a regular file: {shown}"))),
    }
}

#[cfg(test)]
mod tests;
