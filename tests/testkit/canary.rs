//! [`Canary`]: files of the host that nothing in a vessel may read, change or add to.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::image::sha256;
use super::{Store, random::Random};

/// A directory of the host with a secret, as it was at the beginning.
#[derive(Debug)]
pub(crate) struct Canary {
    dir: PathBuf,
    /// Bytes that are nowhere else.
    secret: Vec<u8>,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    /// Makes `victim` beside the store, with a sibling whose name begins the same.
    pub(crate) fn new(store: &Store) -> Self {
        let dir = store.beside("canary");
        let secret: Vec<u8> = sha256(&Random::new().bytes(32)).into();
        for name in ["victim/dir", "victim-too"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        for (name, mode) in [("victim/hello", 0o644), ("victim/secret", 0o600), ("victim-too/x", 0o644)] {
            fs::write(dir.join(name), &secret).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(dir.join("victim/dir"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("hello", dir.join("victim/link")).unwrap();
        let before = manifest(&dir);
        Self { dir, secret, before }
    }

    /// The directory to aim at.
    pub(crate) fn victim(&self) -> PathBuf {
        self.dir.join("victim")
    }

    /// Whether `data` tells the secret.
    pub(crate) fn is_told_by(&self, data: &[u8]) -> bool {
        super::leftovers::contains(data, &self.secret)
    }

    /// Nothing was added, changed or removed.
    #[track_caller]
    pub(crate) fn is_unharmed(&self) {
        assert_eq!(manifest(&self.dir), self.before);
    }
}

/// Every file below `dir` with its type, mode, owner, links, time, attributes and content.
pub(crate) fn manifest(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let line = line(&path);
        all.insert(path, line);
    }
    all
}

fn line(path: &Path) -> String {
    let meta = path.symlink_metadata().unwrap();
    let content = match meta.file_type() {
        t if t.is_file() => sha256(&fs::read(path).unwrap()),
        t if t.is_symlink() => sha256(fs::read_link(path).unwrap().as_os_str().as_bytes()),
        _ => String::new(),
    };
    let (mode, uid, gid, links) = (meta.mode(), meta.uid(), meta.gid(), meta.nlink());
    let (seconds, nanos, attributes) = (meta.mtime(), meta.mtime_nsec(), attributes(path));
    format!("{mode:o} {uid}:{gid} links {links} at {seconds}.{nanos:09} {attributes:?} {content}")
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = String::from_utf8_lossy(&names[..len]).into_owned();
    let value = |name: &str| {
        let mut value = vec![0; 4096];
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or(0);
        value.truncate(len);
        (name.to_owned(), value)
    };
    let mut all: Vec<_> = names.split('\0').filter(|name| !name.is_empty()).map(value).collect();
    all.sort_unstable();
    all
}
