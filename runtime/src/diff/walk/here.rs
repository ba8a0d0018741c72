//! [`Here`]: one directory as both sides have it, layer by layer.
#![forbid(unsafe_code)]

use rustix::fs::{AtFlags, FileType, Stat, fgetxattr, statat};
use rustix::io::Errno;

use super::{Stacks, node};
use crate::diff::layers::{Dir, FUSE_MARK, Layers, is_gone};
use crate::diff::{DiffError, Node};
use crate::layer::TreeFormat;
use crate::layer::path::join;

/// The attribute of a whiteout in the form of an empty file.
const WHITEOUT: &[u8] = b"user.overlay.whiteout";
/// How fuse-overlayfs says in a file that a directory is opaque; an attribute says so too.
const FUSE_OPAQUE: &[u8] = b".wh..wh..opq";

/// A directory in all its layers. Both sides end in the same layers; those that come before are the sides' own.
pub(super) struct Here {
    pub(super) path: Vec<u8>,
    /// Each layer's once.
    dirs: Vec<Dir>,
    /// Those that a side has for itself, topmost first; positions in `dirs`.
    own: [Vec<usize>; 2],
    /// Those that lie below for both.
    shared: Vec<usize>,
}

/// A name in one of the sides' own directories.
pub(super) struct Named {
    pub(super) name: Vec<u8>,
    dir: usize,
    /// It is deleted there, says a file of fuse-overlayfs.
    deleted: bool,
}

/// What a name is on one side.
#[derive(Default, Clone)]
pub(super) struct Found {
    /// In which of the directories, and what.
    pub(super) node: Option<(usize, Stat)>,
    /// If it is a directory: the layers that have it.
    pub(super) dirs: Vec<u32>,
}

/// What one layer says about a name.
#[derive(Clone, Copy)]
enum Seen {
    Nothing,
    Whiteout,
    Node(Stat),
}

impl Here {
    /// Opens the directory in the layers of both sides. `None` when both turn out to have the same ones.
    pub(super) fn open(layers: &Layers, path: Vec<u8>, stacks: &Stacks) -> Result<Option<Self>, DiffError> {
        let mut here = Self { path, dirs: Vec::new(), own: [Vec::new(), Vec::new()], shared: Vec::new() };
        for (side, stack) in stacks.iter().enumerate() {
            for &layer in stack {
                let Some(at) = here.position(layers, layer)? else { continue };
                here.own[side].push(at);
                if here.dirs[at].opaque {
                    break;
                }
            }
        }
        if here.own[0] == here.own[1] {
            return Ok(None);
        }
        let [old, new] = &mut here.own;
        while old.last().is_some() && old.last() == new.last() {
            here.shared.extend(old.pop());
            new.pop();
        }
        here.shared.reverse();
        Ok(Some(here))
    }

    fn position(&mut self, layers: &Layers, layer: u32) -> Result<Option<usize>, DiffError> {
        if let Some(at) = self.dirs.iter().position(|dir| dir.layer == layer) {
            return Ok(Some(at));
        }
        let Some(dir) = layers.dir(layer, &self.path)? else { return Ok(None) };
        self.dirs.push(dir);
        Ok(Some(self.dirs.len() - 1))
    }

    pub(super) fn dir(&self, at: usize) -> &Dir {
        &self.dirs[at]
    }

    pub(super) fn node(&self, (at, stat): &(usize, Stat)) -> Node {
        node(self.dirs[*at].layer, stat)
    }

    /// The names that may differ, sorted.
    pub(super) fn names(
        &self,
        format: TreeFormat,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Named>, DiffError> {
        let mut names: Vec<Named> = Vec::new();
        let [old, new] = &self.own;
        let others = new.iter().filter(|at| !old.contains(at));
        for &at in old.iter().chain(others) {
            let listed = self.dirs[at].names(|name| {
                let mark =
                    if format == TreeFormat::FuseOverlay { name.strip_prefix(FUSE_MARK) } else { None };
                if name == FUSE_OPAQUE && mark.is_some() || mark.is_some_and(<[u8]>::is_empty) {
                    return;
                }
                let deleted = mark.is_some();
                let name = mark.unwrap_or(name);
                if wanted(name) {
                    names.push(Named { name: name.to_vec(), dir: at, deleted });
                }
            });
            listed.map_err(|e| DiffError::io("list", &self.path, e))?;
        }
        names.sort_unstable_by(|a, b| (&a.name, a.dir, a.deleted).cmp(&(&b.name, b.dir, b.deleted)));
        Ok(names)
    }

    /// What a name is on both sides. `listed` is where it is among the sides' own directories.
    pub(super) fn resolve(&self, listed: &[Named], format: TreeFormat) -> Result<[Found; 2], DiffError> {
        let name = listed[0].name.as_slice();
        let mut shared: Option<Found> = None;
        let mut sides = [Found::default(), Found::default()];
        for (side, found) in self.own.iter().zip(&mut sides) {
            if self.in_own(side, name, listed, found)? {
                continue;
            }
            let below = match &shared {
                Some(below) => below.clone(),
                None => shared.insert(self.in_shared(name, format)?).clone(),
            };
            if found.node.is_none() {
                *found = below;
            } else {
                found.dirs.extend(below.dirs);
            }
        }
        Ok(sides)
    }

    /// True when what lies below does not count.
    fn in_own(
        &self,
        side: &[usize],
        name: &[u8],
        listed: &[Named],
        found: &mut Found,
    ) -> Result<bool, DiffError> {
        for &at in side {
            for entry in listed.iter().filter(|entry| entry.dir == at) {
                let seen = if entry.deleted { Seen::Whiteout } else { self.look(at, name)? };
                if found.add(seen, at, self.dirs[at].layer) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn in_shared(&self, name: &[u8], format: TreeFormat) -> Result<Found, DiffError> {
        let mut found = Found::default();
        for &at in &self.shared {
            let layer = self.dirs[at].layer;
            if found.add(self.look(at, name)?, at, layer) {
                break;
            }
            if format == TreeFormat::FuseOverlay {
                let marked = self.look(at, &[FUSE_MARK, name].concat())?;
                if matches!(marked, Seen::Node(_)) {
                    break;
                }
            }
        }
        Ok(found)
    }

    fn look(&self, at: usize, name: &[u8]) -> Result<Seen, DiffError> {
        let dir = &self.dirs[at];
        let stat = match statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // A name that is too long together with a mark is none.
            Err(errno) if is_gone(errno) || errno == Errno::NAMETOOLONG => return Ok(Seen::Nothing),
            Err(errno) => return Err(DiffError::io("look at", &join(&self.path, name), errno)),
        };
        let whiteout = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => stat.st_rdev == 0,
            FileType::RegularFile => dir.marked_files && stat.st_size == 0 && is_marked(dir, name),
            _ => false,
        };
        Ok(if whiteout { Seen::Whiteout } else { Seen::Node(stat) })
    }
}

impl Found {
    /// Takes in what the next layer says; true when it is the last that counts.
    fn add(&mut self, seen: Seen, at: usize, layer: u32) -> bool {
        let stat = match seen {
            Seen::Nothing => return false,
            Seen::Whiteout => return true,
            Seen::Node(stat) => stat,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory {
            self.dirs.push(layer);
        }
        self.node.get_or_insert((at, stat));
        !is_directory
    }
}

fn is_marked(dir: &Dir, name: &[u8]) -> bool {
    let mut value = [0u8; 16];
    dir.open(name).is_ok_and(|fd| matches!(fgetxattr(&fd, WHITEOUT, &mut value), Ok(_) | Err(Errno::RANGE)))
}
