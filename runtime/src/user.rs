//! Who a command runs as: the `User` field of an image configuration, resolved in the vessel's own `/etc/passwd` and
//! `/etc/group`.
//!
//! Both files belong to the guest: they are read under the root, only if regular, and within [`MAX_FILE`],
//! [`MAX_LINE`] and [`MAX_LINES`]. Digits are always an id, never a name, so that no line of the guest can turn a number
//! that is out of range into root. Sources: OCI image-spec (config.md, `User`); passwd(5); group(5).
#![forbid(unsafe_code)]

mod database;

use std::io;
use std::path::Path;

use rustix::fs::OFlags;

use crate::root::Root;
use database::{Group, Passwd, Table};

/// Largest `/etc/passwd` or `/etc/group`, bytes.
pub const MAX_FILE: u64 = 1 << 20;
/// Longest line of them, bytes.
pub const MAX_LINE: usize = 64 << 10;
/// Most lines in one of them.
pub const MAX_LINES: usize = 100_000;

/// Most supplementary groups, `NGROUPS_MAX` of limits.h.
const MAX_GROUPS: usize = 65_536;

/// Longest specification, bytes: LOGIN_NAME_MAX twice and the colon.
const MAX_SPEC: usize = 513;

/// Who runs a command, in the ids of the vessel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, sorted, without `gid`.
    pub groups: Vec<u32>,
    /// Home directory: absolute, `/` if not known.
    pub home: Vec<u8>,
    /// Login name, if `/etc/passwd` has one.
    pub name: Option<String>,
}

/// Why there is no such [`Identity`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// Not of the form `user[:group]`, each a name or a decimal number.
    #[error(
        "failed to understand the user {spec:?}: it must be user or user:group, each a name or a decimal number"
    )]
    Malformed {
        /// What was asked for.
        spec: String,
    },
    /// A number that is no id of the vessel.
    #[error("failed to use the id {id}: this vessel has the ids below {id_count}")]
    OutOfRange {
        /// The number, as written.
        id: String,
        /// How many ids are mapped.
        id_count: u32,
    },
    /// No such name.
    #[error("failed to find the {kind} {name:?} in {}", kind.path())]
    NotFound {
        /// User or group.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// A file is not regular, too large, has too long or too many lines.
    #[error("failed to read {}: {problem}", kind.path())]
    Unusable {
        /// Which file.
        kind: Kind,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A system call failed.
    #[error("failed to read {}", kind.path())]
    Read {
        /// Which file.
        kind: Kind,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The user is in more groups than the kernel can have.
    #[error("failed to resolve the user {name:?}: it is in more than {limit} groups")]
    TooManyGroups {
        /// The user.
        name: String,
        /// Groups allowed.
        limit: usize,
    },
}

/// One of the two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Users.
    User,
    /// Groups.
    Group,
}

impl Kind {
    /// The file of this database, inside.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::User => "/etc/passwd",
            Self::Group => "/etc/group",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::User => "user",
            Self::Group => "group",
        })
    }
}

/// A user or a group as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Id(u32),
    Name(String),
}

/// Resolves `spec`: empty (root), `name`, `uid`, `name:group`, `uid:group`, the group a name or a gid.
///
/// Without a group: the user's own of `/etc/passwd` (0 if the uid is not there) and, if the user has a name, every group
/// of `/etc/group` that lists it. With a group: that one alone. `id_count` is how many ids the vessel has (0 to
/// `id_count - 1`); a supplementary group beyond them is left out, as no file of the vessel can belong to it.
///
/// The empty specification always is root, even if the guest broke its databases: a vessel can be repaired from inside.
///
/// # Errors
/// A malformed specification, ids out of range, unknown names, unusable databases.
pub fn resolve(root: &Root, spec: &str, id_count: u32) -> Result<Identity, UserError> {
    if spec.is_empty() {
        return Ok(resolve_user(root, &Wanted::Id(0), None, id_count).unwrap_or_else(|_| bare_root()));
    }
    let (user, group) = parse_spec(spec, id_count)?;
    resolve_user(root, &user, group.as_ref(), id_count)
}

/// What both databases were when they were looked at: another stamp, another answer of [`resolve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp([Option<FileStamp>; 2]);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    changed: (i64, u64),
    size: i64,
}

/// `None` where that cannot be told.
pub(crate) fn stamp(root: &Root) -> Option<Stamp> {
    let of = |kind: Kind| match root.open(Path::new(kind.path()), OFlags::PATH, 0) {
        Ok(found) => {
            let stat = rustix::fs::fstat(found).ok()?;
            // Whatever changes it changes this time, too.
            let changed = (stat.st_ctime, stat.st_ctime_nsec);
            Some(Some(FileStamp { device: stat.st_dev, inode: stat.st_ino, changed, size: stat.st_size }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(None),
        Err(_) => None,
    };
    Some(Stamp([of(Kind::User)?, of(Kind::Group)?]))
}

fn bare_root() -> Identity {
    Identity { uid: 0, gid: 0, groups: Vec::new(), home: b"/root".to_vec(), name: None }
}

/// Splits and checks a specification that is not empty.
pub(crate) fn parse_spec(spec: &str, id_count: u32) -> Result<(Wanted, Option<Wanted>), UserError> {
    let malformed = || UserError::Malformed { spec: spec.chars().take(MAX_SPEC).collect() };
    if spec.len() > MAX_SPEC {
        return Err(malformed());
    }
    let wanted = |part: &str| match part {
        _ if part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty() => {
            let id = part.parse().ok().filter(|&id: &u32| id != u32::MAX && id < id_count);
            id.map(Wanted::Id).ok_or_else(|| UserError::OutOfRange { id: part.to_owned(), id_count })
        }
        _ if is_name(part) => Ok(Wanted::Name(part.to_owned())),
        _ => Err(malformed()),
    };
    match spec.split_once(':') {
        None => Ok((wanted(spec)?, None)),
        Some((user, group)) => Ok((wanted(user)?, Some(wanted(group)?))),
    }
}

/// Whether this can be a login name: nothing that looks like a number of another notation (`-1`, `+0`), an option, a
/// path or a second field.
fn is_name(part: &str) -> bool {
    let fits =
        |character: char| !character.is_control() && !character.is_whitespace() && !":/,".contains(character);
    !part.is_empty() && !part.starts_with(['-', '+']) && part.chars().all(fits)
}

fn resolve_user(
    root: &Root,
    user: &Wanted,
    group: Option<&Wanted>,
    id_count: u32,
) -> Result<Identity, UserError> {
    let entry =
        Table::read(root, Kind::User)?.find_map(|line| Passwd::parse(line).filter(|it| it.is(user)))?;
    let (uid, entry) = match (user, entry) {
        (Wanted::Id(uid), entry) => (*uid, entry),
        (Wanted::Name(_), Some(entry)) => (entry.uid, Some(entry)),
        (Wanted::Name(name), None) => {
            return Err(UserError::NotFound { kind: Kind::User, name: name.clone() });
        }
    };
    let name = entry.as_ref().map(|entry| entry.name.clone());
    let (gid, groups) = match group {
        Some(group) => (find_group(root, group)?, Vec::new()),
        None => {
            let gid = entry.as_ref().map_or(0, |entry| entry.gid);
            (gid, name.as_deref().map_or(Ok(Vec::new()), |name| groups_of(root, name, gid, id_count))?)
        }
    };
    for id in [uid, gid] {
        if id == u32::MAX || id >= id_count {
            return Err(UserError::OutOfRange { id: id.to_string(), id_count });
        }
    }
    let home = entry.map(|entry| entry.home).filter(|home| home.starts_with(b"/") && !home.contains(&0));
    Ok(Identity { uid, gid, groups, home: home.unwrap_or_else(|| b"/".to_vec()), name })
}

fn find_group(root: &Root, group: &Wanted) -> Result<u32, UserError> {
    match group {
        Wanted::Id(gid) => Ok(*gid),
        Wanted::Name(name) => {
            let found = Table::read(root, Kind::Group)?.find_map(|line| {
                Group::parse(line).filter(|group| group.name == name.as_bytes()).map(|group| group.gid)
            })?;
            found.ok_or_else(|| UserError::NotFound { kind: Kind::Group, name: name.clone() })
        }
    }
}

/// The groups below `id_count` that list `name`, sorted, without `gid`.
fn groups_of(root: &Root, name: &str, gid: u32, id_count: u32) -> Result<Vec<u32>, UserError> {
    let mut groups = Vec::new();
    Table::read(root, Kind::Group)?.find_map(|line| {
        groups.extend(Group::parse(line).filter(|group| group.has(name)).map(|group| group.gid));
        None::<()>
    })?;
    groups.sort_unstable();
    groups.dedup();
    groups.retain(|&group| group != gid && group < id_count);
    if groups.len() > MAX_GROUPS {
        return Err(UserError::TooManyGroups { name: name.to_owned(), limit: MAX_GROUPS });
    }
    Ok(groups)
}

#[cfg(test)]
mod tests;
