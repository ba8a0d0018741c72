//! [`Project`]: an entry of the registry.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vesselrt_runtime::settings::NetworkMode;
use vesselrt_runtime::settings::network::Publish;

use super::config::ContainerConfig;
use super::setters::setters;
use crate::error::{Error, Result};

/// What a project is doing, as far as the registry knows; [`ProjectRegistry::reconcile`](super::ProjectRegistry::reconcile)
/// looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProjectState {
    /// Its container is being made.
    Creating,
    /// It has no container: there were none to be had.
    Created,
    /// Its container runs.
    Running,
    /// Its container does not run.
    Stopped,
}

impl ProjectState {
    /// The name, as the registry's file has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ProjectState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An entry of the registry, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Project {
    /// The name.
    pub name: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Reference of its image.
    pub image: String,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// What it is doing.
    pub status: ProjectState,
    /// Variables of its commands.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Ports of the host that lead to servers inside, as they are typed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Its network: `none`, `host`, `isolated`; empty: the default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// What runs as long as its container does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// What somebody else wrote into the file, kept.
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

impl Project {
    pub(super) fn new(name: &str, options: ProjectOptions, default_image: &str) -> Self {
        let ProjectOptions { description, image, env, ports, network, command } = options;
        Self {
            name: name.to_owned(),
            description,
            image: if image.is_empty() { default_image.to_owned() } else { image },
            created: OffsetDateTime::now_utc(),
            status: ProjectState::Creating,
            env,
            ports: ports.iter().map(Publish::to_string).collect(),
            network: network.map_or_else(String::new, |mode| mode.as_str().to_owned()),
            command,
            other: serde_json::Map::new(),
        }
    }

    /// What its container is made from.
    ///
    /// # Errors
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for ports or a network that are none.
    pub(super) fn container(&self) -> Result<ContainerConfig> {
        let mut config = ContainerConfig::new(&self.name).image(&self.image);
        config.env.clone_from(&self.env);
        config.command.clone_from(&self.command);
        config.ports = parse_ports(&self.name, &self.ports)?;
        config.network = parse_network(&self.name, &self.network)?;
        Ok(config)
    }
}

pub(super) fn parse_ports(name: &str, ports: &[String]) -> Result<Vec<Publish>> {
    let bad = |e| Error::integrity(format!("project {name} has a port that is none")).with_source(e);
    ports.iter().map(|text| text.parse().map_err(bad)).collect()
}

pub(super) fn parse_network(name: &str, network: &str) -> Result<Option<NetworkMode>> {
    let modes = [NetworkMode::None, NetworkMode::Host, NetworkMode::Isolated];
    match modes.into_iter().find(|mode| mode.as_str() == network) {
        None if !network.is_empty() => {
            Err(Error::integrity(format!("project {name} has a network that is none: {network:?}")))
        }
        found => Ok(found),
    }
}

/// What a new project is made from. The setters return the changed value, to be chained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectOptions {
    /// What it is about.
    pub description: String,
    /// Reference of its image; empty: the default.
    pub image: String,
    /// Variables of its commands.
    pub env: BTreeMap<String, String>,
    /// Ports of the host that lead to servers inside.
    pub ports: Vec<Publish>,
    /// Its network; `None`: the default.
    pub network: Option<NetworkMode>,
    /// What runs as long as its container does; empty: nothing.
    pub command: Vec<String>,
}

impl ProjectOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what it is about.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }
}

setters!(ProjectOptions);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_fields_of_the_file_and_keeps_what_it_does_not_know() {
        let text = r#"{"name":"a","image":"i","created":"2025-01-02T03:04:05.678901234+02:00","status":"stopped","env":{"K":"v"},"x":1}"#;
        let project: Project = serde_json::from_str(text).unwrap();
        assert_eq!((project.status, project.env["K"].as_str()), (ProjectState::Stopped, "v"));
        let written = serde_json::to_value(&project).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).unwrap());
        let new = Project::new("b", ProjectOptions::new(), "node:20-slim");
        let keys = serde_json::to_value(&new).unwrap();
        assert_eq!(
            keys.as_object().unwrap().keys().collect::<Vec<_>>(),
            ["created", "image", "name", "status"]
        );
    }
}
