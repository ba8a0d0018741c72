//! Files of this host that vessels write, and how they are removed.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vesselrt_runtime::worker::Job;

use super::Manager;
use crate::error::{Error, Result};
use crate::offload::blocking;
use crate::store::dirs;

impl Manager {
    /// Removes a directory of this host with everything in it, also what users of vessels wrote whose ids this user has in
    /// vessels only. No symlink is followed; one that is not there is fine.
    ///
    /// # Errors
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) for what belongs to somebody else.
    pub async fn remove_host_tree(&self, path: impl Into<PathBuf>) -> Result<()> {
        let (inner, path) = (Arc::clone(&self.inner), path.into());
        blocking(move || match std::fs::remove_dir_all(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let (parent, name) = split(&path)?;
                let parent = dirs::open_path(parent)?;
                let mut worker = inner.launcher()?.worker()?;
                worker.run(&Job::RemoveTree { name }, &[parent.as_fd()], &mut |_| {})?;
                Ok(())
            }
            Err(e) => Err(Error::io(format!("failed to remove {}", path.display()), e)),
        })
        .await
    }
}

fn split(path: &Path) -> Result<(&Path, String)> {
    match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) => Ok((parent, name.to_owned())),
        _ => Err(Error::invalid(format!("not a directory that can be removed: {}", path.display()))),
    }
}
