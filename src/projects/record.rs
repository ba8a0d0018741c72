//! What is kept of a container: which vessel it is, and what it was made from.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vesselrt_runtime::settings::NetworkMode;

use super::config::ContainerConfig;
use super::name::ProjectName;
use super::project::{parse_network, parse_ports};
use crate::error::{Error, Result};
use crate::store::dirs::{self, Durable};
use crate::store::lock::{self, FileLock};

/// Variables may be long.
const MAX_BYTES: u64 = 8 << 20;
/// An image may have to be pulled meanwhile.
const PATIENCE: Duration = Duration::from_secs(600);

/// `containers/NAME.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Id of the vessel, which need not be there: it is written down before it is made.
    pub(super) vessel: String,
    pub(super) image: String,
    #[serde(default)]
    pub(super) work_dir: String,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) ports: Vec<String>,
    #[serde(default)]
    pub(super) network: String,
    #[serde(default)]
    pub(super) command: Vec<String>,
    /// The process of the vessel that runs, or ran last.
    #[serde(default)]
    pub(super) process: Option<String>,
}

impl Record {
    pub(super) fn new(vessel: String, config: &ContainerConfig, network: NetworkMode) -> Self {
        Self {
            vessel,
            image: config.image.clone(),
            work_dir: config.work_dir.clone(),
            env: config.env.clone(),
            ports: config.ports.iter().map(ToString::to_string).collect(),
            network: network.as_str().to_owned(),
            command: config.command.clone(),
            process: None,
        }
    }

    /// What it was made from.
    pub(super) fn config(&self, name: &ProjectName) -> Result<ContainerConfig> {
        let mut config = ContainerConfig::new(name.as_str()).image(&self.image).work_dir(&self.work_dir);
        config.env.clone_from(&self.env);
        config.command.clone_from(&self.command);
        config.ports = parse_ports(name.as_str(), &self.ports)?;
        config.network = parse_network(name.as_str(), &self.network)?;
        Ok(config)
    }
}

fn file(name: &ProjectName) -> String {
    format!("{name}.json")
}

/// Locks the container of a project, alone; waits for whoever starts, stops or removes it. `None` when that takes too long.
pub(super) async fn hold(dir: &Arc<OwnedFd>, name: &ProjectName) -> Result<Option<FileLock>> {
    lock::within(dir, &format!("{name}.lock"), PATIENCE).await
}

pub(super) fn read(dir: &OwnedFd, name: &ProjectName) -> Result<Option<Record>> {
    let Some(bytes) = dirs::read_small(dir.as_fd(), &file(name), MAX_BYTES)? else { return Ok(None) };
    let wrong = |e| {
        Error::integrity(format!("what is known of container {} cannot be read", name.container()))
            .with_source(e)
    };
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}

pub(super) fn write(dir: &OwnedFd, name: &ProjectName, record: &Record) -> Result<()> {
    let json = serde_json::to_vec_pretty(record)
        .map_err(|e| Error::internal("failed to write a container as JSON").with_source(e))?;
    dirs::write_atomic(dir.as_fd(), &file(name), &json, Durable::New)
}

pub(super) fn remove(dir: &OwnedFd, name: &ProjectName) -> Result<()> {
    dirs::unlink(dir.as_fd(), &file(name))
}

/// The projects that have a record.
pub(super) fn names(dir: &OwnedFd) -> Result<Vec<ProjectName>> {
    let names = dirs::names(dir.as_fd())?;
    let mut names: Vec<ProjectName> = names
        .iter()
        .filter_map(|file| file.strip_suffix(".json"))
        .filter_map(|name| ProjectName::parse(name).ok())
        .collect();
    names.sort();
    Ok(names)
}
