//! [`remove_tree`]: deletes a directory of any depth by descriptors alone.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::sys::stat::FchmodatFlags;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, fchmod, fstat, openat, unlinkat};
use rustix::io::Errno;

/// How many directories of one branch are held open; those above are found again through `..`.
const OPEN: usize = 32;

/// How often a directory is read again when something was put into it meanwhile.
const RETRIES: u32 = 16;

/// A directory on the way down.
struct Level {
    fd: Option<OwnedFd>,
    /// Device and inode number, to know it again.
    id: (u64, u64),
    name: Vec<u8>,
    /// Directories in it that are still to be removed.
    todo: Vec<Vec<u8>>,
    tries: u32,
}

/// Removes `name` in `parent` and, if it is a directory, everything below. Never follows a link, needs no recursion, and
/// opens directories without permissions for their owner first. What is not there is removed already.
///
/// # Errors
/// Those of openat(2), getdents64(2) and unlinkat(2); what was removed before stays removed.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let name = name.as_bytes();
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut levels = vec![enter(parent, name.to_vec())?];
    while let Some(level) = levels.last_mut() {
        if let Some(child) = level.todo.pop() {
            let here = level.fd.as_ref().expect("the deepest directory is open").as_fd();
            let next = match enter(here, child) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => continue,
                other => other?,
            };
            let above = levels.len();
            if let Some(far) = above.checked_sub(OPEN) {
                levels[far].fd = None;
            }
            levels.push(next);
        } else {
            leave(parent, &mut levels)?;
        }
    }
    Ok(())
}

/// Opens a directory and removes everything in it that is none.
fn enter(parent: BorrowedFd<'_>, name: Vec<u8>) -> io::Result<Level> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || openat(parent, name.as_slice(), flags, Mode::empty());
    let fd = match open() {
        Err(Errno::ACCESS) => {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            let fd = Some(parent.as_raw_fd());
            nix::sys::stat::fchmodat(fd, name.as_slice(), mode, FchmodatFlags::NoFollowSymlink)?;
            open()?
        }
        other => other?,
    };
    let stat = fstat(&fd)?;
    let todo = empty(&fd)?;
    Ok(Level { fd: Some(fd), id: (stat.st_dev, stat.st_ino), name, todo, tries: 0 })
}

/// Unlinks every file in a directory and returns the names of the directories.
fn empty(fd: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut directories = Vec::new();
    let mut buffer = Vec::with_capacity(32 << 10);
    rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0))?;
    let mut reader = RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory || !unlink(fd, name)? {
            directories.push(name.to_bytes().to_vec());
        }
    }
    Ok(directories)
}

/// Unlinks a name; false when it is a directory.
fn unlink(fd: &OwnedFd, name: &std::ffi::CStr) -> io::Result<bool> {
    match unlinkat(fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        // A directory without write permission; it goes anyway.
        Err(Errno::ACCESS) => {
            fchmod(fd, Mode::RWXU)?;
            unlinkat(fd, name, AtFlags::empty())?;
            Ok(true)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Removes the deepest directory, which is empty now, and goes up.
fn leave(root: BorrowedFd<'_>, levels: &mut Vec<Level>) -> io::Result<()> {
    let mut done = levels.pop().expect("only called inside a directory");
    if let Some(above) = levels.last_mut()
        && above.fd.is_none()
    {
        above.fd = Some(reopen(&done, above.id)?);
    }
    let parent = levels.last().and_then(|above| above.fd.as_ref()).map_or(root, AsFd::as_fd);
    match unlinkat(parent, done.name.as_slice(), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY) if done.tries < RETRIES => {
            done.tries += 1;
            done.todo = empty(done.fd.as_ref().expect("the deepest directory is open"))?;
            levels.push(done);
            Ok(())
        }
        Err(Errno::ACCESS) if done.tries < RETRIES => {
            fchmod(parent, Mode::RWXU)?;
            done.tries += 1;
            levels.push(done);
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Goes up through `..`, and makes sure that it leads where we came from: the tree may be moved under us.
fn reopen(below: &Level, id: (u64, u64)) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let child = below.fd.as_ref().expect("the deepest directory is open");
    let fd = openat(child, "..", flags, Mode::empty())?;
    let stat = fstat(&fd)?;
    if (stat.st_dev, stat.st_ino) == id { Ok(fd) } else { Err(Errno::STALE.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn everything_below_goes_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("tree/a/b/c")).unwrap();
        fs::create_dir(at("beside")).unwrap();
        fs::write(at("beside/x"), "x").unwrap();
        for name in 0..3000 {
            fs::write(at("tree/a").join(name.to_string()), "").unwrap();
        }
        symlink("../../beside", at("tree/a/link")).unwrap();
        symlink(at("beside"), at("tree/link")).unwrap();
        remove_tree(open(dir.path()).as_fd(), OsStr::new("tree")).unwrap();
        assert!(!at("tree").exists());
        assert_eq!(fs::read_to_string(at("beside/x")).unwrap(), "x");
    }

    #[test]
    fn directories_without_permissions_go_too() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("tree/closed/read-only/empty");
        fs::create_dir_all(&inner).unwrap();
        fs::write(dir.path().join("tree/closed/read-only/f"), "").unwrap();
        for (path, mode) in [
            ("tree/closed/read-only/empty", 0),
            ("tree/closed/read-only", 0o500),
            ("tree/closed", 0),
            ("tree", 0),
        ] {
            fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        remove_tree(open(dir.path()).as_fd(), OsStr::new("tree")).unwrap();
        assert!(!dir.path().join("tree").exists());
    }

    #[test]
    fn a_link_goes_and_its_target_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        symlink("target", dir.path().join("link")).unwrap();
        let parent = open(dir.path());
        remove_tree(parent.as_fd(), OsStr::new("link")).unwrap();
        remove_tree(parent.as_fd(), OsStr::new("not there")).unwrap();
        assert!(dir.path().join("target").exists());
        assert!(!dir.path().join("link").exists());
    }
}
