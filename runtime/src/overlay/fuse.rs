//! fuse-overlayfs, for hosts whose kernel refuses overlayfs in a user namespace (before 5.11, or a store on a file
//! system that cannot be an upper).
//!
//! It runs as a child that dies with the shim: it lives in the shim's mount namespace, so left alone it would keep the
//! namespace, and itself, alive for ever.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;

use super::Layers;
use crate::doctor::helper;
use crate::sys;

/// How long the program may take to mount.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(1);

/// A running fuse-overlayfs.
#[derive(Debug)]
pub(crate) struct FuseMount {
    child: Child,
}

impl FuseMount {
    /// Mounts at `target`.
    ///
    /// # Errors
    /// `NotFound` when the program is not installed; what it wrote when it fails.
    pub(crate) fn new(layers: &Layers<'_>, target: &Path) -> io::Result<Self> {
        let program = program()?;
        let before = rustix::fs::stat(target)?.st_dev;
        for fd in layers.lowers.iter().map(AsFd::as_fd).chain([layers.upper, layers.work]) {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        let mut command = Command::new(program);
        command.args(["-f", "-o", &super::option_string(layers).replace("userxattr,", "")]).arg(target);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = sys::spawn_tied(&mut command)?;
        let mut mount = Self { child };
        mount.wait_mounted(target, before)?;
        Ok(mount)
    }

    fn wait_mounted(&mut self, target: &Path, before: u64) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if rustix::fs::stat(target).is_ok_and(|now| now.st_dev != before) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("fuse-overlayfs ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> io::Result<PathBuf> {
    match helper::find_inside("fuse-overlayfs") {
        Ok(found) => Ok(found.path),
        Err(error @ helper::HelperError::NotFound { .. }) => {
            Err(io::Error::new(io::ErrorKind::NotFound, error))
        }
        Err(error) => Err(io::Error::other(error)),
    }
}
