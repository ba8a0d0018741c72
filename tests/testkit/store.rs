//! [`Store`]: a store of one test.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vesselrt::{Manager, ManagerConfig, OverlayDriver, Vessel};

use super::{PATIENCE, image, leftovers};

/// A store of its own for each test. When the test has passed, nothing may be left of its processes, mounts and locks;
/// then its directory is removed, whoever owns what is in it.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    driver: OverlayDriver,
}

/// Where the directories of tests are made.
pub(crate) fn base_dir() -> PathBuf {
    std::env::var_os("VESSELRT_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

impl Store {
    pub(crate) fn new(driver: OverlayDriver) -> Self {
        let dir = tempfile::Builder::new().prefix("vesselrt-test-").tempdir_in(base_dir()).unwrap().keep();
        Self { dir, driver }
    }

    /// The directory of the store itself.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// A path beside the store, for whatever a test needs.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn driver(&self) -> OverlayDriver {
        self.driver
    }

    pub(crate) fn config(&self) -> ManagerConfig {
        ManagerConfig::new(self.root()).shim_path(super::bin()).overlay(self.driver)
    }

    /// A manager of this store.
    pub(crate) async fn manager(&self) -> Manager {
        Manager::new(self.config()).await.unwrap()
    }

    /// A manager of this store, which has the image [`image::BASE`].
    pub(crate) async fn stocked(&self) -> Manager {
        let manager = self.manager().await;
        self.stock(&manager).await;
        manager
    }

    /// Imports the image [`image::BASE`].
    pub(crate) async fn stock(&self, manager: &Manager) {
        let tar = self.beside("base.tar");
        fs::write(&tar, image::base_tar()).unwrap();
        manager.import_image(&tar, image::BASE, |_| {}).await.unwrap();
    }

    /// A manager and a new vessel of [`image::BASE`] with the working directory `/work`.
    pub(crate) async fn vessel(&self) -> (Manager, Vessel) {
        let manager = self.stocked().await;
        let vessel = manager.create_vessel(image::BASE, "/work").await.unwrap();
        (manager, vessel)
    }

    /// The command line on this store, with an environment of its own.
    pub(crate) fn cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(super::bin());
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", &self.dir);
        command.env("VESSELRT_DRIVER", self.driver_name()).env("VESSELRT_ROOT", self.root());
        // What a test leaves is looked at when it ends.
        command.env("VESSELRT_IDLE", "0");
        command.current_dir(&self.dir).stdin(Stdio::null()).args(args);
        command
    }

    fn driver_name(&self) -> &'static str {
        match self.driver {
            OverlayDriver::Auto => "auto",
            OverlayDriver::Kernel => "kernel",
            OverlayDriver::Fuse => "fuse",
        }
    }

    /// Checks that nothing is left behind, and removes the store.
    pub(crate) fn finish(self) {
        leftovers::none_in_use(&self.dir);
        if self.root().is_dir() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let collected = async { self.manager().await.collect_garbage().await.unwrap() };
                tokio::time::timeout(PATIENCE, collected).await.expect("the garbage collection hangs");
            });
            // What it would have done later holds the store.
            drop(runtime);
            leftovers::none_staged(&self.root());
            leftovers::none_in_use(&self.dir);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What a test that failed kept running would run for ever.
            let _ = self.cli(&["stop", "--all"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let removed = remove(&self.dir);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Removes a tree of any owners and modes that a vessel may have given it.
pub(crate) fn remove(dir: &Path) -> std::io::Result<()> {
    if super::unprivileged() && fs::remove_dir_all(dir).is_err() {
        // Files of subordinate ids can be removed only where those are mapped.
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--map-auto", "rm", "-rf", "--"]).arg(dir);
        if !command.status()?.success() {
            make_writable(dir);
        }
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn make_writable(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            make_writable(&entry.path());
        }
    }
}
