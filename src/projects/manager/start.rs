//! Starting a container: the one that is there, or a new one.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::super::config::{ContainerConfig, WORKSPACE};
use super::super::container;
use super::super::name::ProjectName;
use super::super::record::{self, Record};
use super::super::{LABEL_BASE, LABEL_MANAGED_BY, LABEL_PROJECT, MANAGED_BY};
use super::{ContainerManager, Held};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::create::CreateOptions;
use crate::offload::blocking;
use crate::vessel::Vessel;
use crate::vessel::exec::ExecOptions;
use vesselrt_runtime::settings::{Mount, Network};

impl ContainerManager {
    /// Makes sure that the container of a project is up, and opens its vessel.
    pub(super) async fn start(
        &self,
        held: &Held,
        name: &ProjectName,
        config: Option<ContainerConfig>,
    ) -> Result<Vessel> {
        let known = self.read(held, name).await?;
        let status = match &known {
            Some(record) => container::look(self.vessels()?, record).await?,
            None => None,
        };
        match (known, status) {
            (Some(mut record), Some(status)) => {
                let before = record.clone();
                if let Some(config) = config.filter(|config| !config.env.is_empty()) {
                    record.env = config.env;
                }
                // Its directory may have been moved away.
                self.make_directory(name).await?;
                let vessel = self.vessels()?.open_vessel(&record.vessel).await?;
                if !status.running {
                    self.up(&vessel, &mut record).await?;
                }
                if record != before {
                    self.write(held, name, &record).await?;
                }
                Ok(vessel)
            }
            // Its vessel was removed behind our back: what it was made from is still known.
            (Some(record), None) => {
                let asked = config.filter(|config| *config != ContainerConfig::new(name.as_str()));
                let config = asked.map_or_else(|| record.config(name), Ok)?;
                self.create(held, name, config).await
            }
            (None, _) => {
                let config = config.unwrap_or_else(|| ContainerConfig::new(name.as_str()));
                self.create(held, name, config).await
            }
        }
    }

    async fn create(&self, held: &Held, name: &ProjectName, mut config: ContainerConfig) -> Result<Vessel> {
        if config.image.is_empty() {
            config.image.clone_from(&self.inner.config.default_image);
        }
        if config.work_dir.is_empty() {
            WORKSPACE.clone_into(&mut config.work_dir);
        }
        let made = self.make_directory(name).await?;
        let created = match self.create_vessel(held, name, &config).await {
            Ok((vessel, mut record)) => match self.up(&vessel, &mut record).await {
                Ok(()) => self.write(held, name, &record).await.map(|()| vessel),
                Err(error) => {
                    // Not half a container: the next start begins anew.
                    let _ = self.vessels()?.delete_vessel(vessel.id()).await;
                    Err(error)
                }
            },
            Err(error) => Err(error),
        };
        if created.is_err() {
            let (dir, layout, name) = (Arc::clone(&held.dir), self.inner.layout.clone(), name.clone());
            let _ = blocking(move || {
                if made {
                    layout.unmake_project(&name);
                }
                record::remove(&dir, &name)
            })
            .await;
        }
        created
    }

    /// Under the first of its ids that no other base directory has.
    async fn create_vessel(
        &self,
        held: &Held,
        name: &ProjectName,
        config: &ContainerConfig,
    ) -> Result<(Vessel, Record)> {
        let base = self.inner.layout.base();
        let network = config.network.unwrap_or(self.inner.config.network);
        let mut taken = None;
        for id in name.vessel_ids(&base) {
            let record = Record::new(id.clone(), config, network);
            // First, so that a crash leaves no vessel that nobody knows.
            self.write(held, name, &record).await?;
            let mut options = CreateOptions::new(&config.image).id(id).work_dir(&config.work_dir);
            options.settings.network = Network::new(network);
            options.settings.network.publish.clone_from(&config.ports);
            let mount = Mount::bind(self.inner.layout.project(name), WORKSPACE);
            options.settings.mounts.push(mount.map_err(|e| Error::invalid(e.to_string()))?);
            let options = options
                .label(LABEL_PROJECT, name.as_str())
                .label(LABEL_MANAGED_BY, MANAGED_BY)
                .label(LABEL_BASE, &base);
            match self.vessels()?.create_vessel_with(options).await {
                Ok(vessel) => return Ok((vessel, record)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => taken = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(taken.unwrap_or_else(|| Error::internal("a project has no id for its vessel")))
    }

    /// Lets the vessel stay, with the command that it has.
    async fn up(&self, vessel: &Vessel, record: &mut Record) -> Result<()> {
        if !record.command.is_empty() {
            let options = ExecOptions::new(record.command.iter().cloned());
            let options = options.envs(record.env.clone()).persist_result(true);
            record.process = Some(vessel.spawn_detached(options).await?.id());
        }
        vessel.keep(true).await
    }

    async fn make_directory(&self, name: &ProjectName) -> Result<bool> {
        let (layout, name) = (self.inner.layout.clone(), name.clone());
        blocking(move || layout.make_project(&name)).await
    }

    async fn write(&self, held: &Held, name: &ProjectName, record: &Record) -> Result<()> {
        let (dir, name, record) = (Arc::clone(&held.dir), name.clone(), record.clone());
        blocking(move || record::write(&dir, &name, &record)).await
    }
}
