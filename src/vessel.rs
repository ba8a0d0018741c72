//! [`Vessel`]: an open workspace.
//!
//! ```text
//!                    open_vessel / create_vessel
//!                               │
//!                               ▼            the shim is killed
//!   files, exec, snapshots ⇄  open  ───────────────────────────► lost
//!                               │  ▲                               │
//!                         close │  └────── the next operation ─────┘
//!                               ▼
//!                            closed: what was written stays on disk
//! ```
//!
//! A vessel holds one connection to its shim, the lease: the shim leaves when the last lease is gone. Every operation
//! has a connection of its own while it lasts, so operations of one vessel run side by side.
#![forbid(unsafe_code)]

pub(crate) mod diff;
pub(crate) mod exec;
pub(crate) mod file;
pub(crate) mod files;
mod fsids;
pub(crate) mod lease;
pub(crate) mod paths;
pub(crate) mod process;
pub(crate) mod pump;
pub(crate) mod session;
pub(crate) mod snapshot;
mod terminal;
pub(crate) mod user_files;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use vesselrt_runtime::settings::Limits;
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};

use crate::error::Result;
use crate::manager::limits::stats::VesselStats;
use crate::manager::limits::update::LimitsStatus;
use crate::manager::{Manager, ManagerInner, cat};
use crate::offload::detached;
use crate::state::{ImageDefaults, VesselState};
use diff::{Change, Contents, Diff, DiffOptions};
use exec::{ExecOptions, ExecResult};
use file::{File, OpenOptions};
use files::{DirEntry, FileInfo};
use lease::Lease;
use session::Running;
use snapshot::options::SnapshotOptions;

/// An open workspace. Clones are handles on the same one.
///
/// Paths are those inside; a relative one begins at the working directory of the vessel. They never leave it, whatever
/// symlinks there are. When the last handle is dropped, or on [`close`](Self::close), the shim leaves unless another process
/// has the vessel open too; what was written stays.
#[derive(Clone)]
pub struct Vessel {
    pub(crate) inner: Arc<VesselInner>,
}

/// What all handles of an open vessel share.
pub(crate) struct VesselInner {
    pub(crate) manager: Arc<ManagerInner>,
    pub(crate) id: String,
    pub(crate) image: ImageDefaults,
    pub(crate) manifest: RwLock<Arc<VesselManifest>>,
    /// How long a command may take that has no time of its own.
    pub(crate) timeout: RwLock<Option<Duration>>,
    pub(crate) lease: Lease,
}

impl Vessel {
    pub(crate) fn new(
        manager: Arc<ManagerInner>,
        manifest: Arc<VesselManifest>,
        image: ImageDefaults,
        limits: &Limits,
        lease: Lease,
    ) -> Self {
        let id = manifest.id.clone();
        let (manifest, timeout) = (RwLock::new(manifest), RwLock::new(timeout_of(limits)));
        Self { inner: Arc::new(VesselInner { manager, id, image, manifest, timeout, lease }) }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// A copy of the manifest as this handle last saw it.
    #[must_use]
    pub fn manifest(&self) -> VesselManifest {
        VesselManifest::clone(&self.inner.manifest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a file. Close it before a snapshot: a file that is open for writing is a
    /// [`Conflict`](crate::ErrorKind::Conflict) there.
    ///
    /// # Errors
    /// Those of open(2) by kind; [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is not a regular file.
    pub async fn open_file(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<File> {
        file::open(&self.inner, path.as_ref(), options).await
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`LimitExceeded`](crate::ErrorKind::LimitExceeded) for a file over
    /// [`Limits::read_file_bytes`](crate::Limits::read_file_bytes).
    pub async fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        files::read(&self.inner, path.as_ref()).await
    }

    /// Replaces a file as a whole, or creates it with the permission bits of `mode`: either the old content is there or
    /// the new. Directories above it must exist.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for the directory above; [`Unavailable`](crate::ErrorKind::Unavailable)
    /// when the disk is full.
    pub async fn write_file(&self, path: impl AsRef<Path>, data: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        files::write(&self.inner, path.as_ref(), data.as_ref(), mode).await
    }

    /// Removes a file, a symlink, or a directory that is empty.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Conflict`](crate::ErrorKind::Conflict) or the like for a directory with entries.
    pub async fn delete_file(&self, path: impl AsRef<Path>) -> Result<()> {
        files::delete(&self.inner, path.as_ref(), false).await
    }

    /// Removes a file, or a directory with everything in it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub async fn delete_all(&self, path: impl AsRef<Path>) -> Result<()> {
        files::delete(&self.inner, path.as_ref(), true).await
    }

    /// Renames a file or a directory; a file that has the new name is replaced.
    ///
    /// # Errors
    /// Those of rename(2) by kind.
    pub async fn rename_file(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        files::rename(&self.inner, from.as_ref(), to.as_ref()).await
    }

    /// Metadata of what `path` leads to: a symlink at its end is followed.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        files::stat(&self.inner, path.as_ref(), true).await
    }

    /// Metadata of `path` itself: a symlink at its end is not followed.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub async fn symlink_stat(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        files::stat(&self.inner, path.as_ref(), false).await
    }

    /// Makes a directory with the permission bits of `mode`.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists); [`NotFound`](crate::ErrorKind::NotFound) for the directory above.
    pub async fn make_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        files::make_dir(&self.inner, path.as_ref(), mode, false).await
    }

    /// Makes a directory and what is missing above it. One that is there is fine.
    ///
    /// # Errors
    /// Those of mkdir(2) by kind.
    pub async fn make_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        files::make_dir(&self.inner, path.as_ref(), mode, true).await
    }

    /// The entries of a directory, sorted by name, with their own metadata (symlinks are not followed).
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is no directory.
    pub async fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        files::read_dir(&self.inner, path.as_ref()).await
    }

    /// Reads a whole file of a snapshot, which is not restored.
    ///
    /// # Errors
    /// Those of [`Manager::open_snapshot_file`](crate::Manager::open_snapshot_file);
    /// [`LimitExceeded`](crate::ErrorKind::LimitExceeded) for a file over
    /// [`Limits::read_file_bytes`](crate::Limits::read_file_bytes).
    pub async fn read_snapshot_file(&self, snapshot: &str, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        cat::read(&self.inner.manager, &self.inner.id, snapshot, path.as_ref()).await
    }

    /// Unpacks a plain tar into the directory `path`, with the modes and times that it says.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for the directory;
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for a malformed archive; the error of `tar`.
    pub async fn copy_in(&self, path: impl AsRef<Path>, tar: impl AsyncRead + Send + Unpin) -> Result<()> {
        files::copy_in(&self.inner, path.as_ref(), tar).await
    }

    /// Packs the directory at `path` with everything in it as a plain tar.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); the error of `tar`.
    pub async fn copy_out(&self, path: impl AsRef<Path>, tar: impl AsyncWrite + Send + Unpin) -> Result<()> {
        files::copy_out(&self.inner, path.as_ref(), tar).await
    }

    /// Runs a command to its end. An exit code other than 0 is no error, nor is a command that was killed because
    /// its time was up ([`ExecResult::timed_out`]). Dropping the future kills the command with its whole process tree.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) "command is required";
    /// [`NotFound`](crate::ErrorKind::NotFound) and [`PermissionDenied`](crate::ErrorKind::PermissionDenied) for a program that
    /// cannot be executed, [`Unavailable`](crate::ErrorKind::Unavailable) when the shim was killed.
    pub async fn exec(&self, options: ExecOptions) -> Result<ExecResult> {
        session::exec(&self.inner, options).await
    }

    /// Starts a command, to signal it or to drive its terminal. Dropping the [`Running`] kills it.
    ///
    /// # Errors
    /// Those of [`Self::exec`].
    pub async fn spawn(&self, options: ExecOptions) -> Result<Running> {
        session::spawn(&self.inner, options).await
    }

    /// Starts a command that belongs to nobody: it runs until it ends, whoever closes the vessel meanwhile, and what it
    /// writes is logged. Its id is never given again in this vessel.
    ///
    /// # Errors
    /// Those of [`Self::exec`]; [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for options that name streams;
    /// [`LimitExceeded`](crate::ErrorKind::LimitExceeded) while 256 processes run.
    pub async fn spawn_detached(
        &self,
        options: impl Into<process::SpawnOptions>,
    ) -> Result<process::Process> {
        process::spawn(&self.inner, options.into()).await
    }

    /// The detached processes that are remembered: those that run, and the last hundred that have ended.
    ///
    /// # Errors
    /// Those of reading the store.
    pub async fn processes(&self) -> Result<Vec<process::ProcessInfo>> {
        process::list(Arc::clone(self.inner.lease.dir())).await
    }

    /// A detached process by its id.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "process not found: …".
    pub async fn process(&self, id: &str) -> Result<process::Process> {
        process::find(Arc::clone(self.inner.lease.dir()), id).await
    }

    /// Seals what changed since the last snapshot as a new one. Commands that run stand still while it is copied; the vessel
    /// stays on the snapshot that it is based on then.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) while a file is open for writing and no command runs;
    /// [`LimitExceeded`](crate::ErrorKind::LimitExceeded) when commands would stand still for too long; those of the storage.
    /// After an error there is no new snapshot.
    pub async fn create_snapshot(&self, message: &str) -> Result<SnapshotManifest> {
        self.create_snapshot_with(SnapshotOptions::new(message)).await
    }

    /// [`Self::create_snapshot`] with all options.
    ///
    /// # Errors
    /// Those of [`Self::create_snapshot`].
    pub async fn create_snapshot_with(&self, options: SnapshotOptions) -> Result<SnapshotManifest> {
        let inner = Arc::clone(&self.inner);
        detached(async move { snapshot::create(&inner, options).await }).await
    }

    /// Waits until the archive of a snapshot is in the storage; packs it if nobody does.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "snapshot not found: …"; those of the storage.
    pub async fn wait_snapshot(&self, snapshot: &str) -> Result<SnapshotManifest> {
        let (inner, snapshot) = (Arc::clone(&self.inner), snapshot.to_owned());
        let found =
            detached(async move { inner.manager.wait_snapshot(&inner.id, Some(&snapshot)).await }).await?;
        found.into_iter().next().ok_or_else(|| crate::error::Error::internal("nothing was waited for"))
    }

    /// Goes back to a snapshot: what changed since is thrown away. Later snapshots stay; the next one branches.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "snapshot not found: …"; [`Conflict`](crate::ErrorKind::Conflict) while a
    /// command runs or a file is open for writing;
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for a damaged archive. After an error nothing changed.
    pub async fn restore_snapshot(&self, snapshot: &str) -> Result<()> {
        let (inner, snapshot) = (Arc::clone(&self.inner), snapshot.to_owned());
        detached(async move { snapshot::restore(&inner, &snapshot).await }).await
    }

    /// Deletes a snapshot. Deleting the current one goes back to its parent first.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "snapshot not found: …"; [`Conflict`](crate::ErrorKind::Conflict) "cannot delete
    /// snapshot with children: …" or "cannot delete the only snapshot".
    pub async fn delete_snapshot(&self, snapshot: &str) -> Result<()> {
        let (inner, snapshot) = (Arc::clone(&self.inner), snapshot.to_owned());
        let how = snapshot::upkeep::SnapshotDeletion::new();
        detached(async move { snapshot::upkeep::delete(&inner, &snapshot, how).await.map(drop) }).await
    }

    /// All snapshots in the order of their creation, as the storage has them now.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn list_snapshots(&self) -> Result<Vec<SnapshotManifest>> {
        Ok(self.inner.reload().await?.named_snapshots())
    }

    /// What differs between two states: the image, snapshots, the vessel as it is now. Commands may run meanwhile; what
    /// they change then may be told or not.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "snapshot not found: …"; [`Conflict`](crate::ErrorKind::Conflict) while
    /// another operation changes the snapshots for longer than the configured time;
    /// [`LimitExceeded`](crate::ErrorKind::LimitExceeded) when more than two million paths differ.
    pub async fn diff(&self, options: DiffOptions) -> Result<Diff> {
        let inner = Arc::clone(&self.inner);
        detached(async move { diff::diff(&inner, options).await }).await
    }

    /// What some changes of a [`Self::diff`] have in them, on both sides: of files of up to `limit` bytes, and 256 MiB. All of
    /// it is held in memory: ask for many changes in parts.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) when the layers that were compared are not those of the vessel any more;
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for changes of another comparison.
    pub async fn read_changes(&self, diff: &Diff, changes: &[Change], limit: u64) -> Result<Vec<Contents>> {
        diff::read(&self.inner, diff, changes, limit).await
    }

    /// Replaces the labels of the vessel.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn set_labels(&self, labels: BTreeMap<String, String>) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        detached(async move { snapshot::set_labels(&inner, labels).await }).await
    }

    /// The limits, and by what they hold.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when the vessel was deleted.
    pub async fn limits(&self) -> Result<LimitsStatus> {
        self.manager().vessel_limits(&self.inner.id).await
    }

    /// Changes the limits, of what runs too; see [`Manager::update_vessel`]. Other processes that have the vessel open learn
    /// of another [`timeout`](Limits::timeout) when they open it again.
    ///
    /// # Errors
    /// Those of [`Manager::update_vessel`].
    pub async fn update(&self, change: impl FnOnce(&mut Limits) + Send + 'static) -> Result<LimitsStatus> {
        let status = self.manager().update_vessel(&self.inner.id, change).await?;
        *self.inner.timeout.write().unwrap_or_else(PoisonError::into_inner) = timeout_of(&status.limits);
        Ok(status)
    }

    /// What the commands use now.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when the vessel was deleted.
    pub async fn stats(&self) -> Result<VesselStats> {
        self.manager().vessel_stats(&self.inner.id).await
    }

    fn manager(&self) -> Manager {
        Manager::of(&self.inner.manager)
    }

    /// Whether the shim stays (true) when no process has the vessel open any more, until
    /// [`Manager::stop_vessel`](crate::Manager::stop_vessel).
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when the shim was killed.
    pub async fn keep(&self, keep: bool) -> Result<()> {
        self.inner.keep(keep).await
    }

    /// Lets the shim stay for `time` when no process has the vessel open any more, so that whoever opens it next need not
    /// start one. A shim that lingers keeps nobody waiting, and costs some memory.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when the shim was killed.
    pub async fn linger(&self, time: std::time::Duration) -> Result<()> {
        self.inner.linger(time).await
    }

    /// Closes this vessel for all its handles. When this process started the shim and nobody else uses it, it is gone
    /// when this returns, unless it [lingers](Self::linger). Commands that run go on until their [`Running`] is dropped,
    /// detached processes until they end.
    ///
    /// # Errors
    /// None at present.
    pub async fn close(&self) -> Result<()> {
        self.inner.lease.close().await;
        Ok(())
    }
}

fn timeout_of(limits: &Limits) -> Option<Duration> {
    limits.timeout_ms.map(Duration::from_millis)
}

impl VesselInner {
    /// How long a command may take that has no time of its own.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        *self.timeout.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The working directory.
    pub(crate) fn work_dir(&self) -> String {
        self.manifest.read().unwrap_or_else(PoisonError::into_inner).work_dir.clone()
    }

    /// The manifest as the storage has it now, remembered.
    pub(crate) async fn reload(&self) -> Result<Arc<VesselManifest>> {
        Ok(self.look().await?.0)
    }

    /// [`Self::reload`], and the state, if it can be read.
    pub(crate) async fn look(&self) -> Result<(Arc<VesselManifest>, Option<VesselState>)> {
        let found = self.manager.look(&self.id).await?;
        self.remember(&found.0);
        Ok(found)
    }

    pub(crate) fn remember(&self, manifest: &Arc<VesselManifest>) {
        *self.manifest.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(manifest);
    }
}

impl fmt::Debug for VesselInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VesselInner").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Vessel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vessel").field("id", &self.inner.id).finish_non_exhaustive()
    }
}
