//! Renames that are to be expected: a file that has its name, and its directory's name, somewhere else. Most are like
//! that, and two files are compared faster than digests of both are made.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, openat};
use rustix::io::Errno;

use super::{Group, KEYS, Pairs};
use crate::diff::compare::{Attributes, same_bytes};
use crate::diff::layers::{Layers, READ, is_gone, tree_order};
use crate::diff::{Change, DiffError};
use crate::layer::path::split;

/// Pairs that one thread compares at a time.
const BATCH: usize = 64;

/// Two files that may be one.
#[derive(Clone, Copy)]
struct Likely {
    from: usize,
    to: usize,
    size: u64,
}

/// Pairs the files of which a group has one deleted and one added of a name, if their content is the same, and takes them
/// out of the groups. Whoever looks at all of the group would pair the same ones.
pub(super) fn pair(
    layers: &Layers,
    changes: &[Change],
    groups: &mut Vec<(u64, bool, Group)>,
    pairs: &mut Pairs,
) -> Result<(), DiffError> {
    let mut likely = Vec::new();
    for (size, _, group) in groups.iter().filter(|(_, is_link, _)| !is_link) {
        expected(changes, group, *size, &mut likely);
    }
    // Neighbours have the same directories.
    likely.sort_by(|a, b| tree_order(&changes[a.from].path, &changes[b.from].path));
    let same = compare(layers, changes, &likely)?;
    if same.is_empty() {
        return Ok(());
    }
    let mut taken = vec![false; changes.len()];
    for (Likely { from, to, .. }, attributes) in same {
        pairs.insert(from, (to, attributes));
        (taken[from], taken[to]) = (true, true);
    }
    groups.retain_mut(|(_, _, group)| {
        group.iter_mut().for_each(|side| side.retain(|at| !taken[*at]));
        group.iter().all(|side| !side.is_empty())
    });
    Ok(())
}

/// The pairs of a group of which there is one only.
fn expected(changes: &[Change], group: &Group, size: u64, likely: &mut Vec<Likely>) {
    if let [[from], [to]] = [group[0].as_slice(), group[1].as_slice()] {
        likely.push(Likely { from: *from, to: *to, size });
        return;
    }
    let mut named: HashMap<[&[u8]; 2], [Option<Option<usize>>; 2]> = HashMap::new();
    for (side, positions) in group.iter().enumerate() {
        for &at in positions {
            let seen = &mut named.entry(KEYS[0](&changes[at].path)).or_default()[side];
            // The second of a name makes it ambiguous.
            *seen = Some(seen.is_none().then_some(at));
        }
    }
    likely.extend(named.into_values().filter_map(|sides| match sides {
        [Some(Some(from)), Some(Some(to))] => Some(Likely { from, to, size }),
        _ => None,
    }));
}

/// Those of which both files have the same bytes; whether attributes differ.
fn compare(layers: &Layers, changes: &[Change], likely: &[Likely]) -> Result<Vec<(Likely, bool)>, DiffError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(likely.len() / BATCH + 1);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let part = || {
        let (mut old, mut new) = (Opener::new(layers), Opener::new(layers));
        let mut same = Vec::new();
        loop {
            let begin = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(some) = likely.get(begin..).filter(|rest| !rest.is_empty()) else { return same };
            for &pair in &some[..BATCH.min(some.len())] {
                match is_same(changes, pair, &mut old, &mut new) {
                    Ok(found) => same.extend(found.map(|attributes| (pair, attributes))),
                    Err(errno) => {
                        next.store(likely.len(), Ordering::Relaxed);
                        let error = DiffError::io("read", &changes[pair.to].path, errno);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return same;
                    }
                }
            }
        }
    };
    let same = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(part)).collect();
        let mut same = part();
        for other in others {
            same.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        same
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(same),
    }
}

/// Whether both have the same bytes, and then whether their attributes differ; `None` if not. What is not there any more is
/// like nothing.
fn is_same(
    changes: &[Change],
    pair: Likely,
    old: &mut Opener<'_>,
    new: &mut Opener<'_>,
) -> Result<Option<bool>, Errno> {
    let (from, to) = (&changes[pair.from], &changes[pair.to]);
    let (Some(before), Some(after)) = (&from.old, &to.new) else { return Ok(None) };
    let (Some(a), Some(b)) = (old.open(before.layer, &from.path)?, new.open(after.layer, &to.path)?) else {
        return Ok(None);
    };
    match same_bytes(&a, &b, pair.size) {
        Ok(true) => {}
        // It is no file any more.
        Ok(false) | Err(Errno::SPIPE | Errno::ISDIR) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    let format = old.layers.format;
    Ok(Some(Attributes::of_file(a.as_fd(), format)? != Attributes::of_file(b.as_fd(), format)?))
}

/// Opens files that often are in the same directory.
struct Opener<'a> {
    layers: &'a Layers,
    at: Option<(u32, Vec<u8>, OwnedFd)>,
}

impl<'a> Opener<'a> {
    fn new(layers: &'a Layers) -> Self {
        Self { layers, at: None }
    }

    fn open(&mut self, layer: u32, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        match self.try_open(layer, path) {
            Ok(fd) => Ok(Some(fd)),
            Err(errno) if is_gone(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn try_open(&mut self, layer: u32, path: &[u8]) -> Result<OwnedFd, Errno> {
        let (parent, name) = split(path);
        if let Some((same, dir, fd)) = &self.at
            && *same == layer
            && dir == parent
        {
            return openat(fd, name, READ, Mode::empty());
        }
        let fd = self.layers.parent(layer, path)?;
        let file = openat(&fd, name, READ, Mode::empty());
        self.at = Some((layer, parent.to_vec(), fd));
        file
    }
}
