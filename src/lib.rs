//! vesselrt: workspaces for AI agents on plain Linux.
//!
//! A [`Vessel`] is a workspace: an OCI image as a read-only base, a writable layer on top, commands run inside, files
//! read and written from outside, snapshots that can be listed and restored. No daemon, no root. A [`Manager`] makes
//! and opens vessels in a store on disk.
//!
//! ```no_run
//! use vesselrt::{ExecOptions, Manager, ManagerConfig};
//!
//! #[tokio::main]
//! async fn main() -> vesselrt::Result<()> {
//!     vesselrt::init(); // must be first: becomes the shim when re-executed
//!     let manager = Manager::new(ManagerConfig::default()).await?;
//!     let vessel = manager.create_vessel("docker.io/library/alpine:latest", "/workspace").await?;
//!     let hello = ["sh", "-c", "echo hello > output.txt"];
//!     let done = vessel.exec(ExecOptions::new(hello).persist_result(true)).await?;
//!     assert_eq!(done.exit_code, 0);
//!     let data: Vec<u8> = vessel.read_file("output.txt").await?;
//!     assert_eq!(data, b"hello\n");
//!     let snap = vessel.create_snapshot("init workspace").await?;
//!     vessel.delete_file("output.txt").await?;
//!     vessel.restore_snapshot(&snap.id).await?;
//!     vessel.close().await
//! }
//! ```
//!
//! [`blocking`] has the same for programs without an async runtime.
//!
//! Where things are: `manager` and `vessel` are the public verbs; `store` the directories on disk; `state` and `recover`
//! what a vessel's local state is and how a crash is made good; `vesselrt-runtime` the Linux mechanism (shim, overlay,
//! containers); `vesselrt-storage` the durable bytes (manifests, archives, images).
#![forbid(unsafe_code)]

pub mod blocking;
mod config;
#[cfg(any(feature = "serve", feature = "vm"))]
mod database;
mod error;
mod gateway;
mod history;
mod manager;
mod merge;
mod offload;
pub mod projects;
pub mod quick;
mod recover;
#[cfg(feature = "serve")]
pub mod serve;
mod state;
mod store;
mod vessel;
#[cfg(feature = "vm")]
pub mod vm;

pub use config::{Limits, ManagerConfig, OverlayDriver, Packer, PullPolicy, Registries};
pub use error::{Error, ErrorKind, Result};
pub use gateway::log::DeniedConnection;
pub use manager::cat::{SnapshotFile, SnapshotRead};
pub use manager::commit::{CommitOptions, CommitProgress, CommitReport, LayerCompression};
pub use manager::create::CreateOptions;
pub use manager::fork::ForkOptions;
pub use manager::images::{ImageImport, ImportProgress, ImportReport};
pub use manager::limits::Enforcement;
pub use manager::limits::stats::VesselStats;
pub use manager::limits::update::LimitsStatus;
pub use manager::prune::{DamagedBlob, ImageUsage, PruneReport, VerifyReport};
pub use manager::pull::{BlobState, PullOptions, PullProgress, PullReport};
pub use manager::push::{PushProgress, PushReport, PushState};
pub use manager::save::SaveFormat;
pub use manager::trees::{DamagedTree, TreeReport};
pub use manager::usage::{DiskUsage, SnapshotUsage, UsageTotal, VesselUsage};
pub use manager::volumes::Volume;
pub use manager::{Manager, VesselStatus};
pub use vessel::Vessel;
pub use vessel::diff::{
    Change, ChangeKind, ChangedFile, Content, Contents, Diff, DiffOptions, DiffPoint, Differences,
};
pub use vessel::exec::{ExecOptions, ExecResult, TIMEOUT_EXIT_CODE};
pub use vessel::file::{File, OpenOptions};
pub use vessel::files::{DirEntry, FileInfo, FileType};
pub use vessel::process::events::{LogOptions, LogStart, ProcessEvent, ProcessEvents};
pub use vessel::process::input::ProcessInput;
pub use vessel::process::{EndCause, Process, ProcessEnd, ProcessInfo, SpawnOptions};
pub use vessel::session::Running;
pub use vessel::snapshot::options::SnapshotOptions;
pub use vessel::snapshot::upkeep::{SnapshotDeletion, SnapshotPruning, SnapshotsDeleted};
pub use vessel::user_files::UserFiles;
pub use vesselrt_runtime::cgroup::GroupUsage;
pub use vesselrt_runtime::settings;
pub use vesselrt_storage::manifest::{SnapshotManifest, SnapshotMode, VesselManifest};
pub use vesselrt_storage::registry::{self, Kept as CredentialsKept, RegistryConfig};
pub use vesselrt_storage::{
    ArchiveUsage, ByteStream, CompressedStorage, Digest, IdGenerator, LocalStorage, RandomAccess, Reference,
    Storage, StorageError, StorageErrorKind, UniqueIdGenerator, VesselFork,
};
pub use vesselrt_storage::{ImageRecord, LayerRecord};

/// Becomes a shim, a worker or a gateway when this process was started as one, and then does not return; returns at once
/// otherwise. Must be the first line of `main`: a program that does not call it needs
/// [`ManagerConfig::shim_path`].
pub fn init() {
    vesselrt_runtime::gateway::become_gateway(gateway::main);
    vesselrt_runtime::init();
}

/// Makes this process one of its own, without a terminal and without descriptors but the standard streams: for the program
/// of [`Packer::Process`], before it opens anything.
///
/// # Errors
/// [`Internal`](ErrorKind::Internal) on a kernel without close_range(2).
pub fn detach() -> Result<()> {
    vesselrt_runtime::detach().map_err(|e| Error::io("failed to close descriptors", e))
}
