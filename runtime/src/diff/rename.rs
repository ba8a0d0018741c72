//! [`find`]: which of the deleted files are there again under another name.
//!
//! A file counts as renamed if its content is the same, byte for byte; a directory if all that was in it is in the new one
//! under the same names. Content is read only where type and size match, and only so much of it. Where several files
//! have the same content, those of the same name belong together, then those that come in the same order. Empty files say nothing by
//! themselves; they go with their directory.
#![forbid(unsafe_code)]

mod dirs;
mod fingerprint;
mod likely;

use std::collections::{BTreeMap, HashMap, VecDeque};

use rustix::fs::FileType;

use self::fingerprint::{Fingerprint, Source, fingerprints};
use super::compare::renamed;
use super::layers::{Layers, tree_order};
use super::{Change, ChangeKind, DiffError, Node};
use crate::layer::path::split;

/// What is read at most in search of renames, in bytes.
const BUDGET: u64 = 1 << 30;
/// The beginning of a file, which usually tells.
const BEGIN: u64 = 16 << 10;

/// Pairs of positions in the changes: what was deleted, and as what it was added; whether attributes differ.
type Pairs = HashMap<usize, (usize, bool)>;

/// Puts one renamed path in place of a deleted and an added one. True when there was too much to look at all.
pub(super) fn find(layers: &Layers, changes: &mut Vec<Change>) -> Result<bool, DiffError> {
    find_in(layers, changes, true)
}

/// `expected`: first look where one would expect it, which is only faster.
fn find_in(layers: &Layers, changes: &mut Vec<Change>, expected: bool) -> Result<bool, DiffError> {
    let mut groups = candidates(changes);
    groups.retain(|_, group| group.iter().all(|side| !side.is_empty()));
    if groups.is_empty() {
        return Ok(false);
    }
    let (mut groups, limited) = within_budget(groups);
    let mut pairs = Pairs::new();
    if expected {
        likely::pair(layers, changes, &mut groups, &mut pairs)?;
    }
    for group in same_content(layers, changes, groups)? {
        pair_up(changes, group, &mut pairs);
    }
    dirs::pair(changes, &mut pairs);
    replace(changes, &pairs);
    Ok(limited)
}

/// Deleted and added files, by position, with what is read of them.
type Group = [Vec<usize>; 2];

/// Files and links by type and size.
fn candidates(changes: &[Change]) -> BTreeMap<(u64, bool), Group> {
    let mut groups: BTreeMap<(u64, bool), Group> = BTreeMap::new();
    for (at, change) in changes.iter().enumerate() {
        let (side, node) = match change.kind {
            ChangeKind::Deleted => (0, &change.old),
            ChangeKind::Added => (1, &change.new),
            _ => continue,
        };
        let Some(node) = node else { continue };
        let kind = FileType::from_raw_mode(node.mode);
        if node.size > 0 && matches!(kind, FileType::RegularFile | FileType::Symlink) {
            groups.entry((node.size, kind == FileType::Symlink)).or_default()[side].push(at);
        }
    }
    groups
}

/// As many groups as may be read, the smallest files first; whether some are left out.
fn within_budget(groups: BTreeMap<(u64, bool), Group>) -> (Vec<(u64, bool, Group)>, bool) {
    let (mut left, mut taken, all) = (BUDGET, Vec::new(), groups.len());
    for ((size, is_link), group) in groups {
        let count = (group[0].len() + group[1].len()) as u64;
        if let Some(rest) = left.checked_sub(size.saturating_mul(count)) {
            left = rest;
            taken.push((size, is_link, group));
        }
    }
    let limited = taken.len() < all;
    (taken, limited)
}

/// A group whose members have the same content, with a mark of their attributes.
type Equal = [Vec<(usize, u64)>; 2];

/// Divides groups by content: by how files begin first, and by all of it where that is not all.
fn same_content(
    layers: &Layers,
    changes: &[Change],
    groups: Vec<(u64, bool, Group)>,
) -> Result<Vec<Equal>, DiffError> {
    let mut done = Vec::new();
    let mut open: Vec<Group> = Vec::new();
    let sizes: Vec<u64> = groups.iter().map(|(size, ..)| *size).collect();
    let groups: Vec<Group> = groups.into_iter().map(|(.., group)| group).collect();
    let begun = divide(layers, changes, &groups, BEGIN)?;
    for (from, equal) in begun {
        if sizes[from] <= BEGIN {
            done.push(equal);
        } else {
            open.push(equal.map(|side| side.into_iter().map(|(at, _)| at).collect()));
        }
    }
    done.extend(divide(layers, changes, &open, u64::MAX)?.into_iter().map(|(_, equal)| equal));
    Ok(done)
}

/// Divides groups by their fingerprints. Each part with the number of the group it is from; those that have one side only
/// are left out.
fn divide(
    layers: &Layers,
    changes: &[Change],
    groups: &[Group],
    limit: u64,
) -> Result<Vec<(usize, Equal)>, DiffError> {
    let members = |group: &Group| group[0].iter().chain(&group[1]).copied().collect::<Vec<_>>();
    let all: Vec<usize> = groups.iter().flat_map(members).collect();
    let sources: Vec<Source<'_>> = all.iter().filter_map(|&at| source(&changes[at])).collect();
    let found: HashMap<usize, Fingerprint> = all
        .iter()
        .zip(fingerprints(layers, &sources, limit)?)
        .filter_map(|(at, found)| Some((*at, found?)))
        .collect();
    let mut parts: BTreeMap<(usize, [u8; 32]), Equal> = BTreeMap::new();
    for (number, group) in groups.iter().enumerate() {
        for (side, positions) in group.iter().enumerate() {
            for at in positions {
                let Some(print) = found.get(at) else { continue };
                parts.entry((number, print.content)).or_default()[side].push((*at, print.attributes));
            }
        }
    }
    let both = |part: &Equal| part.iter().all(|side| !side.is_empty());
    Ok(parts.into_iter().filter(|(_, part)| both(part)).map(|((number, _), part)| (number, part)).collect())
}

fn source(change: &Change) -> Option<Source<'_>> {
    let node = change.old.as_ref().or(change.new.as_ref())?;
    Some(Source { layer: node.layer, path: &change.path, size: node.size })
}

/// A part of a path.
type Key = for<'a> fn(&'a [u8]) -> [&'a [u8]; 2];

/// What two names must have in common, less and less: directory and name, the name, nothing.
const KEYS: [Key; 3] =
    [|path| [split(split(path).0).1, split(path).1], |path| [b"", split(path).1], |_| [b"", b""]];

/// Pairs the members of a group: those with most in common first, and then in their order.
fn pair_up(changes: &[Change], group: Equal, pairs: &mut Pairs) {
    let path = |at: usize| changes[at].path.as_slice();
    let [mut old, mut new] = group;
    for side in [&mut old, &mut new] {
        side.sort_unstable_by(|a, b| tree_order(path(a.0), path(b.0)));
    }
    for key in KEYS {
        let mut waiting: HashMap<_, VecDeque<_>> = HashMap::new();
        for &(at, attributes) in &old {
            waiting.entry(key(path(at))).or_default().push_back((at, attributes));
        }
        new.retain(|&(to, attributes)| {
            let from = waiting.get_mut(&key(path(to))).and_then(VecDeque::pop_front);
            if let Some((from, before)) = from {
                pairs.insert(from, (to, before != attributes));
            }
            from.is_none()
        });
        old.retain(|(at, _)| !pairs.contains_key(at));
    }
}

/// Puts the pairs in place of what they are made of.
fn replace(changes: &mut Vec<Change>, pairs: &Pairs) {
    let mut gone = vec![false; changes.len()];
    for (&from, &(to, attributes)) in pairs {
        let (old_path, old) = (changes[from].path.clone(), changes[from].old.clone());
        let change = &mut changes[to];
        if let (Some(before), Some(after)) = (&old, &change.new) {
            change.differences = renamed(before, after, attributes);
        }
        (change.kind, change.old_path, change.old) = (ChangeKind::Renamed, Some(old_path), old);
        gone[from] = true;
    }
    let mut gone = gone.into_iter();
    changes.retain(|_| !gone.next().unwrap_or(false));
}

fn is_directory(node: Option<&Node>) -> bool {
    node.is_some_and(|node| FileType::from_raw_mode(node.mode) == FileType::Directory)
}

#[cfg(test)]
mod tests;
