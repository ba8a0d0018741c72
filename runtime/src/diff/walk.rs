//! The way through both trees at once, by several threads.
#![forbid(unsafe_code)]

mod here;
mod queue;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Stat};

use self::here::{Found, Here, Named};
use self::queue::Queue;
use super::compare::{At, differences};
use super::layers::Layers;
use super::{Change, ChangeKind, DiffError, Differences, MAX_CHANGES, MAX_PATH_BYTES, Node};
use crate::layer::path::join;

/// Names of one directory that are looked at in one go.
const BATCH: usize = 256;
/// Threads beyond this bring little: the file system is the limit.
const MAX_THREADS: usize = 8;

/// The layers in which a path is a directory, of each side, topmost first.
pub(super) type Stacks = [Vec<u32>; 2];

/// Something that is to be looked at.
enum Task {
    /// What is in a directory.
    Dir(Vec<u8>, Stacks),
    /// Some of the names in one.
    Names(Arc<Here>, Arc<Vec<Named>>, Range<usize>),
}

/// What a step comes to.
#[derive(Default)]
struct Step {
    tasks: Vec<Task>,
    changes: Vec<Change>,
}

/// What all steps need.
struct Walk<'a> {
    layers: &'a Layers,
    only: Only<'a>,
    changes: AtomicU64,
    path_bytes: AtomicU64,
}

/// Everything that differs, in no order.
pub(super) fn walk(layers: &Layers, stacks: Stacks, paths: &[Vec<u8>]) -> Result<Vec<Change>, DiffError> {
    let walk = Walk { layers, only: Only(paths), changes: AtomicU64::new(0), path_bytes: AtomicU64::new(0) };
    let mut first = Step::default();
    walk.root(&stacks, &mut first)?;
    if stacks[0] != stacks[1] {
        first.tasks.push(Task::Dir(Vec::new(), stacks));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    Queue::new(first.tasks).run(threads, first.changes, |task, changes| {
        let mut step = Step { tasks: Vec::new(), changes: std::mem::take(changes) };
        let done = walk.step(task, &mut step);
        *changes = step.changes;
        done.map(|()| step.tasks)
    })
}

impl Walk<'_> {
    /// The root directory itself.
    fn root(&self, stacks: &Stacks, step: &mut Step) -> Result<(), DiffError> {
        let top = |stack: &Vec<u32>| match stack.first() {
            Some(&layer) => self.layers.dir(layer, b""),
            None => Ok(None),
        };
        let (Some(old), Some(new)) = (top(&stacks[0])?, top(&stacks[1])?) else { return Ok(()) };
        let stat = |dir: &super::layers::Dir| {
            rustix::fs::fstat(&dir.fd).map_err(|e| DiffError::io("look at", b"", e))
        };
        let (a, b) = (stat(&old)?, stat(&new)?);
        self.both(b"", b".", At { dir: &old, stat: &a }, At { dir: &new, stat: &b }, step)
    }

    fn step(&self, task: Task, step: &mut Step) -> Result<(), DiffError> {
        match task {
            Task::Dir(path, stacks) => {
                let Some(here) = Here::open(self.layers, path, &stacks)? else { return Ok(()) };
                let names =
                    here.names(self.layers.format, |name| self.only.leads_to(&join(&here.path, name)))?;
                self.share_out(here, names, step)
            }
            Task::Names(here, names, range) => self.names(&here, &names[range], step),
        }
    }

    /// A large directory is left to several threads.
    fn share_out(&self, here: Here, names: Vec<Named>, step: &mut Step) -> Result<(), DiffError> {
        if names.len() <= BATCH {
            return self.names(&here, &names, step);
        }
        let (here, names) = (Arc::new(here), Arc::new(names));
        let mut start = 0;
        while start < names.len() {
            let mut end = (start + BATCH).min(names.len());
            while end < names.len() && names[end].name == names[end - 1].name {
                end += 1;
            }
            step.tasks.push(Task::Names(Arc::clone(&here), Arc::clone(&names), start..end));
            start = end;
        }
        Ok(())
    }

    fn names(&self, here: &Here, names: &[Named], step: &mut Step) -> Result<(), DiffError> {
        for same in names.chunk_by(|a, b| a.name == b.name) {
            let found = here.resolve(same, self.layers.format)?;
            self.judge(here, &same[0].name, found, step)?;
        }
        Ok(())
    }

    /// What became of one name.
    fn judge(
        &self,
        here: &Here,
        name: &[u8],
        [old, new]: [Found; 2],
        step: &mut Step,
    ) -> Result<(), DiffError> {
        let path = join(&here.path, name);
        match (&old.node, &new.node) {
            (None, None) => return Ok(()),
            (Some(node), None) => self.one(ChangeKind::Deleted, &path, here.node(node), step)?,
            (None, Some(node)) => self.one(ChangeKind::Added, &path, here.node(node), step)?,
            (Some((a, _)), Some((b, _))) if a == b => {}
            (Some((a, old)), Some((b, new))) => {
                let (old, new) = (At { dir: here.dir(*a), stat: old }, At { dir: here.dir(*b), stat: new });
                self.both(&path, name, old, new, step)?;
            }
        }
        if old.dirs != new.dirs {
            step.tasks.push(Task::Dir(path, [old.dirs, new.dirs]));
        }
        Ok(())
    }

    /// A path that only one side has.
    fn one(&self, kind: ChangeKind, path: &[u8], node: Node, step: &mut Step) -> Result<(), DiffError> {
        let (old, new) = match kind {
            ChangeKind::Deleted => (Some(node), None),
            _ => (None, Some(node)),
        };
        self.note(path, kind, (old, new), Differences::default(), step)
    }

    /// A path that both sides have, in different layers.
    fn both(
        &self,
        path: &[u8],
        name: &[u8],
        old: At<'_>,
        new: At<'_>,
        step: &mut Step,
    ) -> Result<(), DiffError> {
        if !self.only.has(path) {
            return Ok(());
        }
        let differences = differences(path, name, old, new, self.layers.format)?;
        if !differences.any() {
            return Ok(());
        }
        let nodes = (Some(node(old.dir.layer, old.stat)), Some(node(new.dir.layer, new.stat)));
        self.note(path, ChangeKind::Modified, nodes, differences, step)
    }

    fn note(
        &self,
        path: &[u8],
        kind: ChangeKind,
        (old, new): (Option<Node>, Option<Node>),
        differences: Differences,
        step: &mut Step,
    ) -> Result<(), DiffError> {
        if !self.only.has(path) {
            return Ok(());
        }
        if self.changes.fetch_add(1, Ordering::Relaxed) >= MAX_CHANGES {
            return Err(DiffError::TooMuch { what: "paths", limit: MAX_CHANGES });
        }
        let len = path.len() as u64;
        if self.path_bytes.fetch_add(len, Ordering::Relaxed) + len > MAX_PATH_BYTES {
            return Err(DiffError::TooMuch { what: "bytes of paths", limit: MAX_PATH_BYTES });
        }
        step.changes.push(Change { path: path.to_vec(), kind, old_path: None, old, new, differences });
        Ok(())
    }
}

/// What is told of a file.
pub(super) fn node(layer: u32, stat: &Stat) -> Node {
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Node {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        // That of a directory says something about the file system and nothing about it.
        size: if is_directory { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) },
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        layer,
    }
}

/// The part of the tree that was asked for.
struct Only<'a>(&'a [Vec<u8>]);

impl Only<'_> {
    /// Whether `path` is in it.
    fn has(&self, path: &[u8]) -> bool {
        self.0.is_empty() || self.0.iter().any(|only| is_in(path, only))
    }

    /// Whether some of it is at `path` or below.
    fn leads_to(&self, path: &[u8]) -> bool {
        self.has(path) || self.0.iter().any(|only| is_in(only, path))
    }
}

/// Whether `path` is `dir` or below it.
fn is_in(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
