//! What all verbs share: the global flags and how to get a manager.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use vesselrt::{Manager, ManagerConfig, OverlayDriver, Packer, Registries, Vessel};

use super::{Failure, Outcome};

pub(super) const GLOBAL: &str = "Global options";

/// Flags before or after any verb.
#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// Directory of the store [default: $XDG_DATA_HOME/vesselrt, or ~/.local/share/vesselrt]
    #[arg(help_heading = GLOBAL, long, global = true, value_name = "DIR", env = "VESSELRT_ROOT", hide_env_values = true)]
    root: Option<OsString>,
    /// Print JSON, also for errors
    #[arg(help_heading = GLOBAL, long, global = true)]
    json: bool,
    /// What stacks the layers of new vessels
    #[arg(help_heading = GLOBAL, long, global = true, value_enum, default_value_t, env = "VESSELRT_DRIVER", hide_env_values = true)]
    driver: DriverChoice,
    /// Show no progress and no notes
    #[arg(help_heading = GLOBAL, short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Tell more on standard error
    #[arg(help_heading = GLOBAL, short, long, global = true)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum DriverChoice {
    /// The kernel's overlayfs, and fuse-overlayfs where the kernel refuses
    #[default]
    Auto,
    /// The kernel's overlayfs or an error
    Kernel,
    /// fuse-overlayfs or an error
    Fuse,
}

impl From<DriverChoice> for OverlayDriver {
    fn from(choice: DriverChoice) -> Self {
        match choice {
            DriverChoice::Auto => Self::Auto,
            DriverChoice::Kernel => Self::Kernel,
            DriverChoice::Fuse => Self::Fuse,
        }
    }
}

/// What every verb gets.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    root: Option<PathBuf>,
    driver: OverlayDriver,
    /// Output is JSON.
    pub(crate) json: bool,
    /// No progress, no notes.
    pub(crate) quiet: bool,
    /// More notes.
    pub(crate) verbose: bool,
}

impl Context {
    pub(crate) fn new(globals: Globals) -> Self {
        Self {
            // An empty variable is as good as none.
            root: globals.root.filter(|root| !root.is_empty()).map(PathBuf::from),
            driver: globals.driver.into(),
            json: globals.json,
            quiet: globals.quiet,
            verbose: globals.verbose,
        }
    }

    /// The directory of the store.
    pub(crate) fn root(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(|| ManagerConfig::default().root)
    }

    /// A configuration for the store at `root`, with the driver that was asked for.
    pub(crate) fn config_at(&self, root: &Path) -> ManagerConfig {
        let registries = Registries::Load(vesselrt::registry::default_sources());
        // This program again: it goes on when this process has ended.
        let arguments = vec!["upkeep".into(), "--root".into(), root.into()];
        let packer = Packer::Process { program: "/proc/self/exe".into(), arguments };
        ManagerConfig::new(root).overlay(self.driver).registries(registries).packer(packer)
    }

    /// Opens the store.
    pub(crate) async fn manager(&self) -> Outcome<Manager> {
        // The store outlives whatever the working directory becomes.
        let root = std::path::absolute(self.root()).map_err(|e| Failure::io("find the store", e))?;
        Ok(Manager::new(self.config_at(&root)).await?)
    }

    /// Opens the store for the process that does what others leave to the background: it does that itself.
    pub(crate) async fn manager_for_upkeep(&self) -> Outcome<Manager> {
        let root = std::path::absolute(self.root()).map_err(|e| Failure::io("find the store", e))?;
        Ok(Manager::new(self.config_at(&root).packer(Packer::Tasks)).await?)
    }

    /// Opens a vessel, does something with it, and closes it whatever came of that.
    pub(crate) async fn with_vessel<T>(
        &self,
        id: &str,
        work: impl AsyncFnOnce(&Vessel) -> Outcome<T>,
    ) -> Outcome<T> {
        let vessel = self.manager().await?.open_vessel(id).await?;
        let outcome = work(&vessel).await;
        let closed = vessel.close().await;
        let value = outcome?;
        closed?;
        Ok(value)
    }
}
