//! Mount destinations, checked in the merged tree before libcontainer touches it.
//!
//! libcontainer 0.7.0 joins `rootfs` and `dev/…` as strings before it pivots, so an image whose `/dev` is a symlink
//! would make it create and delete files on the host (CVE-2026-41579 and its kin). Every destination must therefore be
//! a real directory, reached over real directories, before it is called.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::root::Root;

/// Symlinks followed in one path, as the kernel has it (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Longest pending path while symlinks are expanded, bytes: PATH_MAX.
const MAX_PATH: usize = 4096;

/// The generated files, by their names in `/etc`.
const ETC_FILES: [&str; 3] = ["resolv.conf", "hosts", "hostname"];

/// What is mounted at a [`MountPoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointKind {
    /// A file system; the directory is created if missing.
    Directory,
    /// A file system inside one that is mounted before, which creates it; in the image it may be missing.
    Covered,
    /// A generated file.
    File,
}

/// A destination of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountPoint {
    /// Absolute path inside.
    pub path: &'static str,
    /// What is mounted there.
    pub kind: PointKind,
}

/// A generated file to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcFile {
    /// Its name in the directory of generated files.
    pub name: &'static str,
    /// Where it goes: an absolute path inside without symlinks.
    pub destination: PathBuf,
}

/// A generated file that is not bound, because the vessel has no regular file to bind it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path inside.
    pub path: PathBuf,
    /// Why, for the user to know.
    pub reason: &'static str,
}

/// What [`prepare_mount_points`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountPoints {
    /// Generated files that can be bound.
    pub etc_files: Vec<EtcFile>,
    /// Generated files that cannot.
    pub skipped: Vec<Skipped>,
    /// What else is mounted in the tree, and belongs into every container: absolute paths without symlinks. Whoever mounted it
    /// says so.
    pub mounts: Vec<PathBuf>,
    /// Empty files and directories that were created, in that order, for [`remove_placeholders`].
    pub created: Vec<PathBuf>,
}

/// Why a vessel cannot be mounted for a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountPointError {
    /// A symlink where a directory must be.
    #[error("failed to use {path:?} as a mount point: it is or leads over a symlink")]
    Symlink {
        /// Path inside.
        path: PathBuf,
    },
    /// A file, FIFO, device or socket where a directory must be.
    #[error("failed to use {path:?} as a mount point: it is not a directory")]
    NotDirectory {
        /// Path inside.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("failed to prepare the mount point {path:?}")]
    Io {
        /// Path inside.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl MountPointError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Symlink { path } | Self::NotDirectory { path } => Some(format!(
                "replace {path:?} in the image or the vessel by an empty directory: file systems are never mounted \
                 through a symlink of an image"
            )),
            Self::Io { .. } => None,
        }
    }
}

/// Every destination that [`build`](super::build) may mount at, parents first.
pub fn required_mount_points() -> impl Iterator<Item = MountPoint> {
    use PointKind::{Covered, Directory, File};
    [
        ("/proc", Directory),
        ("/dev", Directory),
        ("/dev/pts", Covered),
        ("/dev/shm", Covered),
        ("/dev/mqueue", Covered),
        ("/sys", Directory),
        ("/etc/resolv.conf", File),
        ("/etc/hosts", File),
        ("/etc/hostname", File),
    ]
    .into_iter()
    .map(|(path, kind)| MountPoint { path, kind })
}

/// Checks every mount destination of the merged tree `root`, and creates the missing ones.
///
/// The generated files of `/etc` never fail: where the tree has a symlink, it is followed inside the tree to a regular
/// file; where it has nothing of the kind, the file is not bound and reported as skipped.
///
/// # Errors
/// A destination, or `/etc`, that is not a real directory; a failing system call.
pub fn prepare_mount_points(root: &Root) -> Result<MountPoints, MountPointError> {
    let mut points = MountPoints::default();
    let mut directories = Vec::new();
    for point in required_mount_points().filter(|point| point.kind != PointKind::File) {
        let path = Path::new(point.path);
        if !is_directory(root, path)? && point.kind == PointKind::Directory {
            create_directory(root, path)
                .map_err(|source| MountPointError::Io { path: path.into(), source })?;
            directories.push(path.to_owned());
        }
    }
    let has_etc = is_directory(root, Path::new("/etc"))?;
    for name in ETC_FILES {
        let path = Path::new("/etc").join(name);
        if has_etc {
            let found = etc_file(root, name, &path, &mut points.created);
            match found.map_err(|source| MountPointError::Io { path: path.clone(), source })? {
                Ok(destination) => points.etc_files.push(EtcFile { name, destination }),
                Err(reason) => points.skipped.push(Skipped { path, reason }),
            }
        } else {
            points.skipped.push(Skipped { path, reason: "there is no /etc" });
        }
    }
    points.created.append(&mut directories);
    Ok(points)
}

/// Whether `path` is a real directory; `false` if there is nothing.
fn is_directory(root: &Root, path: &Path) -> Result<bool, MountPointError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    match root.open_without_symlinks(path, flags).and_then(|fd| file_type(&fd)) {
        Ok(FileType::Directory) => Ok(true),
        Ok(FileType::Symlink) => Err(MountPointError::Symlink { path: path.into() }),
        Ok(_) => Err(MountPointError::NotDirectory { path: path.into() }),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Ok(false),
            Some(Errno::LOOP) => Err(MountPointError::Symlink { path: path.into() }),
            Some(Errno::NOTDIR) => Err(MountPointError::NotDirectory { path: path.into() }),
            _ => Err(MountPointError::Io { path: path.into(), source: error }),
        },
    }
}

fn file_type(fd: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Creates the directory with mode 0755, whatever the umask.
fn create_directory(root: &Root, path: &Path) -> io::Result<()> {
    let parent = root.parent(path)?;
    rustix::fs::mkdirat(&parent.dir, &parent.name, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let made = root.open_without_symlinks(path, flags)?;
    Ok(rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?)
}

/// Where the generated file `name` can be bound, or why nowhere.
fn etc_file(
    root: &Root,
    name: &str,
    path: &Path,
    created: &mut Vec<PathBuf>,
) -> io::Result<Result<PathBuf, &'static str>> {
    let etc = root.open_without_symlinks(Path::new("/etc"), OFlags::PATH | OFlags::DIRECTORY)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&etc, name, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
            created.push(path.to_owned());
            return Ok(Ok(path.to_owned()));
        }
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(target) = resolve(root, path)? else { return Ok(Err("it is a dangling symlink")) };
    if ["/dev", "/proc", "/sys"].iter().any(|covered| target.starts_with(covered)) {
        return Ok(Err("it leads to a place that is mounted over"));
    }
    let found = root.open_without_symlinks(&target, OFlags::PATH | OFlags::NOFOLLOW)?;
    Ok(if file_type(&found)? == FileType::RegularFile { Ok(target) } else { Err("it is not a regular file") })
}

/// Follows the symlinks of `path` inside the tree: the path without them, or `None` if it leads nowhere.
fn resolve(root: &Root, path: &Path) -> io::Result<Option<PathBuf>> {
    follow(root, path, false)
}

/// [`resolve`] for what is to be made: what is missing is there as it is called.
pub(crate) fn resolve_missing(root: &Root, path: &Path) -> io::Result<Option<PathBuf>> {
    follow(root, path, true)
}

fn follow(root: &Root, path: &Path, may_be_missing: bool) -> io::Result<Option<PathBuf>> {
    let mut resolved = PathBuf::from("/");
    let mut pending = components(path);
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&name);
        let fd = match root.open_without_symlinks(&next, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => fd,
            Err(error) if may_be_missing && Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                resolved = next;
                continue;
            }
            Err(error) if is_nowhere(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if file_type(&fd)? != FileType::Symlink {
            resolved = next;
            continue;
        }
        links += 1;
        let target =
            PathBuf::from(OsString::from_vec(rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes()));
        if target.is_absolute() {
            resolved = PathBuf::from("/");
        }
        pending.extend(components(&target));
        if links > MAX_LINKS || pending.iter().map(|name| name.len() + 1).sum::<usize>() > MAX_PATH {
            return Ok(None);
        }
    }
    Ok(Some(resolved))
}

fn is_nowhere(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)
    )
}

/// The components of a path, last first.
fn components(path: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect();
    names.reverse();
    names
}

/// Removes what [`prepare_mount_points`] created, as far as it is still empty, so that no snapshot has it.
///
/// Only when no container runs: removing a mount point unmounts what is mounted there in other mount namespaces.
///
/// # Errors
/// The first system call that failed, after all were tried.
pub fn remove_placeholders(root: &Root, created: &[PathBuf]) -> Result<(), MountPointError> {
    let mut result = Ok(());
    for path in created {
        if let Err(source) = remove_placeholder(root, path) {
            result = result.and(Err(MountPointError::Io { path: path.clone(), source }));
        }
    }
    result
}

fn remove_placeholder(root: &Root, path: &Path) -> io::Result<()> {
    let parent = match root.parent(path) {
        Err(error) if is_nowhere(&error) => return Ok(()),
        other => other?,
    };
    let stat = match rustix::fs::statat(&parent.dir, &parent.name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let flags = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => AtFlags::REMOVEDIR,
        FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
        _ => return Ok(()),
    };
    match rustix::fs::unlinkat(&parent.dir, &parent.name, flags) {
        Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
