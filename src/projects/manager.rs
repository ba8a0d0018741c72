//! [`ContainerManager`]: the vessels of projects, one a project.
#![forbid(unsafe_code)]

mod logs;
mod start;
mod stop;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::capture::{Capture, ExecOutput};
use super::config::{ContainerConfig, ContainerManagerConfig};
use super::container::{self, ContainerInfo, ProjectStatus};
use super::layout::Layout;
use super::name::ProjectName;
use super::record::{self, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::Manager;
use crate::offload::{blocking, detached};
use crate::store::lock::FileLock;
use crate::vessel::Vessel;
use crate::vessel::exec::ExecOptions;

/// Whether this host can run vessels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Available,
    /// It cannot.
    Unavailable {
        /// Why.
        reason: String,
        /// What the user can do about it, where that is known.
        remedy: Option<String>,
    },
}

/// The vessels of projects, one a project. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct ContainerManager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ContainerManagerConfig,
    layout: Layout,
    /// Or why there is none.
    manager: std::result::Result<Manager, Availability>,
}

impl ContainerManager {
    /// Looks whether this host can run vessels, which [`Self::is_available`] then says: that it cannot is no error.
    ///
    /// # Errors
    /// Those of finding the base directory.
    pub async fn new(config: ContainerManagerConfig) -> Result<Self> {
        let layout = Layout::new(&config.base_dir)?;
        let manager = match Manager::new(config.manager.clone()).await {
            Ok(manager) => manager.probe().await.map(|()| manager),
            Err(error) => Err(error),
        };
        let manager = manager.map_err(|error| {
            let remedy = error.remedy().map(str::to_owned);
            Availability::Unavailable { reason: error.chain(), remedy }
        });
        Ok(Self { inner: Arc::new(Inner { config, layout, manager }) })
    }

    /// Whether this host can run vessels.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.inner.manager.is_ok()
    }

    /// Whether this host can run vessels, and why not.
    #[must_use]
    pub fn availability(&self) -> Availability {
        self.inner.manager.as_ref().err().cloned().unwrap_or(Availability::Available)
    }

    /// The manager of the vessels.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) "vessels not available" with the reason.
    pub fn vessels(&self) -> Result<&Manager> {
        self.manager_or("")
    }

    /// The image of a project that names none.
    #[must_use]
    pub fn default_image(&self) -> &str {
        &self.inner.config.default_image
    }

    pub(super) fn manager_or(&self, advice: &str) -> Result<&Manager> {
        self.inner.manager.as_ref().map_err(|why| unavailable(why, advice))
    }

    /// Starts the container of a project, which is made if there is none, and gives the id of its vessel. One that is
    /// there keeps what it was made from, but takes the variables. When it cannot be started a container that was there is
    /// still there, and so is the directory of the project.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) "vessels not available"; those of
    /// [`Manager::create_vessel`] and of the command; [`Conflict`](ErrorKind::Conflict) for a published port that is taken.
    pub async fn start_project(&self, config: ContainerConfig) -> Result<String> {
        let name = ProjectName::parse(&config.project_name)?;
        self.vessels()?;
        let own = self.clone();
        detached(async move {
            let held = own.hold(&name).await?;
            let vessel = own.start(&held, &name, Some(config)).await?;
            let id = vessel.id().to_owned();
            vessel.close().await?;
            Ok(id)
        })
        .await
    }

    /// Stops the container of a project. What runs in it gets SIGTERM and ten seconds. One that does not run is fine.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "container not found: …"; those of [`Manager::stop_vessel`].
    pub async fn stop_project(&self, project: &str) -> Result<()> {
        let name = ProjectName::parse(project)?;
        let (own, manager) = (self.clone(), self.vessels()?.clone());
        detached(async move {
            let held = own.hold(&name).await?;
            let (record, status) = own
                .find(&held, &name)
                .await?
                .ok_or_else(|| Error::not_found(format!("container not found: {}", name.container())))?;
            if status.running {
                stop::stop(&manager, &record.vessel, stop::STOP_GRACE).await?;
            }
            Ok(())
        })
        .await
    }

    /// Removes the container of a project; what runs in it gets SIGTERM and five seconds. The directory of the project
    /// stays. One that is not there is fine.
    ///
    /// # Errors
    /// Those of [`Manager::delete_vessel`].
    pub async fn remove_project(&self, project: &str) -> Result<()> {
        let name = ProjectName::parse(project)?;
        let (own, manager) = (self.clone(), self.vessels()?.clone());
        detached(async move {
            let held = own.hold(&name).await?;
            if let Some((record, status)) = own.find(&held, &name).await? {
                if status.running {
                    stop::stop(&manager, &record.vessel, stop::REMOVE_GRACE).await?;
                }
                match manager.delete_vessel(&record.vessel).await {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            blocking(move || record::remove(&held.dir, &name)).await
        })
        .await
    }

    /// Runs a command in the container of a project to its end. It is started if it does not run, and made, of the default
    /// image, if there is none. Without `work_dir` the command begins in the container's own. Dropping the future kills
    /// the command with its whole process tree.
    ///
    /// # Errors
    /// Those of [`Self::start_project`] and of [`Vessel::exec`].
    pub async fn exec(&self, project: &str, argv: &[String], work_dir: &str) -> Result<ExecOutput> {
        let (vessel, options) = self.command(project, argv, work_dir).await?;
        run(&vessel, options).await
    }

    /// What [`Self::exec`] runs, and the vessel to run it in, which is up: for streams of the caller's own. Close the vessel
    /// afterwards.
    ///
    /// # Errors
    /// Those of [`Self::start_project`].
    pub async fn command(
        &self,
        project: &str,
        argv: &[String],
        work_dir: &str,
    ) -> Result<(Vessel, ExecOptions)> {
        self.command_of(ContainerConfig::new(project), argv, work_dir).await
    }

    /// [`Self::command`], where a container that there is not is made of this.
    pub(super) async fn command_of(
        &self,
        config: ContainerConfig,
        argv: &[String],
        work_dir: &str,
    ) -> Result<(Vessel, ExecOptions)> {
        let name = ProjectName::parse(&config.project_name)?;
        self.manager_or("use direct mode")?;
        let own = self.clone();
        let (vessel, env) = detached(async move {
            let held = own.hold(&name).await?;
            let vessel = own.start(&held, &name, Some(config)).await?;
            let record = own.read(&held, &name).await?;
            Ok((vessel, record.map(|record| record.env).unwrap_or_default()))
        })
        .await?;
        let mut options = ExecOptions::new(argv.iter().cloned()).envs(env).persist_result(true);
        if !work_dir.is_empty() {
            options = options.work_dir(work_dir);
        }
        Ok((vessel, options))
    }

    /// The last lines, or all, of what the command of a container wrote to standard output and standard error, in the order in
    /// which it was written. What [`Self::exec`] runs is not logged.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "container not found: …".
    pub async fn get_logs(&self, project: &str, tail: Option<usize>) -> Result<String> {
        let name = ProjectName::parse(project)?;
        let manager = self.vessels()?.clone();
        let record = self
            .peek(&name)
            .await?
            .ok_or_else(|| Error::not_found(format!("container not found: {}", name.container())))?;
        logs::read(&manager, &record, tail).await
    }

    /// What the container of a project is doing. One that is not there, or cannot be looked at, does not run.
    pub async fn get_project_status(&self, project: &str) -> ProjectStatus {
        let looked = async {
            let record = self.peek(&ProjectName::parse(project)?).await?;
            match record {
                Some(record) => container::look(self.vessels()?, &record).await,
                None => Ok(None),
            }
        };
        looked.await.ok().flatten().unwrap_or_default()
    }

    /// The containers of this base directory, those that do not run too; none where vessels are not available.
    ///
    /// # Errors
    /// Those of reading the store.
    pub async fn list_project_containers(&self) -> Result<Vec<ContainerInfo>> {
        let Ok(manager) = self.vessels() else { return Ok(Vec::new()) };
        let layout = self.inner.layout.clone();
        let mut containers = Vec::new();
        for name in blocking(move || record::names(&layout.containers()?)).await? {
            let Some(record) = self.peek(&name).await? else { continue };
            if let Some(status) = container::look(manager, &record).await? {
                containers.push(ContainerInfo { project: name.to_string(), name: name.container(), status });
            }
        }
        Ok(containers)
    }

    /// Waits until what was deleted is removed.
    ///
    /// # Errors
    /// Those of [`Manager::close`].
    pub async fn close(&self) -> Result<()> {
        match &self.inner.manager {
            Ok(manager) => manager.close().await,
            Err(_) => Ok(()),
        }
    }

    /// Not on a thread of the runtime: whoever has the lock may need one.
    async fn hold(&self, name: &ProjectName) -> Result<Held> {
        let layout = self.inner.layout.clone();
        let dir = Arc::new(blocking(move || layout.containers()).await?);
        let busy = || Error::conflict(format!("container {} is being started or stopped", name.container()));
        let lock = record::hold(&dir, name).await?.ok_or_else(busy)?;
        Ok(Held { dir, _lock: lock })
    }

    /// The record, for which nobody waits.
    async fn peek(&self, name: &ProjectName) -> Result<Option<Record>> {
        let (layout, name) = (self.inner.layout.clone(), name.clone());
        blocking(move || record::read(&layout.containers()?, &name)).await
    }

    async fn read(&self, held: &Held, name: &ProjectName) -> Result<Option<Record>> {
        let (dir, name) = (Arc::clone(&held.dir), name.clone());
        blocking(move || record::read(&dir, &name)).await
    }

    /// The container of a project, if its vessel is there.
    async fn find(&self, held: &Held, name: &ProjectName) -> Result<Option<(Record, ProjectStatus)>> {
        let Some(record) = self.read(held, name).await? else { return Ok(None) };
        let status = container::look(self.vessels()?, &record).await?;
        Ok(status.map(|status| (record, status)))
    }
}

/// The lock of one container.
struct Held {
    dir: Arc<OwnedFd>,
    _lock: FileLock,
}

/// Runs a command in an open vessel, keeps what it says, and closes the vessel.
pub(super) async fn run(vessel: &Vessel, options: ExecOptions) -> Result<ExecOutput> {
    let (out, err) = (Capture::default(), Capture::default());
    let ran = vessel.exec(options.stdout(out.stream()).stderr(err.stream())).await;
    vessel.close().await?;
    Ok(ExecOutput::new(ran?.exit_code, &out, &err))
}

fn unavailable(why: &Availability, advice: &str) -> Error {
    let (reason, remedy) = match why {
        Availability::Unavailable { reason, remedy } => (reason.clone(), remedy.clone()),
        Availability::Available => Default::default(),
    };
    let advice = if advice.is_empty() { String::new() } else { format!(" - {advice}") };
    let kind = ErrorKind::Unsupported { what: reason.clone(), remedy: remedy.unwrap_or_default() };
    Error::new(kind, format!("vessels not available{advice}")).with_source(reason)
}

/// The error of a registry that has no manager.
pub(super) fn none(advice: &str) -> Error {
    let reason = "the registry was opened without a manager of containers".to_owned();
    unavailable(&Availability::Unavailable { reason, remedy: None }, advice)
}
