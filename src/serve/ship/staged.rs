//! [`Staged`]: a file that is written beside its place and put there when it is whole.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::{Result, UserFiles};

/// A file that is written beside its place. Dropped before it is put there, it is removed.
#[derive(Debug)]
pub(super) struct Staged {
    files: UserFiles,
    /// `None` once it is in its place.
    path: Option<PathBuf>,
}

impl Staged {
    /// For a file at `place`.
    pub(super) fn beside(files: &UserFiles, place: &Path) -> Self {
        let name = format!(".vesselrt-{}", uuid::Uuid::new_v4().simple());
        Self { files: files.clone(), path: Some(place.with_file_name(name)) }
    }

    /// Where it is written.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Puts it in its place; a file that is there is replaced.
    ///
    /// # Errors
    /// Those of rename(2) by kind.
    pub(super) async fn put(mut self, place: &Path) -> Result<()> {
        self.files.rename_file(self.path(), place).await?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let files = self.files.clone();
            // Whoever asked may be gone, and so may be the file.
            runtime.spawn(async move {
                let _ = files.delete_all(path).await;
            });
        }
    }
}
