//! Copying the large files of a layer while commands still run, so that they stand still only for what changed since.
//!
//! A file that was copied ahead is taken later if it is the same file with the same size and times. That is safe because
//!
//! * a change sets the change time (inode(7)), which no program can set to anything but now, and files are only taken whose
//!   change time was [`SETTLED`] ago when they were looked at: the kernel's clock for it may be some milliseconds coarse;
//! * a page that was mapped, dirty and writable can be written without that. So a file is synced between the look and the
//!   copy: its pages are write-protected by that, and the next write to one sets the times (`folio_mkclean`, mm/rmap.c).
//!
//! The latter holds on file systems that write pages back; only those known to are used ([`WRITE_BACK`]).
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::copy::{copy_data, create_new};
use super::descent::{self, Descent, is_change};
use super::fault::Outcome;
use super::file_type;

/// The directory with the copies, each named by the inode number of what it is a copy of.
pub(super) const DIR: &CStr = c"ahead";
/// What is in it, in the directory itself: no number.
const INDEX: &CStr = c"index";
/// Smaller files take longer to look after than to copy.
const LARGE: i64 = 256 << 10;
/// A file that was changed so recently may be changed again without its times showing it.
const SETTLED: Duration = Duration::from_millis(50);
/// Files that are copied ahead at most.
const MOST: usize = 100_000;
/// Bytes of the index at most.
const MAX_INDEX: u64 = 64 << 20;
/// Magic numbers (statfs(2)) of ext2/3/4, XFS, Btrfs and F2FS.
const WRITE_BACK: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

/// What a file looked like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Look {
    ino: u64,
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Look {
    fn new(stat: &Stat) -> Self {
        let nanoseconds = |value: u64| i64::try_from(value).unwrap_or(0);
        Self {
            ino: stat.st_ino,
            size: stat.st_size,
            mtime: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            ctime: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    /// Whether any change from now on will show.
    fn is_settled(&self) -> bool {
        let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else { return false };
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(self.ctime.0), u32::try_from(self.ctime.1))
        else {
            return false;
        };
        // One in the future, after the clock was set back, never is.
        now.checked_sub(Duration::new(seconds, nanoseconds)).is_some_and(|age| age > SETTLED)
    }

    fn name(&self) -> CString {
        CString::new(self.ino.to_string()).expect("digits have no NUL")
    }
}

/// Copies the large files of the tree `name` in `from` into a directory of `to`, for [`Ahead::open`] to find. The tree may
/// change meanwhile. Does nothing where files are cloned, or where changes could be missed.
pub(super) fn copy_ahead(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>) -> Outcome<()> {
    let magic = rustix::fs::fstatfs(from)?.f_type;
    if !u64::try_from(magic).is_ok_and(|magic| WRITE_BACK.contains(&(magic & 0xffff_ffff))) {
        return Ok(());
    }
    rustix::fs::mkdirat(to, DIR, Mode::RWXU)?;
    copy_into(descent::open(to, DIR)?, from, name).inspect_err(|_| {
        // The room that it takes may be what is missing.
        let _ = crate::layer::remove_tree(to, std::ffi::OsStr::new("ahead"));
    })
}

fn copy_into(dir: OwnedFd, from: BorrowedFd<'_>, name: &CStr) -> Outcome<()> {
    let mut copier = Copier { dir, recent: HashSet::new(), taken: HashMap::new(), clones: false };
    copier.walk(from, name, true)?;
    if copier.clones {
        return Ok(());
    }
    if !copier.recent.is_empty() {
        // What had just been written.
        std::thread::sleep(SETTLED + SETTLED / 5);
        copier.walk(from, name, false)?;
    }
    let looks: Vec<Look> = copier.taken.into_values().collect();
    let index = postcard::to_stdvec(&looks).map_err(std::io::Error::other)?;
    std::io::Write::write_all(&mut File::from(create_new(copier.dir.as_fd(), INDEX)?), &index)?;
    Ok(())
}

struct Copier {
    dir: OwnedFd,
    /// Numbers of files that had just been changed.
    recent: HashSet<u64>,
    /// By number.
    taken: HashMap<u64, Look>,
    /// The file system shares data: there is nothing to gain.
    clones: bool,
}

impl Copier {
    fn walk(&mut self, from: BorrowedFd<'_>, name: &CStr, first: bool) -> Outcome<()> {
        let mut descent = Descent::new(from)?;
        descent.push(name.to_owned())?;
        let mut frames = vec![self.files(&mut descent, first)?];
        while let Some(frame) = frames.last_mut() {
            if self.clones || self.taken.len() >= MOST {
                return Ok(());
            }
            match frame.pop().map(|child| descent.push(child)) {
                Some(Ok(())) => frames.push(self.files(&mut descent, first)?),
                Some(Err(errno)) if is_change(errno) => {}
                Some(Err(errno)) => return Err(errno.into()),
                None => {
                    descent.pop();
                    frames.pop();
                }
            }
        }
        Ok(())
    }

    /// Copies the files of the current directory; its subdirectories.
    fn files(&mut self, descent: &mut Descent, first: bool) -> Outcome<Vec<CString>> {
        let mut below = Vec::new();
        let dir = match descent.current() {
            Err(errno) if is_change(errno) => return Ok(below),
            other => other?,
        };
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            match entry.file_type() {
                FileType::Directory if name != c"." && name != c".." => below.push(name.to_owned()),
                FileType::RegularFile => self.file(dir, name, first)?,
                _ => {}
            }
        }
        Ok(below)
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, first: bool) -> Outcome<()> {
        let look = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if file_type(&stat) == FileType::RegularFile && stat.st_size >= LARGE => {
                Look::new(&stat)
            }
            Err(errno) if !is_change(errno) => return Err(errno.into()),
            _ => return Ok(()),
        };
        // The second time only those.
        if self.clones || self.taken.contains_key(&look.ino) || (!first && !self.recent.contains(&look.ino)) {
            return Ok(());
        }
        if !look.is_settled() {
            self.recent.insert(look.ino);
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Err(errno) if is_change(errno) => return Ok(()),
            other => File::from(other?),
        };
        let look = Look::new(&rustix::fs::fstat(&source)?);
        if look.is_settled() {
            self.take(&source, look)?;
        }
        Ok(())
    }

    fn take(&mut self, source: &File, look: Look) -> Outcome<()> {
        let name = look.name();
        let target = match create_new(self.dir.as_fd(), &name) {
            Err(Errno::EXIST) => return Ok(()),
            other => File::from(other?),
        };
        if self.taken.is_empty() && rustix::fs::ioctl_ficlone(&target, source).is_ok() {
            self.clones = true;
            return Ok(());
        }
        rustix::fs::fdatasync(source)?;
        copy_data(source, &target, u64::try_from(look.size).unwrap_or(0))?;
        // Nobody stands still for it yet.
        rustix::fs::fdatasync(&target)?;
        self.taken.insert(look.ino, look);
        Ok(())
    }
}

/// What was copied ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    dir: OwnedFd,
    looks: HashSet<Look>,
}

impl Ahead {
    /// What [`copy_ahead`] left in `to`, if anything.
    pub(super) fn open(to: BorrowedFd<'_>) -> Outcome<Option<Self>> {
        let dir = match descent::open(to, DIR) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let index = match rustix::fs::openat(&dir, INDEX, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => File::from(other?),
        };
        let mut bytes = Vec::new();
        index.take(MAX_INDEX).read_to_end(&mut bytes)?;
        let looks: Vec<Look> = postcard::from_bytes(&bytes).map_err(std::io::Error::other)?;
        Ok(Some(Self { dir, looks: looks.into_iter().collect() }))
    }

    /// Moves the copy of the file that looks like this to the new name `name` in `to`; false when there is none.
    pub(super) fn take(&mut self, stat: &Stat, to: BorrowedFd<'_>, name: &CStr) -> Outcome<bool> {
        let look = Look::new(stat);
        if !self.looks.remove(&look) {
            return Ok(false);
        }
        rustix::fs::renameat_with(&self.dir, look.name(), to, name, rustix::fs::RenameFlags::NOREPLACE)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
