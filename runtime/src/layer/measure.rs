//! [`Measure`]: what trees take on disk.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, fstat, openat, statat};
use rustix::io::Errno;

/// How many directories of one branch are held open; those above are found again through `..`.
const OPEN: usize = 32;
/// stat(2) counts blocks of 512 bytes whatever the file system's are.
const BLOCK: u64 = 512;

/// Device and inode number.
type Id = (u64, u64);

/// Measures trees one after the other; a file with several names, in whichever of them, counts where it is met first.
#[derive(Debug, Default)]
pub struct Measure {
    seen: HashSet<Id>,
    inodes: u64,
}

/// A directory on the way down.
struct Level {
    fd: Option<OwnedFd>,
    id: Id,
    /// Directories in it that are still to be measured.
    todo: Vec<Vec<u8>>,
}

impl Measure {
    /// How many files and directories were counted so far.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        self.inodes
    }

    /// The bytes on disk of `name` in `parent` with everything below, by blocks and not by length. Links are not followed,
    /// other file systems not entered. What disappears meanwhile takes nothing; nor does what is not there.
    ///
    /// # Errors
    /// Those of openat(2), getdents64(2) and fstatat(2).
    pub fn tree(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<u64> {
        let Some(stat) = there(statat(parent, name, AtFlags::SYMLINK_NOFOLLOW))? else { return Ok(0) };
        let mut bytes = self.count(&stat);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(bytes);
        }
        let device = stat.st_dev;
        let mut levels: Vec<Level> = Vec::new();
        levels.extend(self.enter(parent, name, device, &mut bytes)?);
        while let Some(level) = levels.last_mut() {
            let Some(child) = level.todo.pop() else {
                if !leave(&mut levels)? {
                    break;
                }
                continue;
            };
            let here = level.fd.as_ref().expect("the deepest directory is open").as_fd();
            if let Some(next) = self.enter(here, &child, device, &mut bytes)? {
                if let Some(far) = levels.len().checked_sub(OPEN) {
                    levels[far].fd = None;
                }
                levels.push(next);
            }
        }
        Ok(bytes)
    }

    /// Opens a directory and counts everything in it; `None` when it is gone or another file system.
    fn enter(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        device: u64,
        bytes: &mut u64,
    ) -> io::Result<Option<Level>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(fd) = there(openat(parent, name, flags, Mode::empty()))? else { return Ok(None) };
        let own = fstat(&fd)?;
        if own.st_dev != device {
            return Ok(None);
        }
        let mut todo = Vec::new();
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut reader = RawDir::new(&fd, buffer.spare_capacity_mut());
        while let Some(entry) = reader.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(stat) = there(statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW))? else { continue };
            *bytes = bytes.saturating_add(self.count(&stat));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                todo.push(name.to_bytes().to_vec());
            }
        }
        Ok(Some(Level { fd: Some(fd), id: (own.st_dev, own.st_ino), todo }))
    }

    fn count(&mut self, stat: &Stat) -> u64 {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !directory && stat.st_nlink > 1 && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return 0;
        }
        self.inodes += 1;
        u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK)
    }
}

/// What is gone, or has become something else, is not there.
fn there<T>(result: Result<T, Errno>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Leaves the deepest directory; false when it was the last. One above that was moved meanwhile is not gone on with.
fn leave(levels: &mut Vec<Level>) -> io::Result<bool> {
    let Some(done) = levels.pop() else { return Ok(false) };
    let Some(above) = levels.last_mut() else { return Ok(false) };
    if above.fd.is_none() {
        let child = done.fd.as_ref().expect("the deepest directory is open");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(child, "..", flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) != above.id {
            return Err(Errno::STALE.into());
        }
        above.fd = Some(fd);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn blocks(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().blocks() * BLOCK
    }

    #[test]
    fn blocks_count_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir(at("c")).unwrap();
        fs::write(at("a/f"), vec![1; 100_000]).unwrap();
        fs::hard_link(at("a/f"), at("a/b/g")).unwrap();
        fs::hard_link(at("a/f"), at("c/h")).unwrap();
        fs::File::create(at("a/sparse")).unwrap().set_len(1 << 40).unwrap();
        symlink(at("c"), at("a/link")).unwrap();
        let parent = open(dir.path());
        let directories = blocks(&at("a")) + blocks(&at("a/b"));
        let mut measure = Measure::default();
        let rest = blocks(&at("a/sparse")) + blocks(&at("a/link"));
        assert_eq!(measure.tree(parent.as_fd(), b"a").unwrap(), directories + blocks(&at("a/f")) + rest);
        assert_eq!(measure.tree(parent.as_fd(), b"c").unwrap(), blocks(&at("c")), "its file was counted");
        assert_eq!(
            Measure::default().tree(parent.as_fd(), b"c").unwrap(),
            blocks(&at("c")) + blocks(&at("a/f"))
        );
        assert_eq!(measure.tree(parent.as_fd(), b"none").unwrap(), 0);
        assert_eq!(Measure::default().tree(open(&at("a")).as_fd(), b"f").unwrap(), blocks(&at("a/f")));
    }

    #[test]
    fn a_deep_tree_is_measured_with_few_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let (mut deepest, mut expected) = (open(dir.path()), 0);
        for _ in 0..2000 {
            rustix::fs::mkdirat(&deepest, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&deepest, "e", Mode::RWXU).unwrap();
            let next = openat(&deepest, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            expected += 2 * u64::try_from(fstat(&next).unwrap().st_blocks).unwrap() * BLOCK;
            deepest = next;
        }
        let parent = open(dir.path());
        let measured = Measure::default().tree(parent.as_fd(), b"d").unwrap();
        let of_first_e = blocks(&dir.path().join("e"));
        assert_eq!(measured, expected - of_first_e);
        crate::layer::remove_tree(parent.as_fd(), "d".as_ref()).unwrap();
    }

    #[test]
    fn what_may_not_be_read_is_an_error_and_not_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::set_permissions(dir.path().join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        let measured = Measure::default().tree(open(dir.path()).as_fd(), b"a");
        // Root reads what has no permissions.
        assert_eq!(measured.is_ok(), rustix::process::geteuid().is_root());
    }
}
