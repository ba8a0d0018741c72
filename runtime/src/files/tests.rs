//! Tests of [`super`].
#![forbid(unsafe_code)]

mod bounds;
mod corpus;
mod moves;
mod privileged;
mod race;
mod trees;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::*;

pub(super) const RDONLY: u32 = 0;
pub(super) const WRONLY: u32 = 1;
pub(super) const CREATE: u32 = 0o100;
pub(super) const EXCL: u32 = 0o200;

/// A tree `fs` and next to it a directory with a secret, which nothing may read or change.
pub(super) struct Tree {
    dir: tempfile::TempDir,
    pub(super) root: Root,
}

const SECRET: &str = "canary-3f9a";

pub(super) fn tree() -> Tree {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("fs")).unwrap();
    fs::create_dir_all(dir.path().join("victim/dir")).unwrap();
    fs::write(dir.path().join("victim/secret"), SECRET).unwrap();
    fs::write(dir.path().join("victim/dir/f"), SECRET).unwrap();
    let root = Root::open_path(&dir.path().join("fs")).unwrap();
    Tree { dir, root }
}

impl Tree {
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join("fs").join(inside.trim_start_matches('/'))
    }

    pub(super) fn victim(&self) -> PathBuf {
        self.dir.path().join("victim")
    }

    pub(super) fn read(&self, path: &str) -> Result<String, Fault> {
        let fd = open(&self.root, path.as_bytes(), RDONLY, 0)?;
        let mut text = String::new();
        fs::File::from(fd)
            .read_to_string(&mut text)
            .map_err(|error| Problem::from(error).fault("read", &[]))?;
        assert!(!text.contains(SECRET), "{path} leaks");
        Ok(text)
    }

    pub(super) fn write(&self, path: &str, text: &str) -> Result<(), Fault> {
        write_file(&self.root, path.as_bytes(), 0o644, text.as_bytes())
    }

    pub(super) fn canary_is_well(&self) {
        let names = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|it| it.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.dir.path()), ["fs", "victim"]);
        assert_eq!(names(&self.victim()), ["dir", "secret"]);
        assert_eq!(names(&self.victim().join("dir")), ["f"]);
        for file in ["secret", "dir/f"] {
            assert_eq!(fs::read_to_string(self.victim().join(file)).unwrap(), SECRET);
        }
    }

    /// No temporary file was left in a directory.
    pub(super) fn is_clean(&self, inside: &str) {
        for entry in fs::read_dir(self.path(inside)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap_or_default();
            assert!(!name.starts_with(TEMPORARY_PREFIX), "{inside}: {name}");
        }
    }
}

pub(super) fn fails<T: std::fmt::Debug>(result: Result<T, Fault>, kind: FaultKind) -> Fault {
    let fault = result.unwrap_err();
    assert_eq!(fault.kind, kind, "{fault:?}");
    fault
}

pub(super) fn mkfifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}
