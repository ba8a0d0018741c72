//! [`ManagerConfig`]: what a [`Manager`](crate::Manager) is built from.
//!
//! Only the defaults of [`ManagerConfig::default`] look at the environment (`XDG_DATA_HOME`, `HOME`).
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vesselrt_runtime::shim::protocol::Driver;
use vesselrt_storage::compressed::DEFAULT_LEVEL;
use vesselrt_storage::registry::{RegistryConfig, Sources};
use vesselrt_storage::{IdGenerator, Storage, UniqueIdGenerator};

/// Which program stacks the layers of a vessel.
///
/// A vessel keeps the one it was created with: what each writes into the writable layer is its own dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverlayDriver {
    /// The kernel's overlayfs, and fuse-overlayfs where the kernel refuses.
    #[default]
    Auto,
    /// The kernel's overlayfs, or an error.
    Kernel,
    /// fuse-overlayfs of the host, or an error.
    Fuse,
}

impl OverlayDriver {
    /// The drivers to try, in this order.
    pub(crate) fn candidates(self) -> &'static [Driver] {
        match self {
            Self::Auto => &[Driver::Kernel, Driver::Fuse],
            Self::Kernel => &[Driver::Kernel],
            Self::Fuse => &[Driver::Fuse],
        }
    }
}

/// Bounds on what is read from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes that [`Vessel::read_file`](crate::Vessel::read_file) returns at most. Default: 1 GiB.
    pub read_file_bytes: u64,
    /// Bytes of an image archive that comes from [`Storage::load_image`]. Default: 64 GiB.
    pub image_archive_bytes: u64,
    /// Bytes of the uncompressed archive of a snapshot. Default: 1 TiB.
    pub snapshot_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { read_file_bytes: 1 << 30, image_archive_bytes: 64 << 30, snapshot_bytes: 1 << 40 }
    }
}

/// How registries are reached, and as whom.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Registries {
    /// With this configuration.
    Given(Box<RegistryConfig>),
    /// With what these places say, read when a registry is first needed.
    Load(Sources),
}

impl Default for Registries {
    /// With TLS, without credentials, whatever the environment says.
    fn default() -> Self {
        Self::Given(Box::default())
    }
}

/// When an image is had from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PullPolicy {
    /// When it is neither in the store nor in the [`Storage`].
    #[default]
    Missing,
    /// Whenever the registry has another one than the store.
    Always,
    /// Never.
    Never,
}

/// Who packs the archives of sealed snapshots, and what else is done in the background.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Packer {
    /// Tasks of this process; when it ends before they do, whoever opens the vessel next goes on.
    #[default]
    Tasks,
    /// A process of its own for each vessel that needs it, or for some hundred forks that were made at once, which outlives
    /// this one: `program` with `arguments` and the ids of the vessels, without environment, streams and working directory.
    /// It is to call [`Manager::upkeep_vessel`](crate::Manager::upkeep_vessel) for each.
    Process {
        /// The executable.
        program: PathBuf,
        /// Its arguments before the ids.
        arguments: Vec<OsString>,
    },
}

/// What a [`Manager`](crate::Manager) is built from. The setters return the changed value, to be chained.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ManagerConfig {
    /// Directory of the store, created (0700) if missing.
    pub root: PathBuf,
    /// Where manifests, snapshot archives and image archives are; `None`: compressed files in `data` of the store.
    pub storage: Option<Arc<dyn Storage>>,
    /// How much the default storage compresses snapshots: a level of zstd, which more takes more time and gives less
    /// bytes. Default: 1. What is there already stays as it is.
    pub compression: i32,
    /// Where ids of vessels and snapshots come from.
    pub id_generator: Arc<dyn IdGenerator>,
    /// Which program stacks the layers of new vessels.
    pub overlay: OverlayDriver,
    /// Bounds on what is read from outside.
    pub limits: Limits,
    /// An executable whose `main` calls [`init`](crate::init) first, to become the shim; `None`: this one.
    pub shim_path: Option<PathBuf>,
    /// How long to wait for a lock of a vessel that another process holds before it is a
    /// [`Conflict`](crate::ErrorKind::Conflict). Default: 10 s.
    pub lock_timeout: Duration,
    /// How registries are reached.
    pub registries: Registries,
    /// Who packs the archives of sealed snapshots.
    pub packer: Packer,
}

impl ManagerConfig {
    /// The defaults for the store at `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            storage: None,
            compression: DEFAULT_LEVEL,
            id_generator: Arc::new(UniqueIdGenerator::new()),
            overlay: OverlayDriver::default(),
            limits: Limits::default(),
            shim_path: None,
            lock_timeout: Duration::from_secs(10),
            registries: Registries::default(),
            packer: Packer::default(),
        }
    }

    /// Sets who packs the archives of sealed snapshots.
    #[must_use]
    pub fn packer(mut self, packer: Packer) -> Self {
        self.packer = packer;
        self
    }

    /// Sets the directory of the store.
    #[must_use]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// Sets the backend of manifests and archives.
    #[must_use]
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Sets how much the default storage compresses snapshots: a level of zstd, 1 to 22, or a negative one. A level that
    /// there is not is refused by [`Manager::new`](crate::Manager::new).
    #[must_use]
    pub fn compression(mut self, level: i32) -> Self {
        self.compression = level;
        self
    }

    /// Sets where ids come from.
    #[must_use]
    pub fn id_generator(mut self, ids: Arc<dyn IdGenerator>) -> Self {
        self.id_generator = ids;
        self
    }

    /// Sets which program stacks the layers of new vessels.
    #[must_use]
    pub fn overlay(mut self, overlay: OverlayDriver) -> Self {
        self.overlay = overlay;
        self
    }

    /// Sets the bounds on what is read from outside.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the executable that becomes the shim: one whose `main` calls [`init`](crate::init) first.
    #[must_use]
    pub fn shim_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.shim_path = Some(path.into());
        self
    }

    /// Sets how registries are reached.
    #[must_use]
    pub fn registries(mut self, registries: Registries) -> Self {
        self.registries = registries;
        self
    }

    /// Sets how long to wait for a lock that another process holds.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }
}

impl Default for ManagerConfig {
    /// The store in `$XDG_DATA_HOME/vesselrt`, or `~/.local/share/vesselrt`.
    fn default() -> Self {
        Self::new(default_root(std::env::var_os("XDG_DATA_HOME").map(Into::into), std::env::home_dir()))
    }
}

/// As the XDG base directory specification has it: a relative `XDG_DATA_HOME` is as good as none.
fn default_root(data_home: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    data_home
        .filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(".local/share")))
        .unwrap_or_else(|| Path::new("/var/lib").to_path_buf())
        .join("vesselrt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_root_follows_the_xdg_specification() {
        let home = || Some(PathBuf::from("/home/u"));
        for (data_home, home, root) in [
            (Some("/data"), home(), "/data/vesselrt"),
            (Some("relative"), home(), "/home/u/.local/share/vesselrt"),
            (None, home(), "/home/u/.local/share/vesselrt"),
            (None, None, "/var/lib/vesselrt"),
        ] {
            assert_eq!(default_root(data_home.map(PathBuf::from), home), Path::new(root));
        }
    }
}
