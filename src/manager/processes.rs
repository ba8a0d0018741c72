//! Detached processes of vessels that are not opened.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::{Manager, open};
use crate::error::Result;
use crate::vessel::process::{self, Process, ProcessInfo};

impl Manager {
    /// The detached processes of a vessel that are remembered. It is not opened.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …".
    pub async fn processes(&self, vessel: &str) -> Result<Vec<ProcessInfo>> {
        match open::dir_of(&self.inner, vessel).await? {
            Some(dir) => process::list(Arc::new(dir)).await,
            None => Ok(Vec::new()),
        }
    }

    /// A detached process by its id. The vessel is not opened.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …" or "process not found: …".
    pub async fn process(&self, vessel: &str, id: &str) -> Result<Process> {
        match open::dir_of(&self.inner, vessel).await? {
            Some(dir) => process::find(Arc::new(dir), id).await,
            None => Err(process::unknown(id)),
        }
    }

    /// Forgets the processes of a vessel that have ended, logs and all, and says which they were.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "vessel not found: …"; those of removing files.
    pub async fn prune_processes(&self, vessel: &str) -> Result<Vec<String>> {
        match open::dir_of(&self.inner, vessel).await? {
            Some(dir) => process::prune(Arc::new(dir)).await,
            None => Ok(Vec::new()),
        }
    }
}
