//! What a container is and what is known of it.
#![forbid(unsafe_code)]

use serde::Serialize;
use time::OffsetDateTime;

use super::record::Record;
use crate::error::{ErrorKind, Result};
use crate::manager::Manager;

/// What the container of a project is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ProjectStatus {
    /// Id of the vessel; empty where there is none.
    pub container_id: String,
    /// It is up.
    pub running: bool,
    /// Reference of its image.
    pub image: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339::option")]
    pub created: Option<OffsetDateTime>,
}

/// A container in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ContainerInfo {
    /// The project.
    pub project: String,
    /// Its name, `vega-PROJECT`.
    pub name: String,
    /// What it is doing.
    #[serde(flatten)]
    pub status: ProjectStatus,
}

/// What the vessel of a record is doing; `None` where there is none.
pub(super) async fn look(manager: &Manager, record: &Record) -> Result<Option<ProjectStatus>> {
    let found = async {
        let manifest = manager.vessel_manifest(&record.vessel).await?;
        let running = manager.vessel_status(&record.vessel).await?;
        Ok(ProjectStatus {
            container_id: manifest.id,
            // One that merely is in use, or stays for a moment, was not started.
            running: running.running && running.kept,
            image: manifest.base_image_ref,
            created: Some(manifest.create_time),
        })
    };
    match found.await {
        Ok(status) => Ok(Some(status)),
        Err(e) => missing(e),
    }
}

fn missing<T>(error: crate::Error) -> Result<Option<T>> {
    if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) }
}
