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

    /// What the layer `index` has under `path`, which is clean and relative. `rest` is what will be asked for below it.
    fn look(&mut self, index: usize, path: &[u8], rest: &[Vec<u8>]) -> Result<Option<Node>>;
}

/// A directory: its path, and the layers whose directories of this name make it up.
struct Level {
    path: Vec<u8>,
    layers: Vec<usize>,
}

/// What all layers together have under a name.
enum Merged {
    Directory(Vec<usize>),
    Other(usize, Node),
}

/// The regular file that `path` leads to: the layer that has it, its path there, and what it is.
///
/// # Errors
/// `NotFound`; `InvalidArgument` for what is no regular file, and for more than 40 symbolic links.
pub(super) fn resolve(layers: &mut impl Look, path: &[u8]) -> Result<(usize, Vec<u8>, FileNode)> {
    let shown = path.escape_ascii().to_string();
    let mut todo: VecDeque<Vec<u8>> = parts(path).collect();
    let mut levels = vec![Level { path: Vec::new(), layers: (0..layers.count()).collect() }];
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == b".." {
            if levels.len() > 1 {
                levels.pop();
            }
            continue;
        }
        let here = levels.last().expect("the root stays");
        let inside = if here.path.is_empty() { name } else { [&here.path[..], b"/", &name].concat() };
        match merged(layers, &here.layers, &inside, todo.make_contiguous())? {
            None => return Err(Error::not_found(format!("file not found: {shown}"))),
            Some(Merged::Directory(of)) => levels.push(Level { path: inside, layers: of }),
            Some(Merged::Other(_, Node::Symlink(text))) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::invalid(format!("too many symbolic links: {shown}")));
                }
                if text.starts_with(b"/") {
                    levels.truncate(1);
                }
                parts(&text).rev().for_each(|part| todo.push_front(part));
            }
            Some(Merged::Other(_, _)) if !todo.is_empty() => {
                return Err(Error::invalid(format!("path is not a directory: {}", inside.escape_ascii())));
            }
            Some(Merged::Other(layer, node)) => return regular(layers, layer, inside, node, &shown),
        }
    }
    Err(Error::invalid(format!("path is a directory: {shown}")))
}

/// The components that lead somewhere.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec)
}

fn merged(
    layers: &mut impl Look,
    visible: &[usize],
    path: &[u8],
    rest: &[Vec<u8>],
) -> Result<Option<Merged>> {
    let mut directory = Vec::new();
    for &layer in visible {
        match layers.look(layer, path, rest)? {
            None => {}
            Some(Node::Directory { opaque }) => {
                directory.push(layer);
                if opaque {
                    break;
                }
            }
            Some(Node::Whiteout) => break,
            Some(node) if directory.is_empty() => return Ok(Some(Merged::Other(layer, node))),
            // A directory above hides what is none.
            Some(_) => break,
        }
    }
    Ok((!directory.is_empty()).then_some(Merged::Directory(directory)))
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
