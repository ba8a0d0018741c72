//! Everything that can be seen of a tree, as lines that can be compared.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// A directory to work in, which goes away even when modes in it say otherwise.
pub(super) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a directory and opens it.
    pub(super) fn dir(&self, name: &str) -> OwnedFd {
        fs::create_dir(self.path(name)).unwrap();
        open(&self.path(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let parent = open(self.0.path());
        for entry in fs::read_dir(self.0.path()).unwrap() {
            crate::layer::remove_tree(parent.as_fd(), &entry.unwrap().file_name()).unwrap();
        }
    }
}

pub(super) fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test could not be made here.
#[allow(clippy::print_stderr)]
pub(super) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// The attributes of a file, without following links.
pub(super) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let Ok(len) = rustix::fs::llistxattr(path, names.as_mut_slice()) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for name in names[..len].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        found.insert(name.to_vec(), value[..len].to_vec());
    }
    found
}

/// One line per file: path, type, mode, owner, time, attributes, content or target, and which names are one inode.
pub(super) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inodes = HashMap::new();
    visit(root, Path::new(""), &mut inodes, &mut lines);
    lines
}

fn visit(root: &Path, path: &Path, inodes: &mut HashMap<u64, PathBuf>, lines: &mut Vec<String>) {
    let full = if path.as_os_str().is_empty() { root.to_path_buf() } else { root.join(path) };
    let meta = fs::symlink_metadata(&full).unwrap();
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_symlink() {
        format!("link {:?}", fs::read_link(&full).unwrap())
    } else if kind.is_file() {
        let first = inodes.entry(meta.ino()).or_insert_with(|| path.to_path_buf());
        format!("file of {} ({first:?}): {}", meta.len(), digest(&full))
    } else if kind.is_char_device() {
        format!("device {}", meta.rdev())
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        "other".to_owned()
    };
    // Whiteouts may share an inode, whose time is that of none of them.
    let time = if kind.is_char_device() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
    lines.push(format!(
        "{path:?} {what} mode {:o} owner {}:{} time {time:?} {:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        xattrs(&full)
    ));
    if kind.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for name in names {
            let child = [path.as_os_str().as_bytes(), b"/", name.as_bytes()].concat();
            let child = if path.as_os_str().is_empty() { name.into_vec() } else { child };
            visit(root, Path::new(std::ffi::OsStr::from_bytes(&child)), inodes, lines);
        }
    }
}

/// A digest of the content and of where it has holes, in steps that a large hole does not slow down.
fn digest(path: &Path) -> String {
    use sha2::{Digest, Sha256};
    let Ok(file) = File::open(path) else { return "unreadable".to_owned() };
    let size = file.metadata().unwrap().len();
    let map = crate::layer::pack::data_segments(file.as_fd(), size, 10_000).unwrap();
    let mut sha = Sha256::new();
    for segment in &map {
        let mut data = vec![0; segment.len as usize];
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(segment.offset)).unwrap();
        (&file).read_exact(&mut data).unwrap();
        sha.update(segment.offset.to_le_bytes());
        sha.update(&data);
    }
    crate::layer::stream::hex(&sha.finalize())
}
