//! The plan: what an archive's entry asks for, judged before anything is touched.
//!
//! `plan` is pure: an entry in, one operation or a [`Reject`] out. The executor in `unpack` does only what an operation
//! says. Source of the whiteout rules: OCI image-spec, layer.md, "Whiteouts".
#![forbid(unsafe_code)]

use super::limits::Limits;
use super::path::{PathError, TreePath};
use super::report::{Warning, WarningKind};
use super::tar::{Entry, Kind, Mtime, Segment};
use super::xattr::{self, ToDisk};
use super::{Dialect, IdPolicy, TreeFormat};

/// Why an entry, and with it the whole archive, is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Its name is no path inside a tree.
    #[error("the name is refused")]
    Name(#[source] PathError),
    /// Its hard link target is no path inside a tree.
    #[error("the hard link's target is refused")]
    LinkTarget(#[source] PathError),
    /// A symbolic link's text is empty, has a NUL or is longer than the kernel takes.
    #[error("a symbolic link to {len} bytes that are no path")]
    SymlinkTarget {
        /// Its length.
        len: usize,
    },
    /// The root of the tree as something else than a directory.
    #[error("the root of the tree can only be a directory")]
    RootNotDirectory,
    /// A hard link to itself, or to or from the root.
    #[error("a hard link to itself")]
    HardlinkToSelf,
    /// A whiteout of nothing, of `.` or of `..`.
    #[error("a whiteout of no name")]
    WhiteoutName,
    /// A whiteout that is not an empty regular file without attributes.
    #[error("a whiteout that is not an empty regular file")]
    WhiteoutShape,
    /// A directory component that begins with `.wh.`.
    #[error("a path through a whiteout")]
    WhiteoutComponent,
    /// A character device 0:0, which would be a whiteout to the overlay but is none to this dialect.
    #[error("a character device 0:0")]
    NativeWhiteout,
    /// The opaque mark on something else than a directory below the root.
    #[error("the opaque mark is not on a directory")]
    Opaque,
    /// Device numbers beyond 32 bits.
    #[error("device numbers {major}:{minor}")]
    DeviceNumber {
        /// Major number.
        major: u64,
        /// Minor number.
        minor: u64,
    },
    /// Payload behind an entry that has none: readers disagree on where the next header is.
    #[error("{size} bytes of payload on an entry that cannot have any")]
    Payload {
        /// Its size.
        size: u64,
    },
    /// An owner outside the ids that the vessel has.
    #[error("{which} {id} is not below {count}, the number of mapped ids")]
    IdOutOfRange {
        /// `uid` or `gid`.
        which: &'static str,
        /// The id; `-1` stands for everything that no id can be.
        id: i128,
        /// Ids from 0 that exist.
        count: u32,
    },
    /// An extended attribute without a usable name.
    #[error("an extended attribute with a bad name of {len} bytes")]
    XattrName {
        /// Its length.
        len: usize,
    },
    /// An extended attribute above [`Limits::xattr_value`].
    #[error("the extended attribute {name} has {len} bytes, more than {limit}")]
    XattrValue {
        /// Its name, escaped.
        name: String,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
}

/// Name and value of an extended attribute.
pub(crate) type Xattr = (Vec<u8>, Vec<u8>);

/// Mode, owner, time and attributes, as they are to be on disk.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    /// `None`: leave it to whoever unpacks.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mtime: Mtime,
    pub(crate) xattrs: Vec<Xattr>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Directory { path: TreePath, meta: Meta, opaque: bool },
    File { path: TreePath, meta: Meta, size: u64, sparse: Option<Vec<Segment>> },
    Symlink { path: TreePath, target: Vec<u8>, meta: Meta },
    Hardlink { path: TreePath, target: TreePath },
    Fifo { path: TreePath, meta: Meta },
    Whiteout { path: TreePath },
    Opaque { directory: TreePath },
    Nothing,
}

/// An operation and what it leaves out.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) op: Op,
    pub(crate) warnings: Vec<Warning>,
}

/// By what rules entries are judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) dialect: Dialect,
    pub(crate) format: TreeFormat,
    pub(crate) ids: IdPolicy,
    pub(crate) limits: Limits,
}

/// Judges one entry.
pub(crate) fn plan(entry: Entry, rules: &Rules) -> Result<Planned, Reject> {
    let path = TreePath::clean(&entry.path, &rules.limits).map_err(Reject::Name)?;
    let mut warnings = Vec::new();
    let whiteout = match rules.dialect {
        Dialect::Oci => oci_whiteout(&path, &entry, rules)?,
        Dialect::Snapshot | Dialect::Plain => None,
    };
    if entry.opaque && (rules.dialect != Dialect::Snapshot || entry.kind != Kind::Directory || path.is_root())
    {
        return Err(Reject::Opaque);
    }
    if path.is_root() && entry.kind != Kind::Directory && whiteout.is_none() {
        return Err(Reject::RootNotDirectory);
    }
    let op = match whiteout {
        Some(op) => op,
        None => plain_op(path, entry, rules, &mut warnings)?,
    };
    Ok(Planned { op, warnings })
}

/// What the name says in an OCI layer; `None` when it is an ordinary one.
fn oci_whiteout(path: &TreePath, entry: &Entry, rules: &Rules) -> Result<Option<Op>, Reject> {
    const PREFIX: &[u8] = b".wh.";
    let mut components = path.components();
    // aufs kept its bookkeeping in such names at the root; old images still have them.
    if components.next().is_some_and(|c| c.starts_with(b".wh..wh.") && c != b".wh..wh..opq") {
        return Ok(Some(Op::Nothing));
    }
    if super::path::components(path.parent()).any(|part| part.starts_with(PREFIX)) {
        return Err(Reject::WhiteoutComponent);
    }
    let Some(hidden) = path.name().strip_prefix(PREFIX) else { return Ok(None) };
    if hidden == b".wh..opq" {
        check_shape(entry, rules)?;
        return Ok(Some(Op::Opaque { directory: path.to_parent() }));
    }
    if hidden.starts_with(b".wh.") {
        return Ok(Some(Op::Nothing));
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(Reject::WhiteoutName);
    }
    check_shape(entry, rules)?;
    Ok(Some(Op::Whiteout { path: path.with_name(hidden) }))
}

/// A whiteout is an empty regular file; attributes that we would keep make it something else.
fn check_shape(entry: &Entry, rules: &Rules) -> Result<(), Reject> {
    let kept = |name: &[u8]| xattr::to_disk(name, rules.dialect, rules.format) != ToDisk::Drop;
    let plain = entry.kind == Kind::File && entry.size == 0 && entry.stored == 0;
    if plain && !entry.xattrs.iter().any(|(name, _)| kept(name)) {
        Ok(())
    } else {
        Err(Reject::WhiteoutShape)
    }
}

fn plain_op(path: TreePath, entry: Entry, rules: &Rules, warnings: &mut Vec<Warning>) -> Result<Op, Reject> {
    match entry.kind {
        Kind::File => {
            let meta = meta(&path, &entry, rules, warnings)?;
            Ok(Op::File { path, meta, size: entry.size, sparse: entry.sparse })
        }
        Kind::Directory => {
            no_payload(&entry)?;
            let meta = meta(&path, &entry, rules, warnings)?;
            Ok(Op::Directory { path, meta, opaque: entry.opaque })
        }
        Kind::Symlink => {
            no_payload(&entry)?;
            let len = entry.link.len();
            // symlink(2): the text with its NUL fits in PATH_MAX.
            if len == 0 || len > 4095 || entry.link.contains(&0) {
                return Err(Reject::SymlinkTarget { len });
            }
            let meta = meta(&path, &entry, rules, warnings)?;
            Ok(Op::Symlink { path, target: entry.link, meta })
        }
        // A hard link may have payload (pax -o linkdata); it is the target's, and skipped.
        Kind::Hardlink => {
            let target = TreePath::clean(&entry.link, &rules.limits).map_err(Reject::LinkTarget)?;
            if target == path || target.is_root() {
                return Err(Reject::HardlinkToSelf);
            }
            Ok(Op::Hardlink { path, target })
        }
        Kind::Fifo => {
            no_payload(&entry)?;
            let meta = meta(&path, &entry, rules, warnings)?;
            Ok(Op::Fifo { path, meta })
        }
        Kind::CharDevice | Kind::BlockDevice => device(path, &entry, rules, warnings),
    }
}

fn device(path: TreePath, entry: &Entry, rules: &Rules, warnings: &mut Vec<Warning>) -> Result<Op, Reject> {
    no_payload(entry)?;
    let (major, minor) = entry.device.unwrap_or((0, 0));
    if major > u64::from(u32::MAX) || minor > u64::from(u32::MAX) {
        return Err(Reject::DeviceNumber { major, minor });
    }
    if entry.kind == Kind::CharDevice && (major, minor) == (0, 0) {
        return match rules.dialect {
            Dialect::Snapshot => Ok(Op::Whiteout { path }),
            Dialect::Oci | Dialect::Plain => Err(Reject::NativeWhiteout),
        };
    }
    warnings.push(Warning::new(WarningKind::DeviceSkipped, path.as_bytes(), b""));
    Ok(Op::Nothing)
}

fn no_payload(entry: &Entry) -> Result<(), Reject> {
    if entry.stored == 0 { Ok(()) } else { Err(Reject::Payload { size: entry.stored }) }
}

fn meta(path: &TreePath, entry: &Entry, rules: &Rules, warnings: &mut Vec<Warning>) -> Result<Meta, Reject> {
    let owner = match rules.ids {
        IdPolicy::Ignore => None,
        IdPolicy::Keep { count } => Some((id("uid", entry.uid, count)?, id("gid", entry.gid, count)?)),
        IdPolicy::Squash => {
            if (entry.uid, entry.gid) != (Some(0), Some(0)) {
                warnings.push(Warning::new(WarningKind::OwnerSquashed, path.as_bytes(), b""));
            }
            Some((0, 0))
        }
    };
    let mut meta = Meta { mode: entry.mode & 0o7777, owner, mtime: entry.mtime, xattrs: Vec::new() };
    for (name, value) in &entry.xattrs {
        if let Some(kept) = xattr_on_disk(name, value, entry.kind, rules)? {
            meta.xattrs.push(kept);
        } else {
            warnings.push(Warning::new(WarningKind::XattrDropped, path.as_bytes(), name));
        }
    }
    Ok(meta)
}

fn id(which: &'static str, id: Option<u64>, count: u32) -> Result<u32, Reject> {
    let valid = id.and_then(|id| u32::try_from(id).ok()).filter(|&id| id < count);
    valid.ok_or(Reject::IdOutOfRange { which, id: id.map_or(-1, i128::from), count })
}

/// The attribute as it is to be set; `None` when it is left out.
fn xattr_on_disk(name: &[u8], value: &[u8], kind: Kind, rules: &Rules) -> Result<Option<Xattr>, Reject> {
    // xattr(7): XATTR_NAME_MAX is 255.
    if name.is_empty() || name.len() > 255 || name.contains(&0) {
        return Err(Reject::XattrName { len: name.len() });
    }
    if value.len() > rules.limits.xattr_value {
        let (name, limit) = (super::path::escape(name), rules.limits.xattr_value);
        return Err(Reject::XattrValue { name, len: value.len(), limit });
    }
    // The kernel has no user attributes, capabilities or lists on links and fifos.
    if !matches!(kind, Kind::File | Kind::Directory) {
        return Ok(None);
    }
    let ToDisk::Set(disk) = xattr::to_disk(name, rules.dialect, rules.format) else { return Ok(None) };
    if disk.len() > 255 {
        return Err(Reject::XattrName { len: disk.len() });
    }
    let value =
        if name == xattr::CAPABILITY { xattr::portable_capability(value) } else { Some(value.to_vec()) };
    Ok(value.map(|value| (disk, value)))
}
