//! [`ContainerManagerConfig`] and [`ContainerConfig`]: what containers are made from.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use vesselrt_runtime::settings::NetworkMode;
use vesselrt_runtime::settings::network::Publish;

use super::setters::setters;
use crate::config::ManagerConfig;

/// The image of a project that names none.
pub const DEFAULT_IMAGE: &str = "node:20-slim";
/// Where the directory of a project is in its vessel.
pub const WORKSPACE: &str = "/workspace";

/// What a [`ContainerManager`](super::ContainerManager) is built from. The setters return the changed value, to be chained.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ContainerManagerConfig {
    /// The directory that has `vega.work`, made if missing.
    pub base_dir: PathBuf,
    /// The store of the vessels.
    pub manager: ManagerConfig,
    /// The image of a project that names none. Default: [`DEFAULT_IMAGE`].
    pub default_image: String,
    /// The network of a project that names none. Each project has one of its own. Default: with a way out.
    pub network: NetworkMode,
}

impl ContainerManagerConfig {
    /// Projects below `base_dir`, with their vessels in the store of `manager`.
    #[must_use]
    pub fn new(base_dir: impl Into<PathBuf>, manager: ManagerConfig) -> Self {
        let default_image = DEFAULT_IMAGE.to_owned();
        Self { base_dir: base_dir.into(), manager, default_image, network: NetworkMode::Isolated }
    }

    /// Sets the image of a project that names none.
    #[must_use]
    pub fn default_image(mut self, image: impl Into<String>) -> Self {
        self.default_image = image.into();
        self
    }

    /// Sets the network of a project that names none.
    #[must_use]
    pub fn network(mut self, mode: NetworkMode) -> Self {
        self.network = mode;
        self
    }
}

/// What the container of a project is made from. The setters return the changed value, to be chained.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerConfig {
    /// The project.
    pub project_name: String,
    /// Reference of the image; empty: the manager's default.
    pub image: String,
    /// Where commands begin; empty: [`WORKSPACE`].
    pub work_dir: String,
    /// Variables of every command, also after a restart.
    pub env: BTreeMap<String, String>,
    /// Ports of the host that lead to servers inside.
    pub ports: Vec<Publish>,
    /// The network; `None`: the manager's default.
    pub network: Option<NetworkMode>,
    /// What runs as long as the container does, and is logged; empty: nothing.
    pub command: Vec<String>,
}

impl ContainerConfig {
    /// The container of a project, without further ado.
    #[must_use]
    pub fn new(project_name: impl Into<String>) -> Self {
        Self {
            project_name: project_name.into(),
            image: String::new(),
            work_dir: String::new(),
            env: BTreeMap::new(),
            ports: Vec::new(),
            network: None,
            command: Vec::new(),
        }
    }

    /// Sets where commands begin.
    #[must_use]
    pub fn work_dir(mut self, dir: impl Into<String>) -> Self {
        self.work_dir = dir.into();
        self
    }
}

setters!(ContainerConfig);
