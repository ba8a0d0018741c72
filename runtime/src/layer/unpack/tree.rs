//! [`Tree`]: the tree that an archive is unpacked to, and how its parents are found.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2, readlinkat, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::UnpackOptions;
use super::attrs::{Defaults, list_xattrs};
use super::dirs::{Dir, DirCache, DirState, DirTable};
use super::fault::{During, Fault, Step};
use super::lower::{Below, Lowers};
use crate::layer::entry::Meta;
use crate::layer::path::{components, join};
use crate::layer::remove::remove_tree;
use crate::layer::report::Warnings;
use crate::layer::tar::Mtime;
use crate::layer::xattr;
use crate::layer::{IdPolicy, Limits, TreeFormat};
use crate::root::open_in;

/// Paths below this go to openat2 in one piece (`PATH_MAX` is 4096 with the NUL).
const ONE_CALL: usize = 4000;

/// Symbolic links on one path, as the kernel counts them.
const MAX_LINKS: u32 = 40;

/// Components that may be walked by hand for one archive: a bound on paths made to be slow.
const MAX_STEPS: u64 = 50_000_000;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The tree and all state of one run.
pub(super) struct Tree<'a> {
    pub(super) root: BorrowedFd<'a>,
    /// Where in the root the archive goes: empty but for `extract`.
    pub(super) base: Vec<u8>,
    pub(super) lowers: Lowers<'a>,
    /// Whether there are no others.
    pub(super) all_below: bool,
    pub(super) format: TreeFormat,
    pub(super) ids: IdPolicy,
    pub(super) limits: Limits,
    /// Others use the tree while we do: nothing is remembered, nothing but files is replaced.
    pub(super) live: bool,
    pub(super) defaults: Defaults,
    pub(super) cache: DirCache,
    pub(super) dirs: DirTable,
    /// Directory and name of the whiteouts made so far.
    pub(super) whiteouts: Vec<(u64, Vec<u8>)>,
    pub(super) warnings: Warnings,
    pub(super) bytes: u64,
    pub(super) steps: u64,
}

impl<'a> Tree<'a> {
    /// A tree with no layers below that begins at `root`, of which nothing is known yet.
    pub(super) fn new(root: BorrowedFd<'a>, options: &UnpackOptions) -> Self {
        Self {
            root,
            base: Vec::new(),
            lowers: Lowers(&[]),
            all_below: options.all_below,
            format: options.format,
            ids: options.ids,
            limits: options.limits,
            live: false,
            defaults: Defaults::default(),
            cache: DirCache::default(),
            dirs: DirTable::default(),
            whiteouts: Vec::new(),
            warnings: Warnings::default(),
            bytes: 0,
            steps: 0,
        }
    }
}

/// What to do about a parent that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it.
    Create,
    /// Make it unless there is nothing below it to hide.
    Stop,
}

/// What stands in the tree under a name.
enum Seen {
    Directory(Dir),
    Link(Vec<u8>),
    Whiteout,
    Other,
    Nothing,
}

/// A walk along a path, one component at a time.
struct Walk {
    todo: VecDeque<Vec<u8>>,
    /// Where we are, without links.
    names: Vec<Vec<u8>>,
    here: Rc<Dir>,
    links: u32,
    /// A link of a lower layer was followed: the path means something else once this layer has that name.
    borrowed: bool,
}

impl Tree<'_> {
    /// The directory of an entry, made if it is not there.
    pub(super) fn parent(&mut self, path: &[u8]) -> Step<Rc<Dir>> {
        let dir = self.parent_if(path, Missing::Create)?;
        Ok(dir.expect("a missing parent was created"))
    }

    /// The directory of an entry; `None` only for [`Missing::Stop`].
    pub(super) fn parent_if(&mut self, path: &[u8], missing: Missing) -> Step<Option<Rc<Dir>>> {
        if let Some(dir) = self.lookup(path)? {
            return Ok(Some(dir));
        }
        self.walk(path, missing)
    }

    /// The directory if it is there, as the kernel resolves the path inside the root.
    pub(super) fn lookup(&mut self, path: &[u8]) -> Step<Option<Rc<Dir>>> {
        if let Some(dir) = self.cache.get(path) {
            return Ok(Some(dir));
        }
        let full = self.full(path);
        if full.len() > ONE_CALL {
            return Ok(None);
        }
        match open_in(self.root, Path::new(OsStr::from_bytes(&full)), DIRECTORY, 0) {
            Ok(fd) => {
                let dir = Rc::new(Dir { ino: inode(&fd)?, fd });
                self.remember(path, &dir);
                Ok(Some(dir))
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR) => Ok(None),
                _ => Err(error).during("open the parent of"),
            },
        }
    }

    /// The path with the place in the root where the archive goes.
    pub(super) fn full(&self, path: &[u8]) -> Vec<u8> {
        match (self.base.is_empty(), path.is_empty()) {
            (true, _) => path.to_vec(),
            (false, true) => self.base.clone(),
            (false, false) => join(&self.base, path),
        }
    }

    fn remember(&mut self, path: &[u8], dir: &Rc<Dir>) {
        if !self.live {
            self.cache.insert(path, Rc::clone(dir));
        }
    }

    /// Finds the directory component by component, and makes what is missing.
    fn walk(&mut self, path: &[u8], missing: Missing) -> Step<Option<Rc<Dir>>> {
        let mut walk = self.start(path)?;
        while let Some(part) = walk.todo.pop_front() {
            self.count_steps(1)?;
            match part.as_slice() {
                b"" | b"." => {}
                b".." => {
                    walk.names.pop();
                    walk.here = self.open_names(&walk.names)?;
                }
                _ => match self.look(&walk.here, &part)? {
                    Seen::Directory(dir) => walk.enter(part, Rc::new(dir)),
                    Seen::Link(text) => self.follow(&mut walk, &text)?,
                    seen if !self.enter_missing(&mut walk, part, &seen, missing)? => return Ok(None),
                    _ => {}
                },
            }
        }
        if !walk.borrowed {
            self.remember(path, &walk.here);
        }
        Ok(Some(walk.here))
    }

    /// A walk from the root, or from the nearest open directory above when there is no link to consider.
    fn start(&mut self, path: &[u8]) -> Step<Walk> {
        let mut above = path;
        while !above.is_empty() && self.base.is_empty() {
            above = crate::layer::path::split(above).0;
            let Some(dir) = self.cache.get(above) else { continue };
            let Some(names) = self.dirs.path(dir.ino) else { continue };
            let names = components(names).map(<[u8]>::to_vec).collect();
            let todo = components(&path[above.len()..]).map(<[u8]>::to_vec).collect();
            return Ok(Walk { todo, names, here: dir, links: 0, borrowed: false });
        }
        let todo = components(&self.full(path)).map(<[u8]>::to_vec).collect();
        Ok(Walk { todo, names: Vec::new(), here: self.open_root()?, links: 0, borrowed: false })
    }

    fn follow(&mut self, walk: &mut Walk, text: &[u8]) -> Step<()> {
        walk.links += 1;
        if walk.links > MAX_LINKS {
            return Err(Errno::LOOP).during("open the parent of");
        }
        if text.first() == Some(&b'/') {
            walk.names.clear();
            walk.here = self.open_root()?;
        }
        for part in text.rsplit(|&b| b == b'/') {
            walk.todo.push_front(part.to_vec());
        }
        Ok(())
    }

    /// Goes on where there is no directory and no link: false when the walk ends here.
    fn enter_missing(&mut self, walk: &mut Walk, part: Vec<u8>, seen: &Seen, missing: Missing) -> Step<bool> {
        let opaque = matches!(seen, Seen::Whiteout);
        let mut meta = None;
        if matches!(seen, Seen::Nothing) {
            match self.below(walk, &part)? {
                Below::Symlink(text) => {
                    walk.borrowed = true;
                    self.follow(walk, &text)?;
                    return Ok(true);
                }
                Below::Directory(fd, stat) => meta = Some(self.copied_meta(&fd, &stat)?),
                _ if missing == Missing::Stop && (walk.links > 0 || !self.lowers.is_empty()) => {
                    return Ok(false);
                }
                _ => {}
            }
        } else if self.live {
            return Err(Errno::NOTDIR).during("open the parent of");
        } else {
            unlinkat(&walk.here.fd, part.as_slice(), AtFlags::empty()).during("replace the parent of")?;
            self.cache.clear();
        }
        let names = join(&walk.names.join(&b'/'), &part);
        let dir = self.make_directory(&walk.here, &part, names, meta, opaque)?;
        walk.enter(part, dir);
        Ok(true)
    }

    /// What the layers below have there, unless this layer hides it.
    fn below(&mut self, walk: &Walk, part: &[u8]) -> Step<Below> {
        if self.lowers.is_empty() || self.dirs.under_opaque(walk.here.ino) {
            return Ok(Below::Nothing);
        }
        let mut names: Vec<&[u8]> = walk.names.iter().map(Vec::as_slice).collect();
        names.push(part);
        self.count_steps((names.len() * self.lowers.0.len()) as u64)?;
        self.lowers.lookup(&names)
    }

    /// The metadata of a lower directory, for the upper one that will stand before it.
    pub(super) fn copied_meta(&self, fd: &OwnedFd, stat: &Stat) -> Step<Meta> {
        let names = match list_xattrs(fd) {
            Err(Errno::OPNOTSUPP) => Vec::new(),
            other => other.during("list the lower attributes of")?,
        };
        let mut xattrs = Vec::new();
        for name in names.split(|&b| b == 0).filter(|name| xattr::is_copied_up(name)) {
            let mut value = vec![0; self.limits.xattr_value];
            let len =
                rustix::fs::fgetxattr(fd, name, value.as_mut_slice()).during("read a lower attribute of")?;
            value.truncate(len);
            xattrs.push((name.to_vec(), value));
        }
        let owner = (self.ids != IdPolicy::Ignore).then_some((stat.st_uid, stat.st_gid));
        let mtime = Mtime { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
        Ok(Meta { mode: stat.st_mode & 0o7777, owner, mtime, xattrs })
    }

    /// Makes a directory of which only the name is known yet. It stays ours alone (0700) until the end.
    pub(super) fn make_directory(
        &mut self,
        parent: &Dir,
        name: &[u8],
        path: Vec<u8>,
        meta: Option<Meta>,
        opaque: bool,
    ) -> Step<Rc<Dir>> {
        mkdirat(&parent.fd, name, Mode::RWXU).during("create the directory")?;
        let dir = Rc::new(open_child(&parent.fd, name).during("open the directory")?);
        let opaque = opaque && self.format == TreeFormat::Overlay;
        let state = DirState { parent: parent.ino, path, meta, opaque };
        self.dirs.insert(dir.ino, state, self.limits.deferred)?;
        Ok(dir)
    }

    fn look(&self, dir: &Dir, name: &[u8]) -> Step<Seen> {
        match open_child(&dir.fd, name) {
            Ok(dir) => return Ok(Seen::Directory(dir)),
            Err(Errno::NOENT) => return Ok(Seen::Nothing),
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno).during("open the parent of"),
        }
        let stat = statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW).during("look at the parent of")?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let text = readlinkat(&dir.fd, name, Vec::new()).during("read the link in the path of")?;
                Ok(Seen::Link(text.into_bytes()))
            }
            _ if self.format == TreeFormat::Overlay && is_whiteout(&stat) => Ok(Seen::Whiteout),
            _ => Ok(Seen::Other),
        }
    }

    /// Opens a path that has no links, of any length.
    pub(super) fn open_names(&mut self, names: &[Vec<u8>]) -> Step<Rc<Dir>> {
        self.count_steps(names.len() as u64)?;
        let fd = open_physical(self.root, &names.join(&b'/'), DIRECTORY | OFlags::NOFOLLOW)
            .during("open the parent of")?;
        Ok(Rc::new(Dir { ino: inode(&fd)?, fd }))
    }

    fn open_root(&self) -> Step<Rc<Dir>> {
        let fd = openat(self.root, ".", DIRECTORY, Mode::empty()).during("open the root above")?;
        Ok(Rc::new(Dir { ino: inode(&fd)?, fd }))
    }

    fn count_steps(&mut self, steps: u64) -> Step<()> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return Err(Fault::Limit { what: "steps along paths", limit: MAX_STEPS });
        }
        Ok(())
    }

    /// Does `make`; when something stands in the way, removes it and tries again.
    pub(super) fn place<T>(
        &mut self,
        parent: &Dir,
        name: &[u8],
        action: &'static str,
        mut make: impl FnMut() -> Result<T, Errno>,
    ) -> Step<T> {
        // In a live tree someone may put something there again and again.
        for _ in 0..16 {
            match make() {
                Err(Errno::EXIST) => self.clear_way(parent, name)?,
                other => return other.during(action),
            }
        }
        Err(Errno::EXIST).during(action)
    }

    /// Removes what stands under a name, which is never followed.
    pub(super) fn clear_way(&mut self, parent: &Dir, name: &[u8]) -> Step<()> {
        self.cache.clear();
        match unlinkat(&parent.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) if self.live => Err(Fault::InTheWay),
            Err(Errno::ISDIR) => {
                remove_tree(parent.fd.as_fd(), OsStr::from_bytes(name)).during("replace the directory")
            }
            Err(errno) => Err(errno).during("replace"),
        }
    }
}

impl Walk {
    fn enter(&mut self, name: Vec<u8>, dir: Rc<Dir>) {
        self.names.push(name);
        self.here = dir;
    }
}

/// Opens a directory by a path of any length that has no links, in as few calls as `PATH_MAX` allows.
pub(super) fn open_physical(root: BorrowedFd<'_>, mut path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut here = openat2(root, ".", flags, Mode::empty(), resolve)?;
    while !path.is_empty() {
        let end = match path.get(..ONE_CALL) {
            Some(piece) => piece.iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?,
            None => path.len(),
        };
        here = openat2(&here, &path[..end], flags, Mode::empty(), resolve)?;
        path = path.get(end + 1..).unwrap_or_default();
    }
    Ok(here)
}

/// Opens a directory by its name alone; a link is not followed.
pub(super) fn open_child(dir: &OwnedFd, name: &[u8]) -> Result<Dir, Errno> {
    let fd = openat(dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    let ino = fstat(&fd)?.st_ino;
    Ok(Dir { fd, ino })
}

fn inode(fd: &OwnedFd) -> Step<u64> {
    Ok(fstat(fd).during("look at the parent of")?.st_ino)
}

/// Whether this is how the overlay writes "not here".
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
