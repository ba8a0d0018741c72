//! [`unpack`] and [`extract`]: archives become trees.
#![forbid(unsafe_code)]

mod attrs;
mod dirs;
mod fault;
mod finish;
mod lower;
mod nodes;
mod overlay;
mod tree;

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstat, mkdirat, openat, statat, unlinkat};

pub(crate) use attrs::list_xattrs;

use self::attrs::Defaults;
use self::dirs::DirState;
use self::fault::{During, Fault, Step};
use self::lower::Lowers;
use self::tree::Tree;
use super::entry::{Op, Reject, Rules, plan};
use super::path::{PathError, TreePath, escape};
use super::report::UnpackReport;
use super::tar::{Entry, ParseError, TarReader};
use super::{Dialect, IdPolicy, Limits, TreeFormat};

/// How an archive is to be unpacked.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions {
    /// How the archive writes whiteouts.
    pub dialect: Dialect,
    /// What kind of tree to make.
    pub format: TreeFormat,
    /// What becomes of owners.
    pub ids: IdPolicy,
    /// What the archive may cost.
    pub limits: Limits,
    /// Take an archive that just stops after a whole entry as complete, as Go does. Only where a digest of the whole
    /// stream is verified: otherwise it cannot be told from a truncated one.
    pub allow_missing_end: bool,
    /// The layers below are all that there are: a whiteout of what they do not have is left out. An overlay lists it as
    /// a file that cannot be opened, where it has no other layer to merge the directory with.
    pub all_below: bool,
}

impl UnpackOptions {
    /// Options with default limits, strict about the end of the archive.
    #[must_use]
    pub fn new(dialect: Dialect, format: TreeFormat, ids: IdPolicy) -> Self {
        Self { dialect, format, ids, limits: Limits::default(), allow_missing_end: false, all_below: false }
    }
}

/// Why an archive was not unpacked. The destination is incomplete then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The bytes are no archive that we read.
    #[error("failed to read entry {entry} of the archive")]
    Parse {
        /// Number of the entry, from 1.
        entry: u64,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// An entry asks for what no layer may.
    #[error("refused {path} (entry {entry})")]
    Rejected {
        /// Number of the entry, from 1.
        entry: u64,
        /// Its name, escaped.
        path: String,
        /// Why.
        #[source]
        source: Reject,
    },
    /// A limit was reached.
    #[error("refused {path} (entry {entry}): more than {limit} {what}")]
    Limit {
        /// Number of the entry, from 1.
        entry: u64,
        /// Its name, escaped.
        path: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The file system refused.
    #[error("failed to {action} {path} (entry {entry})")]
    Io {
        /// Number of the entry, from 1.
        entry: u64,
        /// Its name, escaped.
        path: String,
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system refused an extended attribute: too large, or no space for it.
    #[error("failed to set the attribute {name} of {path} (entry {entry})")]
    Xattr {
        /// Number of the entry, from 1.
        entry: u64,
        /// Its name, escaped.
        path: String,
        /// The attribute, escaped.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A hard link to what neither the archive so far nor the layers below have.
    #[error("failed to link {path} (entry {entry}): {target} does not exist")]
    LinkMissing {
        /// Number of the entry, from 1.
        entry: u64,
        /// Its name, escaped.
        path: String,
        /// The target, escaped.
        target: String,
    },
    /// A hard link to a directory.
    #[error("failed to link {path} (entry {entry}): {target} is a directory")]
    LinkToDirectory {
        /// Number of the entry, from 1.
        entry: u64,
        /// Its name, escaped.
        path: String,
        /// The target, escaped.
        target: String,
    },
    /// A directory stands where `extract` is to put something else.
    #[error("failed to replace {path} (entry {entry}): it is a directory")]
    InTheWay {
        /// Number of the entry, from 1.
        entry: u64,
        /// Its name, escaped.
        path: String,
    },
    /// The destination itself cannot be used.
    #[error("failed to {action} the destination")]
    Destination {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The place in the destination is no path.
    #[error("the place in the destination is refused")]
    Place(#[source] PathError),
}

impl UnpackError {
    /// Whether the archive is at fault, and not the machine: trying again will not help.
    #[must_use]
    pub fn is_bad_archive(&self) -> bool {
        match self {
            Self::Parse { source: ParseError::Io(_), .. } => false,
            Self::Parse { .. }
            | Self::Rejected { .. }
            | Self::Limit { .. }
            | Self::LinkMissing { .. }
            | Self::LinkToDirectory { .. } => true,
            _ => false,
        }
    }

    /// What the operating system said, if it was it.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. }
            | Self::Xattr { source, .. }
            | Self::Destination { source, .. }
            | Self::Parse { source: ParseError::Io(source), .. } => Some(source),
            _ => None,
        }
    }

    fn new(entry: u64, path: &[u8], fault: Fault) -> Self {
        let path = escape(path);
        match fault {
            Fault::Io { action, source } => Self::Io { entry, path, action, source },
            Fault::Xattr { name, source } => Self::Xattr { entry, path, name: escape(&name), source },
            Fault::Parse(source) => Self::Parse { entry, source },
            Fault::Rejected(source) => Self::Rejected { entry, path, source },
            Fault::Limit { what, limit } => Self::Limit { entry, path, what, limit },
            Fault::InTheWay => Self::InTheWay { entry, path },
            Fault::LinkMissing { target } => Self::LinkMissing { entry, path, target },
            Fault::LinkToDirectory { target } => Self::LinkToDirectory { entry, path, target },
        }
    }
}

/// How much is read from a plain source at once.
const BUFFER: usize = 1 << 20;

/// Unpacks `tar` into `dest`, an empty directory that nobody else can reach (mode 0700).
///
/// `lowers` are the layers below, the topmost first: all of them or none. They are only read: for the metadata of
/// directories that the archive does not mention, for symbolic links on the way to an entry, for hard links to a file
/// that only they have.
///
/// # Errors
/// [`UnpackError`]; the content of `dest` is to be thrown away then.
pub fn unpack(
    tar: impl Read,
    dest: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    options: &UnpackOptions,
) -> Result<UnpackReport, UnpackError> {
    let mut tar =
        TarReader::new(BufReader::with_capacity(BUFFER, tar), options.limits, options.allow_missing_end);
    unpack_entries(&mut tar, dest, lowers, options)
}

/// [`unpack`] from a reader that the caller keeps.
pub(super) fn unpack_entries<R: BufRead>(
    tar: &mut TarReader<R>,
    dest: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    options: &UnpackOptions,
) -> Result<UnpackReport, UnpackError> {
    let destination = |fault| match fault {
        Fault::Io { action, source } => UnpackError::Destination { action, source },
        other => UnpackError::new(0, b"", other),
    };
    // Whatever flags the caller opened it with.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dest = &openat(dest, ".", flags, Mode::empty()).during("open").map_err(destination)?;
    let dest = dest.as_fd();
    let mut tree = Tree {
        lowers: Lowers(lowers),
        defaults: measure(dest).map_err(destination)?,
        ..Tree::new(dest, options)
    };
    let ino = fstat(dest).during("look at").map_err(destination)?.st_ino;
    let root = DirState { parent: ino, path: Vec::new(), meta: None, opaque: false };
    tree.dirs.insert(ino, root, options.limits.deferred).map_err(destination)?;
    run(tar, &mut tree, options)
}

/// Extracts a plain archive at `at` inside `root`, a tree that others use at the same time and may be hostile to us.
///
/// Every parent is resolved inside `root` by the kernel for every entry. Directories are merged, files and links are
/// replaced, a directory is never replaced by something else, nothing is followed at the last component. `at` itself
/// keeps its metadata. `options.dialect` and `options.format` are taken as `Plain`.
///
/// # Errors
/// [`UnpackError`]; entries before the failed one are there.
pub fn extract(
    tar: impl Read,
    root: BorrowedFd<'_>,
    at: &Path,
    options: &UnpackOptions,
) -> Result<UnpackReport, UnpackError> {
    let at = at.as_os_str().as_bytes();
    let base = if at.is_empty() { Ok(TreePath::default()) } else { TreePath::clean(at, &options.limits) };
    let plain = UnpackOptions { dialect: Dialect::Plain, format: TreeFormat::Plain, ..*options };
    let options = UnpackOptions { all_below: false, ..plain };
    let mut tree = Tree {
        base: base.map_err(UnpackError::Place)?.as_bytes().to_vec(),
        live: true,
        ..Tree::new(root, &options)
    };
    let input = BufReader::with_capacity(BUFFER, tar);
    run(&mut TarReader::new(input, options.limits, options.allow_missing_end), &mut tree, &options)
}

fn run<R: BufRead>(
    tar: &mut TarReader<R>,
    tree: &mut Tree<'_>,
    options: &UnpackOptions,
) -> Result<UnpackReport, UnpackError> {
    let rules =
        Rules { dialect: options.dialect, format: options.format, ids: options.ids, limits: options.limits };
    loop {
        let number = tar.entries() + 1;
        let entry = match tar.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(source) => return Err(UnpackError::Parse { entry: number, source }),
        };
        // A name is escaped only when something is wrong with it.
        let path = entry.path.clone();
        if let Err(fault) = step(tar, tree, entry, &rules) {
            if tree.live {
                // What was put into a tree in use is not left closed to its users; the first failure is the one to report.
                let _ = tree.finish();
            }
            return Err(UnpackError::new(number, &path, fault));
        }
    }
    tar.drain().map_err(|source| UnpackError::Parse { entry: tar.entries(), source })?;
    tree.finish().map_err(|(path, fault)| UnpackError::new(tar.entries(), &path, fault))?;
    Ok(UnpackReport {
        entries: tar.entries(),
        bytes: tree.bytes,
        warnings: std::mem::take(&mut tree.warnings),
    })
}

/// Writes everything on the file system of `dest` to disk.
pub(super) fn sync(dest: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dest = openat(dest, ".", flags, Mode::empty())?;
    Ok(rustix::fs::syncfs(dest)?)
}

/// Judges one entry and does what it asks.
fn step<R: BufRead>(tar: &mut TarReader<R>, tree: &mut Tree<'_>, entry: Entry, rules: &Rules) -> Step<()> {
    if tar.entries() > rules.limits.entries {
        return Err(Fault::Limit { what: "entries", limit: rules.limits.entries });
    }
    let stored = entry.stored;
    let planned = plan(entry, rules).map_err(Fault::Rejected)?;
    for warning in planned.warnings {
        tree.warnings.push(warning);
    }
    match planned.op {
        Op::Directory { path, meta, opaque } => tree.directory(&path, meta, opaque),
        Op::File { path, meta, size, sparse } => {
            tree.count_bytes(stored)?;
            tree.file(&path, &meta, size, sparse.as_deref(), tar)
        }
        Op::Symlink { path, target, meta } => tree.symlink(&path, &target, &meta),
        Op::Hardlink { path, target } => tree.hardlink(&path, &target),
        Op::Fifo { path, meta } => tree.fifo(&path, &meta),
        Op::Whiteout { path } => tree.whiteout(&path),
        Op::Opaque { directory } => tree.opaque(&directory),
        Op::Nothing => Ok(()),
    }
}

/// Makes the destination ours alone and measures what a new file in it gets.
fn measure(dest: BorrowedFd<'_>) -> Step<Defaults> {
    const PROBE: &str = ".probe";
    // A set-group-id destination would hand its group down, a default list its entries.
    attrs::clear_xattrs(dest)?;
    fchmod(dest, Mode::RWXU).during("set the mode of")?;
    mkdirat(dest, PROBE, Mode::RWXU | Mode::RWXG | Mode::RWXO).during("write to")?;
    let stat = statat(dest, PROBE, AtFlags::SYMLINK_NOFOLLOW).during("look at")?;
    unlinkat(dest, PROBE, AtFlags::REMOVEDIR).during("write to")?;
    Ok(Defaults { owner: Some((stat.st_uid, stat.st_gid)), umask: !stat.st_mode & 0o777 })
}
