//! [`Layout`]: where things are below the base directory.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::name::ProjectName;
use crate::error::{Error, Result};
use crate::store::dirs;

/// Paths below one base directory. All of it is absolute.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    base: PathBuf,
}

impl Layout {
    /// # Errors
    /// Those of finding the working directory, where `base` is relative.
    pub(super) fn new(base: &Path) -> Result<Self> {
        let base = std::path::absolute(base)
            .map_err(|e| Error::io(format!("failed to find the base directory {}", base.display()), e))?;
        Ok(Self { base })
    }

    /// As labels have it.
    pub(super) fn base(&self) -> String {
        self.base.to_string_lossy().into_owned()
    }

    pub(super) fn work(&self) -> PathBuf {
        self.base.join("vega.work")
    }

    pub(super) fn projects(&self) -> PathBuf {
        self.work().join("projects")
    }

    pub(super) fn project(&self, name: &ProjectName) -> PathBuf {
        self.projects().join(name.as_str())
    }

    pub(super) fn archive(&self) -> PathBuf {
        self.work().join("archive/projects")
    }

    /// Makes a directory of ours, with what is missing above it, and opens it.
    pub(super) fn open(path: &Path) -> Result<OwnedFd> {
        make_all(path)?;
        dirs::open_path(path)
    }

    /// The directory of what is known of containers, which only this user may read: there are variables in it.
    pub(super) fn containers(&self) -> Result<OwnedFd> {
        let path = self.work().join("containers");
        make_all(&self.work())?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed(&path, e)),
            _ => dirs::open_path(&path),
        }
    }

    /// Makes the directory of a project; whether it is new.
    pub(super) fn make_project(&self, name: &ProjectName) -> Result<bool> {
        make_all(&self.projects())?;
        let path = self.project(name);
        match std::fs::create_dir(&path) {
            // Whatever the umask: others may look, as at any directory of theirs.
            Ok(()) => {
                std::fs::set_permissions(&path, Permissions::from_mode(0o755))
                    .map_err(|e| failed(&path, e))?;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
            Err(e) => Err(failed(&path, e)),
        }
    }

    /// Removes the directory of a project that was made for nothing: only if nothing is in it.
    pub(super) fn unmake_project(&self, name: &ProjectName) {
        let _ = std::fs::remove_dir(self.project(name));
    }
}

fn make_all(path: &Path) -> Result<()> {
    // For us alone: root of a project's vessel writes there as we do, set-user-ID programs too.
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed(path, e))
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::io(format!("failed to make the directory {}", path.display()), error)
}
