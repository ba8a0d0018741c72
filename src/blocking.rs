//! The library for programs without an async runtime: the same names, and calls that block.
//!
//! A [`Manager`] has a runtime of its own, which its vessels, files and commands share. None of this may be called
//! from within an async runtime.
//!
//! ```no_run
//! use vesselrt::blocking::Manager;
//! use vesselrt::{ExecOptions, ManagerConfig};
//!
//! fn main() -> vesselrt::Result<()> {
//!     vesselrt::init();
//!     let manager = Manager::new(ManagerConfig::default())?;
//!     let vessel = manager.create_vessel("alpine", "/workspace")?;
//!     vessel.exec(ExecOptions::new(["touch", "a"]).persist_result(true))?;
//!     let snapshot = vessel.create_snapshot("a")?;
//!     vessel.restore_snapshot(&snapshot.id)?;
//!     vessel.close()
//! }
//! ```
#![forbid(unsafe_code)]

mod file;
mod host;
mod process;
mod snapshot_file;
mod users;
mod vessel;

pub use file::File;
pub use process::{Process, ProcessEvents, ProcessInput};
pub use snapshot_file::SnapshotFile;
pub use users::UserFiles;
pub use vessel::{Running, Vessel};

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::config::ManagerConfig;
use crate::error::{Error, Result};
use crate::manager::VesselStatus;
use crate::manager::commit::{CommitOptions, CommitProgress, CommitReport};
use crate::manager::create::CreateOptions;
use crate::manager::fork::ForkOptions;
use crate::manager::images::{ImageImport, ImportProgress, ImportReport};
use crate::manager::prune::{ImageUsage, PruneReport, VerifyReport};
use crate::manager::pull::{PullOptions, PullProgress, PullReport};
use crate::manager::push::{PushProgress, PushReport};
use crate::manager::save::SaveFormat;
use crate::manager::trees::TreeReport;
use crate::manager::usage::DiskUsage;
use crate::manager::volumes::Volume;
use vesselrt_storage::registry::Kept as CredentialsKept;
use vesselrt_storage::{ImageRecord, SnapshotManifest, VesselManifest};

/// The runtime of a manager and all that came from it.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Runtime>);

impl Shared {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("vesselrt")
            .enable_all()
            .build()
            .map_err(|e| Error::io("failed to start the async runtime", e))?;
        Ok(Self(Arc::new(runtime)))
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.block_on(future)
    }
}

/// [`crate::Manager`] for synchronous callers.
#[derive(Debug, Clone)]
pub struct Manager {
    inner: crate::Manager,
    runtime: Shared,
}

impl Manager {
    /// See [`crate::Manager::new`].
    ///
    /// # Errors
    /// As there.
    pub fn new(config: ManagerConfig) -> Result<Self> {
        let runtime = Shared::new()?;
        let inner = runtime.run(crate::Manager::new(config))?;
        Ok(Self { inner, runtime })
    }

    fn vessel(&self, inner: crate::Vessel) -> Vessel {
        Vessel::new(inner, self.runtime.clone())
    }

    /// See [`crate::Manager::config`].
    #[must_use]
    pub fn config(&self) -> &ManagerConfig {
        self.inner.config()
    }

    /// See [`crate::Manager::create_vessel`].
    ///
    /// # Errors
    /// As there.
    pub fn create_vessel(&self, image: &str, work_dir: &str) -> Result<Vessel> {
        self.runtime.run(self.inner.create_vessel(image, work_dir)).map(|vessel| self.vessel(vessel))
    }

    /// See [`crate::Manager::create_vessel_with`].
    ///
    /// # Errors
    /// As there.
    pub fn create_vessel_with(&self, options: CreateOptions) -> Result<Vessel> {
        self.runtime.run(self.inner.create_vessel_with(options)).map(|vessel| self.vessel(vessel))
    }

    /// See [`crate::Manager::create_vessel_telling`].
    ///
    /// # Errors
    /// As there.
    pub fn create_vessel_telling(
        &self,
        options: CreateOptions,
        progress: impl FnMut(PullProgress) + Send + 'static,
    ) -> Result<Vessel> {
        self.runtime
            .run(self.inner.create_vessel_telling(options, progress))
            .map(|vessel| self.vessel(vessel))
    }

    /// See [`crate::Manager::open_vessel`].
    ///
    /// # Errors
    /// As there.
    pub fn open_vessel(&self, id: &str) -> Result<Vessel> {
        self.runtime.run(self.inner.open_vessel(id)).map(|vessel| self.vessel(vessel))
    }

    /// See [`crate::Manager::fork_vessel`].
    ///
    /// # Errors
    /// As there.
    pub fn fork_vessel(&self, id: &str, options: ForkOptions) -> Result<Vec<VesselManifest>> {
        self.runtime.run(self.inner.fork_vessel(id, options))
    }

    /// See [`crate::Manager::delete_vessel`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_vessel(&self, id: &str) -> Result<()> {
        self.runtime.run(self.inner.delete_vessel(id))
    }

    /// See [`crate::Manager::disk_usage`].
    ///
    /// # Errors
    /// As there.
    pub fn disk_usage(&self, vessel: Option<&str>) -> Result<DiskUsage> {
        self.runtime.run(self.inner.disk_usage(vessel))
    }

    /// See [`crate::Manager::create_volume`].
    ///
    /// # Errors
    /// As there.
    pub fn create_volume(&self, name: Option<&str>) -> Result<Volume> {
        self.runtime.run(self.inner.create_volume(name))
    }

    /// See [`crate::Manager::list_volumes`].
    ///
    /// # Errors
    /// As there.
    pub fn list_volumes(&self) -> Result<Vec<Volume>> {
        self.runtime.run(self.inner.list_volumes())
    }

    /// See [`crate::Manager::volume`].
    ///
    /// # Errors
    /// As there.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        self.runtime.run(self.inner.volume(name))
    }

    /// See [`crate::Manager::volume_usage`].
    ///
    /// # Errors
    /// As there.
    pub fn volume_usage(&self, name: &str) -> Result<u64> {
        self.runtime.run(self.inner.volume_usage(name))
    }

    /// See [`crate::Manager::remove_volume`].
    ///
    /// # Errors
    /// As there.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        self.runtime.run(self.inner.remove_volume(name))
    }

    /// See [`crate::Manager::list_vessels`].
    ///
    /// # Errors
    /// As there.
    pub fn list_vessels(&self) -> Result<Vec<VesselManifest>> {
        self.runtime.run(self.inner.list_vessels())
    }

    /// See [`crate::Manager::vessel_manifest`].
    ///
    /// # Errors
    /// As there.
    pub fn vessel_manifest(&self, id: &str) -> Result<VesselManifest> {
        self.runtime.run(self.inner.vessel_manifest(id))
    }

    /// See [`crate::Manager::upkeep_vessel`].
    ///
    /// # Errors
    /// As there.
    pub fn upkeep_vessel(&self, id: &str) -> Result<()> {
        self.runtime.run(self.inner.upkeep_vessel(id))
    }

    /// See [`crate::Manager::wait_snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_snapshot(&self, id: &str, snapshot: Option<&str>) -> Result<Vec<SnapshotManifest>> {
        self.runtime.run(self.inner.wait_snapshot(id, snapshot))
    }

    /// See [`crate::Manager::vessel_status`].
    ///
    /// # Errors
    /// As there.
    pub fn vessel_status(&self, id: &str) -> Result<VesselStatus> {
        self.runtime.run(self.inner.vessel_status(id))
    }

    /// See [`crate::Manager::vessel_limits`].
    ///
    /// # Errors
    /// As there.
    pub fn vessel_limits(&self, id: &str) -> Result<crate::LimitsStatus> {
        self.runtime.run(self.inner.vessel_limits(id))
    }

    /// See [`crate::Manager::update_vessel`].
    ///
    /// # Errors
    /// As there.
    pub fn update_vessel(
        &self,
        id: &str,
        change: impl FnOnce(&mut crate::settings::Limits) + Send + 'static,
    ) -> Result<crate::LimitsStatus> {
        self.runtime.run(self.inner.update_vessel(id, change))
    }

    /// See [`crate::Manager::vessel_stats`].
    ///
    /// # Errors
    /// As there.
    pub fn vessel_stats(&self, id: &str) -> Result<crate::VesselStats> {
        self.runtime.run(self.inner.vessel_stats(id))
    }

    /// See [`crate::Manager::stop_vessel`].
    ///
    /// # Errors
    /// As there.
    pub fn stop_vessel(&self, id: &str) -> Result<bool> {
        self.runtime.run(self.inner.stop_vessel(id))
    }

    /// See [`crate::Manager::stop_all`].
    ///
    /// # Errors
    /// As there.
    pub fn stop_all(&self) -> Result<Vec<String>> {
        self.runtime.run(self.inner.stop_all())
    }

    /// See [`crate::Manager::import_image`].
    ///
    /// # Errors
    /// As there.
    pub fn import_image(
        &self,
        path: impl Into<PathBuf>,
        reference: &str,
        progress: impl FnMut(ImportProgress) + Send + 'static,
    ) -> Result<ImportReport> {
        self.runtime.run(self.inner.import_image(path, reference, progress))
    }

    /// See [`crate::Manager::import_image_with`].
    ///
    /// # Errors
    /// As there.
    pub fn import_image_with(
        &self,
        import: ImageImport,
        progress: impl FnMut(ImportProgress) + Send + 'static,
    ) -> Result<ImportReport> {
        self.runtime.run(self.inner.import_image_with(import, progress))
    }

    /// See [`crate::Manager::list_images`].
    ///
    /// # Errors
    /// As there.
    pub fn list_images(&self) -> Result<Vec<ImageRecord>> {
        self.runtime.run(self.inner.list_images())
    }

    /// See [`crate::Manager::inspect_image`].
    ///
    /// # Errors
    /// As there.
    pub fn inspect_image(&self, reference: &str) -> Result<ImageRecord> {
        self.runtime.run(self.inner.inspect_image(reference))
    }

    /// See [`crate::Manager::remove_image`].
    ///
    /// # Errors
    /// As there.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        self.runtime.run(self.inner.remove_image(reference))
    }

    /// See [`crate::Manager::commit_vessel`].
    ///
    /// # Errors
    /// As there.
    pub fn commit_vessel(
        &self,
        id: &str,
        options: CommitOptions,
        progress: impl FnMut(CommitProgress) + Send + 'static,
    ) -> Result<CommitReport> {
        self.runtime.run(self.inner.commit_vessel(id, options, progress))
    }

    /// See [`crate::Manager::pull_image`].
    ///
    /// # Errors
    /// As there.
    pub fn pull_image(
        &self,
        options: PullOptions,
        progress: impl FnMut(PullProgress) + Send + 'static,
    ) -> Result<PullReport> {
        self.runtime.run(self.inner.pull_image(options, progress))
    }

    /// See [`crate::Manager::push_image`].
    ///
    /// # Errors
    /// As there.
    pub fn push_image(
        &self,
        reference: &str,
        target: Option<&str>,
        progress: impl FnMut(PushProgress) + Send + 'static,
    ) -> Result<PushReport> {
        self.runtime.run(self.inner.push_image(reference, target, progress))
    }

    /// See [`crate::Manager::push_snapshots`].
    ///
    /// # Errors
    /// As there.
    pub fn push_snapshots(
        &self,
        id: &str,
        reference: &str,
        with_base: bool,
        progress: impl FnMut(PushProgress) + Send + 'static,
    ) -> Result<PushReport> {
        self.runtime.run(self.inner.push_snapshots(id, reference, with_base, progress))
    }

    /// See [`crate::Manager::pull_snapshots`].
    ///
    /// # Errors
    /// As there.
    pub fn pull_snapshots(
        &self,
        reference: &str,
        id: Option<&str>,
        progress: impl FnMut(PullProgress) + Send + 'static,
    ) -> Result<VesselManifest> {
        self.runtime.run(self.inner.pull_snapshots(reference, id, progress))
    }

    /// See [`crate::Manager::login`].
    ///
    /// # Errors
    /// As there.
    pub fn login(&self, host: &str, user: &str, password: &str) -> Result<CredentialsKept> {
        self.runtime.run(self.inner.login(host, user, password))
    }

    /// See [`crate::Manager::logout`].
    ///
    /// # Errors
    /// As there.
    pub fn logout(&self, host: &str) -> Result<bool> {
        self.runtime.run(self.inner.logout(host))
    }

    /// See [`crate::Manager::save_image`].
    ///
    /// # Errors
    /// As there.
    pub fn save_image(&self, reference: &str, format: SaveFormat, path: impl Into<PathBuf>) -> Result<()> {
        self.runtime.run(self.inner.save_image(reference, format, path))
    }

    /// See [`crate::Manager::save_image_to`].
    ///
    /// # Errors
    /// As there.
    pub fn save_image_to(
        &self,
        reference: &str,
        format: SaveFormat,
        out: impl std::io::Write + Send + 'static,
    ) -> Result<()> {
        self.runtime.run(self.inner.save_image_to(reference, format, out))
    }

    /// See [`crate::Manager::tag_image`].
    ///
    /// # Errors
    /// As there.
    pub fn tag_image(&self, source: &str, target: &str) -> Result<ImageRecord> {
        self.runtime.run(self.inner.tag_image(source, target))
    }

    /// See [`crate::Manager::image_usage`].
    ///
    /// # Errors
    /// As there.
    pub fn image_usage(&self) -> Result<Vec<ImageUsage>> {
        self.runtime.run(self.inner.image_usage())
    }

    /// See [`crate::Manager::prune_images`].
    ///
    /// # Errors
    /// As there.
    pub fn prune_images(&self, all: bool) -> Result<PruneReport> {
        self.runtime.run(self.inner.prune_images(all))
    }

    /// See [`crate::Manager::verify_images`].
    ///
    /// # Errors
    /// As there.
    pub fn verify_images(&self, reference: Option<&str>, repair: bool) -> Result<VerifyReport> {
        self.runtime.run(self.inner.verify_images(reference, repair))
    }

    /// See [`crate::Manager::verify_trees`].
    ///
    /// # Errors
    /// As there.
    pub fn verify_trees(&self, reference: Option<&str>, repair: bool) -> Result<TreeReport> {
        self.runtime.run(self.inner.verify_trees(reference, repair))
    }

    /// See [`crate::Manager::collect_garbage`].
    ///
    /// # Errors
    /// As there.
    pub fn collect_garbage(&self) -> Result<()> {
        self.runtime.run(self.inner.collect_garbage())
    }

    /// See [`crate::Manager::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self) -> Result<()> {
        self.runtime.run(self.inner.close())
    }
}
