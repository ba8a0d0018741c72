//! Directories that were renamed, told from what was in them.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use rustix::fs::FileType;

use super::{Pairs, is_directory};
use crate::diff::layers::tree_order;
use crate::diff::{Change, ChangeKind};
use crate::layer::path::{join, split};

/// Positions of changes by path, and those in each directory.
struct Side<'a> {
    at: HashMap<&'a [u8], usize>,
    inside: HashMap<&'a [u8], Vec<usize>>,
}

impl<'a> Side<'a> {
    fn new(changes: &'a [Change], kind: ChangeKind) -> Self {
        let (mut at, mut inside) = (HashMap::new(), HashMap::<_, Vec<usize>>::new());
        for (position, change) in changes.iter().enumerate().filter(|(_, change)| change.kind == kind) {
            at.insert(change.path.as_slice(), position);
            inside.entry(split(&change.path).0).or_default().push(position);
        }
        Self { at, inside }
    }
}

/// Pairs directories of which everything has the same name in the new one.
pub(super) fn pair(changes: &[Change], pairs: &mut Pairs) {
    let (gone, made) = (Side::new(changes, ChangeKind::Deleted), Side::new(changes, ChangeKind::Added));
    let mut dirs: Vec<usize> =
        gone.at.values().copied().filter(|&at| is_directory(changes[at].old.as_ref())).collect();
    // What is deepest first.
    dirs.sort_unstable_by(|&a, &b| tree_order(&changes[b].path, &changes[a].path));
    let mut taken: HashMap<usize, usize> = pairs.iter().map(|(&from, &(to, _))| (to, from)).collect();
    for dir in dirs {
        let Some(found) = whole(changes, &gone, &made, pairs, &taken, dir) else { continue };
        for (from, to) in found {
            taken.insert(to, from);
            pairs.insert(from, (to, false));
        }
    }
}

/// The directory with what goes along in it, if all of it is in one new directory.
fn whole(
    changes: &[Change],
    gone: &Side<'_>,
    made: &Side<'_>,
    pairs: &Pairs,
    taken: &HashMap<usize, usize>,
    dir: usize,
) -> Option<Vec<(usize, usize)>> {
    let inside = gone.inside.get(changes[dir].path.as_slice())?;
    let (_, &(first, _)) = inside.iter().find_map(|at| pairs.get_key_value(at))?;
    let to = split(&changes[first].path).0;
    let &target = made.at.get(to)?;
    let free = !taken.contains_key(&target) && is_directory(changes[target].new.as_ref());
    if !free || made.inside.get(to)?.len() != inside.len() {
        return None;
    }
    let mut found = vec![(dir, target)];
    for &at in inside {
        let name = split(&changes[at].path).1;
        let &there = made.at.get(join(to, name).as_slice())?;
        match pairs.get(&at) {
            Some(&(paired, _)) if paired == there => {}
            Some(_) => return None,
            None if !taken.contains_key(&there) && is_plain(changes, gone, made, at, there) => {
                found.push((at, there));
            }
            None => return None,
        }
    }
    Some(found)
}

/// Two that are the same without any content: empty files, empty directories, FIFOs.
fn is_plain(changes: &[Change], gone: &Side<'_>, made: &Side<'_>, from: usize, to: usize) -> bool {
    let (Some(old), Some(new)) = (&changes[from].old, &changes[to].new) else { return false };
    let kind = FileType::from_raw_mode(old.mode);
    let empty = |side: &Side<'_>, at: usize| !side.inside.contains_key(changes[at].path.as_slice());
    kind == FileType::from_raw_mode(new.mode)
        && match kind {
            FileType::RegularFile => old.size == 0 && new.size == 0,
            FileType::Directory => empty(gone, from) && empty(made, to),
            FileType::Fifo | FileType::Socket => true,
            _ => false,
        }
}
