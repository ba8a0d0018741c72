//! The registry's file: read as a whole, changed under a lock, replaced as a whole.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use super::layout::Layout;
use super::project::Project;
use crate::error::{Error, Result};
use crate::store::dirs::{self, Durable};
use crate::store::lock::{self, Mode};

const FILE: &str = "projects.json";
const LOCK: &str = "projects.lock";
/// Far more than anybody has projects.
const MAX_BYTES: u64 = 64 << 20;

/// All projects, in the order of the file.
pub(super) fn read(layout: &Layout) -> Result<Vec<Project>> {
    let dir = Layout::open(&layout.work())?;
    match dirs::read_small(dir.as_fd(), FILE, MAX_BYTES)? {
        Some(bytes) => parse(layout, &bytes),
        None => Ok(Vec::new()),
    }
}

/// One that cannot be read is left as it is: somebody may want to repair it.
fn parse(layout: &Layout, bytes: &[u8]) -> Result<Vec<Project>> {
    serde_json::from_slice(bytes).map_err(|e| {
        let path = layout.work().join(FILE);
        Error::integrity(format!("{} is not a registry of projects", path.display()))
            .with_source(e)
            .with_remedy("repair it, or move it away to begin anew; it was not changed")
    })
}

/// Changes the registry. When `change` fails, or changes nothing, the file stays as it is. Waits for whoever else changes
/// it, which nobody does for long.
pub(super) fn update<T>(layout: &Layout, change: impl FnOnce(&mut Vec<Project>) -> Result<T>) -> Result<T> {
    let dir = Layout::open(&layout.work())?;
    let _lock = lock::wait(dir.as_fd(), LOCK, Mode::Exclusive)?;
    let before = read(layout)?;
    let mut projects = before.clone();
    let value = change(&mut projects)?;
    if projects != before {
        let mut json = serde_json::to_vec_pretty(&projects).map_err(|e| {
            Error::internal("failed to write the registry of projects as JSON").with_source(e)
        })?;
        json.push(b'\n');
        dirs::write_atomic(dir.as_fd(), FILE, &json, Durable::New)?;
    }
    Ok(value)
}

/// The error of one that is not in it.
pub(super) fn unknown(name: &str) -> Error {
    Error::not_found(format!("project not found: {name}"))
}
