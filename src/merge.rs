//! Merged layers: long chains of sealed layers are mounted as few.
//!
//! Eight layers of a chain, counted from the image, are merged into one that looks the same, eight of those into one again,
//! and eight of those. They are made in the background, named by what they cover, and can be made again at any time: snapshots keep
//! their own layers. A chain of hundreds of layers is so mounted as about ten.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use vesselrt_storage::Digest;
use vesselrt_storage::manifest::VesselManifest;

/// Layers that are merged into one.
const FAN: usize = 8;
/// Snapshots that merged layers cover.
const SIZES: [usize; 3] = [FAN * FAN * FAN, FAN * FAN, FAN];
/// No id begins like this.
const PREFIX: &str = "+";

/// A merged layer that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Merge {
    /// Its name under `layers`.
    pub(crate) name: String,
    /// What it is made of, topmost first: names under `layers`.
    pub(crate) parts: Vec<String>,
    /// What lies below, topmost first: names under `layers`.
    pub(crate) below: Vec<String>,
}

/// The name of the layer that looks like these snapshots, lowest first.
fn name(ids: &[&str]) -> String {
    let digest = Digest::sha256(ids.join("\n").as_bytes());
    format!("{PREFIX}{}", &digest.hex()[..32])
}

/// What to mount for `sealed` (topmost first), where `is_there` says which merged layers there are.
pub(crate) fn stack(sealed: &[String], is_there: &mut dyn FnMut(&str) -> bool) -> Vec<String> {
    let chain: Vec<&str> = sealed.iter().rev().map(String::as_str).collect();
    let mut stack = stack_of(&chain, is_there);
    stack.reverse();
    stack
}

/// Lowest first.
fn stack_of(chain: &[&str], is_there: &mut dyn FnMut(&str) -> bool) -> Vec<String> {
    let (mut stack, mut at) = (Vec::new(), 0);
    while at < chain.len() {
        let merged = SIZES.iter().filter(|&&size| at.is_multiple_of(size)).find_map(|&size| {
            let covered = name(chain.get(at..at + size)?);
            is_there(&covered).then_some((covered, size))
        });
        let (layer, size) = merged.unwrap_or_else(|| (chain[at].to_owned(), 1));
        stack.push(layer);
        at += size;
    }
    stack
}

/// The next merged layer to be made for `sealed` (topmost first).
pub(crate) fn due(sealed: &[String], is_there: &mut dyn FnMut(&str) -> bool) -> Option<Merge> {
    let chain: Vec<&str> = sealed.iter().rev().map(String::as_str).collect();
    for size in SIZES.into_iter().rev() {
        for at in (0..).map(|n| n * size).take_while(|at| at + size <= chain.len()) {
            let merged = name(&chain[at..at + size]);
            if is_there(&merged) {
                continue;
            }
            let mut parts = stack_of_parts(&chain[at..at + size], size / FAN);
            // The larger ones are made of the smaller ones, which may have been taken away.
            if size > FAN && !parts.iter().all(|part| is_there(part)) {
                continue;
            }
            let mut below = stack_of(&chain[..at], is_there);
            parts.reverse();
            below.reverse();
            return Some(Merge { name: merged, parts, below });
        }
    }
    None
}

fn stack_of_parts(chain: &[&str], size: usize) -> Vec<String> {
    match size {
        1 => chain.iter().map(|&id| id.to_owned()).collect(),
        _ => chain.chunks(size).map(name).collect(),
    }
}

/// Every merged layer that may be mounted for a snapshot of this vessel.
pub(crate) fn names(manifest: &VesselManifest) -> Vec<String> {
    let parents: HashMap<&str, &str> = manifest
        .snapshots
        .iter()
        .map(|snapshot| (snapshot.id.as_str(), snapshot.parent_id.as_str()))
        .collect();
    let mut depths: HashMap<&str, usize> = HashMap::with_capacity(parents.len());
    let mut names = Vec::new();
    for snapshot in &manifest.snapshots {
        let depth = depth(&snapshot.id, &parents, &mut depths);
        for size in SIZES.into_iter().filter(|size| depth.is_multiple_of(*size)) {
            let mut covered = vec![snapshot.id.as_str()];
            let above = std::iter::successors(Some(snapshot.id.as_str()), |id| parents.get(id).copied());
            covered.extend(above.skip(1).take(size - 1));
            covered.reverse();
            names.push(name(&covered));
        }
    }
    names
}

/// How many snapshots lead to one, itself included.
fn depth<'a>(id: &'a str, parents: &HashMap<&'a str, &'a str>, known: &mut HashMap<&'a str, usize>) -> usize {
    let (mut path, mut at) = (Vec::new(), id);
    while !at.is_empty() && !known.contains_key(at) && path.len() < parents.len() {
        path.push(at);
        at = parents.get(at).copied().unwrap_or_default();
    }
    let mut depth = known.get(at).copied().unwrap_or(0);
    for id in path.into_iter().rev() {
        depth += 1;
        known.insert(id, depth);
    }
    known.get(id).copied().unwrap_or(depth)
}

/// Whether a chain that has become this long may be worth merging.
pub(crate) fn may_be_due(length: usize) -> bool {
    length.is_multiple_of(FAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests::{manifest, snapshot};
    use std::collections::HashSet;

    fn chain(length: usize) -> Vec<String> {
        (0..length).rev().map(|n| format!("s{n}")).collect()
    }

    #[test]
    fn a_chain_of_any_length_is_mounted_as_few_layers_once_all_is_merged() {
        for length in [0, 1, 7, 8, 9, 63, 64, 65, 511, 512, 513, 600, 1000] {
            let sealed = chain(length);
            let mut made: HashSet<String> = HashSet::new();
            let mut covers: HashMap<String, Vec<String>> = HashMap::new();
            while let Some(merge) = due(&sealed, &mut |name| made.contains(name)) {
                let of = |name: &String| covers.get(name).cloned().unwrap_or_else(|| vec![name.clone()]);
                let covered: Vec<String> = merge.parts.iter().flat_map(of).collect();
                let below: Vec<String> = merge.below.iter().flat_map(of).collect();
                let all: Vec<String> = covered.iter().chain(&below).cloned().collect();
                assert!(sealed.ends_with(&all), "what is merged lies on what is below");
                covers.insert(merge.name.clone(), covered);
                assert!(made.insert(merge.name));
            }
            let stack = stack(&sealed, &mut |name| made.contains(name));
            let whole: Vec<String> = stack
                .iter()
                .flat_map(|name| covers.get(name).cloned().unwrap_or_else(|| vec![name.clone()]))
                .collect();
            assert_eq!(whole, sealed);
            assert!(stack.len() <= length / 512 + 7 + 7 + 7, "{length}: {}", stack.len());
        }
    }

    #[test]
    fn what_may_be_mounted_is_kept() {
        let mut tree = manifest();
        for n in 0..600 {
            let parent = if n == 0 { String::new() } else { format!("s{}", n - 1) };
            tree.snapshots.push(snapshot(&format!("s{n}"), &parent));
        }
        let kept: HashSet<String> = names(&tree).into_iter().collect();
        for length in [8, 300, 512, 600] {
            let mut made = HashSet::new();
            while let Some(merge) = due(&chain(length), &mut |name| made.contains(name)) {
                assert!(kept.contains(&merge.name));
                made.insert(merge.name);
            }
        }
        assert_eq!(kept.len(), 600 / 8 + 600 / 64 + 600 / 512);
    }

    #[test]
    fn without_merged_layers_every_layer_is_mounted() {
        assert_eq!(stack(&chain(40), &mut |_| false), chain(40));
    }

    #[test]
    fn no_snapshot_can_have_the_name_of_a_merged_layer() {
        assert!(vesselrt_storage::validate_id(&name(&["a"])).is_err());
    }
}
