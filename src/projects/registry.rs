//! [`ProjectRegistry`]: the list of projects, and what is done with them by name.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::archive;
use super::capture::ExecOutput;
use super::config::DEFAULT_IMAGE;
use super::fallback::LocalFallback;
use super::file::{self, unknown};
use super::layout::Layout;
use super::manager::{ContainerManager, none, run};
use super::name::ProjectName;
use super::project::{Project, ProjectOptions, ProjectState};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::{blocking, detached};
use crate::vessel::Vessel;
use crate::vessel::exec::ExecOptions;

/// How old a project must be, and how long its directory must not have changed, to be stale: 30 days.
pub const STALE_PROJECT_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The list of projects. Clones are handles on the same one; it is read from its file whenever it is asked, so that any number
/// of processes see the same.
#[derive(Debug, Clone)]
pub struct ProjectRegistry {
    layout: Arc<Layout>,
    containers: Option<ContainerManager>,
}

/// A project that was there or was created.
#[derive(Debug)]
#[non_exhaustive]
pub struct Obtained {
    /// The project.
    pub project: Project,
    /// It is new.
    pub created: bool,
    /// It was there, and its container could not be started.
    pub warning: Option<Error>,
}

impl ProjectRegistry {
    /// The registry below `base_dir`, which is made if missing. Without a manager of containers there is the list, and
    /// nothing runs.
    ///
    /// # Errors
    /// [`IntegrityViolation`](ErrorKind::IntegrityViolation) for a file that is no registry, which is not changed; those of
    /// making directories.
    pub async fn new(base_dir: impl AsRef<Path>, containers: Option<ContainerManager>) -> Result<Self> {
        let layout = Arc::new(Layout::new(base_dir.as_ref())?);
        let own = Arc::clone(&layout);
        blocking(move || {
            Layout::open(&own.projects())?;
            file::read(&own).map(drop)
        })
        .await?;
        Ok(Self { layout, containers })
    }

    /// The manager of the containers.
    #[must_use]
    pub fn containers(&self) -> Option<&ContainerManager> {
        self.containers.as_ref()
    }

    /// Creates a project: its directory, its entry, and, where vessels are available, its container, which is started.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) "project already exists: …"; those of
    /// [`ContainerManager::start_project`]. After an error there is no entry, and a directory that was there is as it was.
    pub async fn create_project(&self, name: &str, description: &str, image: &str) -> Result<Project> {
        self.create_project_with(name, ProjectOptions::new().description(description).image(image)).await
    }

    /// [`Self::create_project`] with all options.
    ///
    /// # Errors
    /// Those of [`Self::create_project`].
    pub async fn create_project_with(&self, name: &str, options: ProjectOptions) -> Result<Project> {
        let (own, name) = (self.clone(), ProjectName::parse(name)?);
        detached(async move { own.create(&name, options).await }).await
    }

    async fn create(&self, name: &ProjectName, options: ProjectOptions) -> Result<Project> {
        let default = self.containers.as_ref().map_or(DEFAULT_IMAGE, ContainerManager::default_image);
        let project = Project::new(name.as_str(), options, default);
        let (layout, new, taken) = (Arc::clone(&self.layout), project.clone(), name.clone());
        let made = blocking(move || {
            // The entry first: it is what reserves the name.
            file::update(&layout, |projects| match projects.iter().any(|other| other.name == new.name) {
                true => {
                    Err(Error::new(ErrorKind::AlreadyExists, format!("project already exists: {}", new.name)))
                }
                false => {
                    projects.push(new);
                    Ok(())
                }
            })?;
            layout.make_project(&taken)
        })
        .await;
        let begun = match made {
            Ok(made) => self.begin(&project).await.map_err(|error| (error, made)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(e),
            Err(error) => Err((error, false)),
        };
        match begun {
            Ok(status) => match self.set_status(name, status).await? {
                Some(project) => Ok(project),
                None => {
                    self.remove_container(name).await?;
                    Err(unknown(name.as_str()))
                }
            },
            Err((error, made)) => {
                self.drop_entry(name, made).await?;
                Err(error)
            }
        }
    }

    /// Starts a project that is new, if that is possible here.
    async fn begin(&self, project: &Project) -> Result<ProjectState> {
        match self.available() {
            None => Ok(ProjectState::Created),
            Some(containers) => {
                let name = &project.name;
                containers.start_project(project.container()?).await.map_err(|e| failed_to_start(name, e))?;
                Ok(ProjectState::Running)
            }
        }
    }

    /// A project by its name.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "project not found: …".
    pub async fn get_project(&self, name: &str) -> Result<Project> {
        let projects = self.list_projects().await?;
        projects.into_iter().find(|project| project.name == name).ok_or_else(|| unknown(name))
    }

    /// A project that is there, whose container is started if that is possible, or a new one. Of two that ask for the same
    /// at once one creates it.
    ///
    /// # Errors
    /// Those of [`Self::create_project`], for a new one. That the container of one that was there could not be started is
    /// [`Obtained::warning`].
    pub async fn get_or_create_project(&self, name: &str, options: ProjectOptions) -> Result<Obtained> {
        match self.create_project_with(name, options).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            created => {
                return created.map(|project| Obtained { project, created: true, warning: None });
            }
        }
        let project = self.get_project(name).await?;
        if self.available().is_none() || project.status == ProjectState::Creating {
            return Ok(Obtained { project, created: false, warning: None });
        }
        let warning = self.start_project(name).await.err();
        Ok(Obtained { project: self.get_project(name).await?, created: false, warning })
    }

    /// All projects, in the order of their creation.
    ///
    /// # Errors
    /// [`IntegrityViolation`](ErrorKind::IntegrityViolation) for a file that is no registry.
    pub async fn list_projects(&self) -> Result<Vec<Project>> {
        let layout = Arc::clone(&self.layout);
        blocking(move || file::read(&layout)).await
    }

    /// Removes a project: its container and its entry. Its directory stays.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "project not found: …"; those of [`ContainerManager::remove_project`], after which
    /// it is still there.
    pub async fn delete_project(&self, name: &str) -> Result<()> {
        self.get_project(name).await?;
        let (own, name) = (self.clone(), name.to_owned());
        detached(async move {
            // What is no name has neither a container nor a directory of ours.
            if let Ok(name) = ProjectName::parse(&name) {
                own.remove_container(&name).await?;
            }
            own.forget(&name).await
        })
        .await
    }

    /// Starts the container of a project.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "project not found: …"; [`Unsupported`](ErrorKind::Unsupported) "vessels not
    /// available"; those of [`ContainerManager::start_project`].
    pub async fn start_project(&self, name: &str) -> Result<()> {
        let project = self.get_project(name).await?;
        let (own, containers) = (self.clone(), self.required("")?.clone());
        detached(async move {
            let name = ProjectName::parse(&project.name)?;
            containers.start_project(project.container()?).await?;
            own.set_status(&name, ProjectState::Running).await.map(drop)
        })
        .await
    }

    /// Stops the container of a project.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "project not found: …" or "container not found: …";
    /// [`Unsupported`](ErrorKind::Unsupported) "vessels not available".
    pub async fn stop_project(&self, name: &str) -> Result<()> {
        self.get_project(name).await?;
        let (own, containers, name) = (self.clone(), self.required("")?.clone(), ProjectName::parse(name)?);
        detached(async move {
            containers.stop_project(name.as_str()).await?;
            own.set_status(&name, ProjectState::Stopped).await.map(drop)
        })
        .await
    }

    /// Runs a command in `/workspace` of a project's container, which is started if it does not run. Dropping the future
    /// kills the command with its whole process tree.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "project not found: …"; [`Unsupported`](ErrorKind::Unsupported) "vessels not
    /// available - use direct mode": nothing is run on the host then, unless [`Self::exec_or_local`] is asked to.
    pub async fn exec(&self, name: &str, argv: &[String]) -> Result<ExecOutput> {
        let (vessel, options) = self.command(name, argv, "").await?;
        run(&vessel, options).await
    }

    /// What [`Self::exec`] runs, and the open vessel to run it in: for streams of the caller's own, or another working
    /// directory. Close the vessel afterwards.
    ///
    /// # Errors
    /// Those of [`Self::exec`].
    pub async fn command(
        &self,
        name: &str,
        argv: &[String],
        work_dir: &str,
    ) -> Result<(Vessel, ExecOptions)> {
        let project = self.get_project(name).await?;
        let containers = self.required("use direct mode")?;
        let found = containers.command_of(project.container()?, argv, work_dir).await?;
        if project.status != ProjectState::Running {
            self.set_status(&ProjectName::parse(name)?, ProjectState::Running).await?;
        }
        Ok(found)
    }

    /// Runs what [`Self::command`] gave and closes the vessel.
    ///
    /// # Errors
    /// Those of [`Vessel::exec`].
    pub async fn run(vessel: &Vessel, options: ExecOptions) -> Result<ExecOutput> {
        run(vessel, options).await
    }

    /// [`Self::exec`], and on this host, without any isolation, where vessels are not available.
    ///
    /// # Errors
    /// Those of [`Self::exec`] and of [`LocalFallback::exec`].
    pub async fn exec_or_local(
        &self,
        name: &str,
        argv: &[String],
        local: &LocalFallback,
    ) -> Result<ExecOutput> {
        if self.available().is_some() {
            return self.exec(name, argv).await;
        }
        let project = self.get_project(name).await?;
        local.exec(name, argv, "", &project.env).await
    }

    /// The directory of a project on this host, whether it exists or not.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for what is no name.
    pub fn get_project_path(&self, name: &str) -> Result<PathBuf> {
        Ok(self.layout.project(&ProjectName::parse(name)?))
    }

    /// Looks which containers run, and has the registry say so. Nothing where vessels are not available.
    ///
    /// # Errors
    /// Those of the registry's file.
    pub async fn reconcile(&self) -> Result<()> {
        let Some(containers) = self.available() else { return Ok(()) };
        // Looked at without the lock of the file, which others need meanwhile.
        for project in self.list_projects().await? {
            let Ok(name) = ProjectName::parse(&project.name) else { continue };
            let running = containers.get_project_status(name.as_str()).await.running;
            let status = if running { ProjectState::Running } else { ProjectState::Stopped };
            let (layout, seen) = (Arc::clone(&self.layout), project.status);
            blocking(move || {
                file::update(&layout, |projects| {
                    let entry = projects.iter_mut().find(|entry| entry.name == name.as_str());
                    // Whoever changed it since knows better.
                    if let Some(entry) = entry.filter(|entry| entry.status == seen) {
                        entry.status = status;
                    }
                    Ok(())
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Moves the directories of projects that are older than [`STALE_PROJECT_AGE`] to the archive, removes their containers
    /// and entries, and says which they were. An entry whose directory is gone is removed, too.
    ///
    /// # Errors
    /// The first that is met, after all have been tried: a project that failed keeps directory and entry.
    pub async fn archive_stale_projects(&self) -> Result<Vec<String>> {
        self.archive_older_than(STALE_PROJECT_AGE).await
    }

    /// [`Self::archive_stale_projects`] with another age.
    ///
    /// # Errors
    /// Those of [`Self::archive_stale_projects`].
    pub async fn archive_older_than(&self, age: Duration) -> Result<Vec<String>> {
        let own = self.clone();
        detached(async move { archive::archive(&own, age).await }).await
    }

    pub(super) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn available(&self) -> Option<&ContainerManager> {
        self.containers.as_ref().filter(|containers| containers.is_available())
    }

    fn required(&self, advice: &str) -> Result<&ContainerManager> {
        let containers = self.containers.as_ref().ok_or_else(|| none(advice))?;
        containers.manager_or(advice).map(|_| containers)
    }

    pub(super) async fn remove_container(&self, name: &ProjectName) -> Result<()> {
        match self.available() {
            Some(containers) => containers.remove_project(name.as_str()).await,
            None => Ok(()),
        }
    }

    /// The project as it is then; `None` when it was deleted meanwhile.
    async fn set_status(&self, name: &ProjectName, status: ProjectState) -> Result<Option<Project>> {
        let (layout, name) = (Arc::clone(&self.layout), name.clone());
        blocking(move || {
            file::update(&layout, |projects| {
                let entry = projects.iter_mut().find(|entry| entry.name == name.as_str());
                Ok(entry.map(|entry| {
                    entry.status = status;
                    entry.clone()
                }))
            })
        })
        .await
    }

    pub(super) async fn forget(&self, name: &str) -> Result<()> {
        let (layout, name) = (Arc::clone(&self.layout), name.to_owned());
        blocking(move || {
            file::update(&layout, |projects| {
                projects.retain(|entry| entry.name != name);
                Ok(())
            })
        })
        .await
    }

    /// Undoes a creation that failed.
    async fn drop_entry(&self, name: &ProjectName, made: bool) -> Result<()> {
        self.forget(name.as_str()).await?;
        let (layout, name) = (Arc::clone(&self.layout), name.clone());
        blocking(move || {
            if made {
                layout.unmake_project(&name);
            }
            Ok(())
        })
        .await
    }
}

fn failed_to_start(name: &str, error: Error) -> Error {
    let (kind, remedy) = (error.kind(), error.remedy().map(str::to_owned));
    let outer = Error::new(kind, format!("failed to start container of project {name}")).with_source(error);
    match remedy {
        Some(remedy) => outer.with_remedy(remedy),
        None => outer,
    }
}
