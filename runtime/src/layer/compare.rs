//! Whether an unpacked layer is still what unpacking made: compared with one that was just unpacked.
//!
//! Times of directories and of whiteouts are left out: where the archive has no entry for them, they are those of the
//! unpacking. Neither tree may change meanwhile; nothing is followed, and nothing but names and attributes is held.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::path::escape;

/// How many paths are told of all that differ.
const TOLD: usize = 8;
const BUFFER: usize = 128 << 10;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Entries that were compared, the root included.
    pub entries: u64,
    /// How many differ, are missing or are too many.
    pub different: u64,
    /// The first of them: the escaped path, and what is wrong with it.
    pub examples: Vec<String>,
}

/// The state of one comparison.
struct Compared {
    found: Comparison,
    /// Inodes with several names: those expected, and what they are here.
    links: HashMap<u64, u64>,
    /// Directories that both have and that are still to be looked into.
    left: Vec<Vec<u8>>,
}

/// Compares the tree `actual` with the tree `expected`.
///
/// # Errors
/// Those of reading either of them; `actual` may be damaged in ways that its file system reports.
pub fn compare_trees(expected: BorrowedFd<'_>, actual: BorrowedFd<'_>) -> io::Result<Comparison> {
    let mut compared =
        Compared { found: Comparison::default(), links: HashMap::new(), left: vec![Vec::new()] };
    let (one, other) = (fstat(expected)?, fstat(actual)?);
    compared.count(b"", differs(&one, &other));
    while let Some(path) = compared.left.pop() {
        let (one, other) = (directory(expected, &path)?, directory(actual, &path)?);
        if attributes(&one)? != attributes(&other)? {
            compared.differ(&path, "its attributes");
        }
        let (ours, theirs) = (names(&one)?, names(&other)?);
        for name in ours.union(&theirs) {
            compared.entry(&path, name, one.as_fd(), other.as_fd())?;
        }
    }
    Ok(compared.found)
}

impl Compared {
    fn entry(
        &mut self,
        parent: &[u8],
        name: &[u8],
        one: BorrowedFd<'_>,
        other: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let path = if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() };
        let (expected, actual) = (look(one, name)?, look(other, name)?);
        let (Some(expected), Some(actual)) = (expected, actual) else {
            self.count(&path, Some(expected.map_or("it should not be there", |_| "it is missing")));
            return Ok(());
        };
        let mut wrong = differs(&expected, &actual);
        if wrong.is_none() {
            wrong = match FileType::from_raw_mode(expected.st_mode) {
                FileType::Directory => {
                    self.left.push(path.clone());
                    None
                }
                FileType::RegularFile => contents(one, other, name)?,
                FileType::Symlink => {
                    let same = readlinkat(one, name, Vec::new())? == readlinkat(other, name, Vec::new())?;
                    (!same).then_some("its target")
                }
                _ => None,
            };
        }
        let wrong = wrong.or_else(|| self.relinked(&expected, &actual));
        self.count(&path, wrong);
        Ok(())
    }

    /// Names that are one file are one file in the other tree.
    fn relinked(&mut self, expected: &Stat, actual: &Stat) -> Option<&'static str> {
        if expected.st_nlink < 2 || FileType::from_raw_mode(expected.st_mode) == FileType::Directory {
            return None;
        }
        let known = *self.links.entry(expected.st_ino).or_insert(actual.st_ino);
        (known != actual.st_ino).then_some("its hard links")
    }

    fn count(&mut self, path: &[u8], wrong: Option<&str>) {
        self.found.entries += 1;
        if let Some(wrong) = wrong {
            self.differ(path, wrong);
        }
    }

    fn differ(&mut self, path: &[u8], wrong: &str) {
        self.found.different += 1;
        if self.found.examples.len() < TOLD {
            let path = if path.is_empty() { "/".to_owned() } else { escape(path) };
            self.found.examples.push(format!("{path}: {wrong}"));
        }
    }
}

/// What the inodes say differently.
fn differs(expected: &Stat, actual: &Stat) -> Option<&'static str> {
    let kind = FileType::from_raw_mode(expected.st_mode);
    if kind != FileType::from_raw_mode(actual.st_mode) || expected.st_rdev != actual.st_rdev {
        return Some("its type");
    }
    if (expected.st_mode, expected.st_uid, expected.st_gid) != (actual.st_mode, actual.st_uid, actual.st_gid)
    {
        return Some("its mode or owner");
    }
    if matches!(kind, FileType::Directory | FileType::CharacterDevice) {
        return None;
    }
    if expected.st_size != actual.st_size {
        return Some("its size");
    }
    if expected.st_nlink != actual.st_nlink {
        return Some("its hard links");
    }
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    (time(expected) != time(actual)).then_some("its time")
}

fn contents(one: BorrowedFd<'_>, other: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<&'static str>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let (one, other) = (openat(one, name, flags, Mode::empty())?, openat(other, name, flags, Mode::empty())?);
    if attributes(&one)? != attributes(&other)? {
        return Ok(Some("its attributes"));
    }
    let (mut one, mut other) = (File::from(one), File::from(other));
    let (mut ours, mut theirs) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let (n, m) = (fill(&mut one, &mut ours)?, fill(&mut other, &mut theirs)?);
        if ours[..n] != theirs[..m] {
            return Ok(Some("its content"));
        }
        if n == 0 {
            return Ok(None);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn look(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The directory at a path of plain names, one after the other.
fn directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = openat(root, ".", flags, Mode::empty())?;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        dir = openat(&dir, name, flags, Mode::empty())?;
    }
    Ok(dir)
}

fn names(dir: &OwnedFd) -> io::Result<BTreeSet<Vec<u8>>> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut reader = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = BTreeSet::new();
    while let Some(entry) = reader.next() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.insert(name);
        }
    }
    Ok(names)
}

/// All attributes, by name. There are none where the file system knows none.
fn attributes(file: &OwnedFd) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; 64 << 10];
    let len = match rustix::fs::flistxattr(file, &mut list[..]) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut attributes = BTreeMap::new();
    for name in list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::fgetxattr(file, name, &mut value[..])?;
        value.truncate(len);
        attributes.insert(name.to_vec(), value);
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use rustix::fs::XattrFlags;

    use super::*;

    fn tree(dir: &Path) {
        fs::create_dir_all(dir.join("d/e")).unwrap();
        for (name, text) in [("d/f", "one"), ("d/e/g", "two"), ("h", "")] {
            fs::write(dir.join(name), text).unwrap();
        }
        fs::hard_link(dir.join("d/f"), dir.join("d/linked")).unwrap();
        symlink("f", dir.join("d/link")).unwrap();
        for name in ["d/f", "d/e/g", "h"] {
            let file = fs::File::options().write(true).open(dir.join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 1 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, dir.join("d/link"), &times, AtFlags::SYMLINK_NOFOLLOW)
            .unwrap();
    }

    /// What is found after `change` of one of two equal trees.
    fn after(change: impl FnOnce(&Path)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        tree(&one);
        tree(&other);
        change(&other);
        let open = |path: &Path| fs::File::open(path).unwrap();
        let found = compare_trees(open(&one).as_fd(), open(&other).as_fd()).unwrap();
        assert_eq!(found.different, found.examples.len() as u64);
        found.examples
    }

    #[test]
    fn equal_trees_are_equal_and_every_change_is_found() {
        let retime = |path: &Path| {
            fs::File::options().write(true).open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        };
        assert_eq!(after(|_| {}), Vec::<String>::new());
        assert_eq!(after(|dir| fs::remove_file(dir.join("h")).unwrap()), ["h: it is missing"]);
        assert_eq!(after(|dir| fs::write(dir.join("d/e/x"), "").unwrap()), ["d/e/x: it should not be there"]);
        assert_eq!(after(|dir| fs::write(dir.join("h"), "").unwrap()), ["h: its time"]);
        assert_eq!(after(|dir| fs::write(dir.join("h"), "x").unwrap()), ["h: its size"]);
        let flipped = after(|dir| {
            fs::write(dir.join("d/e/g"), "twO").unwrap();
            retime(&dir.join("d/e/g"));
        });
        assert_eq!(flipped, ["d/e/g: its content"]);
        let mode =
            |dir: &Path| fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(after(mode), ["d: its mode or owner"]);
        let split = after(|dir| {
            fs::remove_file(dir.join("d/linked")).unwrap();
            fs::copy(dir.join("d/f"), dir.join("d/linked")).unwrap();
            retime(&dir.join("d/linked"));
        });
        assert_eq!(split, ["d/f: its hard links", "d/linked: its hard links"]);
        let kind = after(|dir| {
            fs::remove_file(dir.join("h")).unwrap();
            fs::create_dir(dir.join("h")).unwrap();
        });
        assert_eq!(kind, ["h: its type"]);
        let marked = after(|dir| {
            rustix::fs::setxattr(dir.join("d/e"), "user.k", b"v", XattrFlags::empty()).unwrap();
        });
        assert_eq!(marked, ["d/e: its attributes"]);
    }

    #[test]
    fn only_the_first_differences_are_told_and_names_are_escaped() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&other).unwrap();
        for n in 0..20 {
            fs::write(other.join(format!("{n:02}\u{1b}[31m")), "").unwrap();
        }
        let open = |path: &Path| fs::File::open(path).unwrap();
        let found = compare_trees(open(&one).as_fd(), open(&other).as_fd()).unwrap();
        assert_eq!((found.different, found.examples.len(), found.entries), (20, TOLD, 21));
        assert!(found.examples.iter().all(|text| !text.contains('\u{1b}')), "{:?}", found.examples);
    }
}
