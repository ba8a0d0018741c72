//! [`Root`]: the only door into an untrusted tree.
//!
//! Every path of a vessel is resolved by the kernel under a directory descriptor with
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`: absolute symlinks and `..` mean what they mean to a process
//! whose root that directory is, and `/proc/self/root`-like links are never followed.
//! Sources: openat2(2); Documentation/filesystems/path-lookup.rst.
#![forbid(unsafe_code)]

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// How often a lookup that lost a race with a rename (`EAGAIN`) is tried again before it is `EBUSY`.
const RETRIES: u32 = 64;

/// A directory that stands for `/` to every path resolved through it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// A parent directory, opened under a [`Root`], and the last component of the path that was asked for.
#[derive(Debug)]
pub struct Parent {
    /// The parent directory (`O_PATH`).
    pub dir: OwnedFd,
    /// The last component: never empty, `.`, `..` or with a slash.
    pub name: PathBuf,
}

impl Root {
    /// Takes `fd`, a directory (may be `O_PATH`), as the root.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens the directory at a trusted host path as a root.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open_path(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::new(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens `path` under the root. The last component is followed unless `flags` has `NOFOLLOW`.
    ///
    /// # Errors
    /// Those of openat2(2); `EBUSY` when the tree kept changing under the lookup.
    pub fn open(&self, path: &Path, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        open_in(self.fd.as_fd(), path, flags, mode)
    }

    /// Opens `path` under the root and fails with `ELOOP` on any symlink on the way. With `PATH | NOFOLLOW` in `flags` a
    /// symlink as the last component is opened itself.
    ///
    /// # Errors
    /// Those of openat2(2); `EBUSY` when the tree kept changing under the lookup.
    pub fn open_without_symlinks(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        open_resolving(self.fd.as_fd(), path, flags, 0, resolve)
    }

    /// Opens the parent directory of `path` and names the last component, which is not looked at.
    ///
    /// # Errors
    /// Those of openat2(2); `EINVAL` when `path` has no last component of its own (`/`, `.`, `a/..`).
    pub fn parent(&self, path: &Path) -> io::Result<Parent> {
        let name = match path.components().next_back() {
            Some(Component::Normal(name)) => name,
            _ => return Err(Errno::INVAL.into()),
        };
        let trimmed = trim_trailing_slashes(path);
        let dir = trimmed.parent().unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Parent { dir: self.open(dir, flags, 0)?, name: PathBuf::from(name) })
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `a/b//` → `a/b`, so that [`Path::parent`] is the parent that the kernel would take.
fn trim_trailing_slashes(path: &Path) -> &Path {
    let mut bytes = path.as_os_str().as_bytes();
    while bytes.len() > 1 && bytes.ends_with(b"/") {
        bytes = &bytes[..bytes.len() - 1];
    }
    Path::new(OsStr::from_bytes(bytes))
}

/// [`Root::open`] for a borrowed directory.
///
/// # Errors
/// Those of openat2(2); `EBUSY` when the tree kept changing under the lookup.
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
    open_resolving(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Whether `name` in `dir`, or with an empty name `dir` itself, is the root of what is mounted there. A symlink is not followed.
///
/// # Errors
/// Those of statx(2); `ENOSYS` on a kernel before 5.8, which does not tell.
pub(crate) fn is_mount_root(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(dir, name, flags, StatxFlags::TYPE)?;
    if !found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Errno::NOSYS.into());
    }
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn open_resolving(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: u32,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // openat2 refuses a mode without O_CREAT, where openat ignores it.
    let creates = flags.intersects(OFlags::CREATE) || flags.contains(OFlags::TMPFILE);
    let mode = if creates { Mode::from_raw_mode(mode & 0o7777) } else { Mode::empty() };
    for _ in 0..RETRIES {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::BUSY.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn absolute_symlinks_and_dotdot_stay_under_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/name"), "inside").unwrap();
        std::os::unix::fs::symlink("/etc/name", dir.path().join("link")).unwrap();
        let root = Root::open_path(dir.path()).unwrap();
        for path in ["link", "/etc/name", "../../../etc/name", "etc/../../etc/name"] {
            let fd = root.open(Path::new(path), OFlags::RDONLY, 0).unwrap();
            assert_eq!(io::read_to_string(fs::File::from(fd)).unwrap(), "inside", "{path}");
        }
    }

    #[test]
    fn parent_names_the_last_component_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open_path(dir.path()).unwrap();
        assert_eq!(root.parent(Path::new("a//")).unwrap().name, Path::new("a"));
        for path in ["/", "", ".", "..", "a/.."] {
            assert!(root.parent(Path::new(path)).is_err(), "{path}");
        }
    }
}
