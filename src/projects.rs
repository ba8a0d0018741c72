//! Projects: a directory on this host with a vessel of its own around it, and a registry of them.
//!
//! [`ContainerManager`] keeps the vessels, one a project, [`ProjectRegistry`] the list in `vega.work/projects.json`. Everything is
//! below one base directory:
//!
//! ```text
//! BASE/vega.work/projects.json             the registry: a JSON array
//!                projects/NAME/            what is /workspace in the vessel of the project
//!                archive/projects/NAME-YYYY-MM-DD/
//!                containers/NAME.json      which vessel it is, and what it was made from
//!                containers/NAME.lock      held while it is started, stopped or removed
//! ```
//!
//! Any number of processes may work on one base directory. No lock is held while a vessel starts or a command runs but the one
//! of that project.
#![forbid(unsafe_code)]

mod archive;
mod capture;
mod config;
mod container;
mod fallback;
mod file;
mod layout;
mod manager;
mod name;
mod project;
mod record;
mod registry;
mod setters;

pub use capture::ExecOutput;
pub use config::{ContainerConfig, ContainerManagerConfig, DEFAULT_IMAGE, WORKSPACE};
pub use container::{ContainerInfo, ProjectStatus};
pub use fallback::LocalFallback;
pub use manager::{Availability, ContainerManager};
pub use name::ProjectName;
pub use project::{Project, ProjectOptions, ProjectState};
pub use registry::{Obtained, ProjectRegistry, STALE_PROJECT_AGE};

/// Label of a vessel that says whose it is.
pub const LABEL_PROJECT: &str = "vega.project";
/// Label of the vessels of projects.
pub const LABEL_MANAGED_BY: &str = "vega.managed-by";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "govega";
/// Label of a vessel that says below which base directory its project is.
pub const LABEL_BASE: &str = "vega.base";
