//! What a [`Manager`] tells of this host and of vessels that are not open, for synchronous callers.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::Manager;
use crate::error::Result;
use crate::settings::Settings;

impl Manager {
    /// See [`crate::Manager::probe`].
    ///
    /// # Errors
    /// As there.
    pub fn probe(&self) -> Result<()> {
        self.runtime.run(self.inner.probe())
    }

    /// See [`crate::Manager::id_count`].
    #[must_use]
    pub fn id_count(&self) -> u32 {
        self.inner.id_count()
    }

    /// See [`crate::Manager::remove_host_tree`].
    ///
    /// # Errors
    /// As there.
    pub fn remove_host_tree(&self, path: impl Into<PathBuf>) -> Result<()> {
        self.runtime.run(self.inner.remove_host_tree(path))
    }

    /// See [`crate::Manager::vessel_settings`].
    ///
    /// # Errors
    /// As there.
    pub fn vessel_settings(&self, id: &str) -> Result<Settings> {
        self.runtime.run(self.inner.vessel_settings(id))
    }

    /// See [`crate::Manager::denied_connections`].
    ///
    /// # Errors
    /// As there.
    pub fn denied_connections(&self, id: &str) -> Result<Vec<crate::DeniedConnection>> {
        self.runtime.run(self.inner.denied_connections(id))
    }
}
