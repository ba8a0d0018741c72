//! What a vessel mounts of the host, as its opener finds it.
//!
//! Paths of the host are looked up here and nowhere else: by the user who starts the vessel, whenever it is started.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use vesselrt_runtime::settings::{MountSource, Settings, check_mounts};

use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::lock::FileLock;

/// What is to be mounted, open.
#[derive(Debug)]
pub(super) struct Sources {
    /// In the order of the settings; `None` for a file system in memory.
    pub(super) fds: Vec<Option<OwnedFd>>,
    /// Until the shim has them no volume is removed.
    _in_use: Option<FileLock>,
}

/// Opens what a vessel mounts. Volumes that are missing are made.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is not there or cannot be mounted.
pub(super) fn open(store: &Arc<Store>, settings: &Settings) -> Result<Sources> {
    check_mounts(&settings.mounts).map_err(|e| Error::invalid(e.to_string()))?;
    let has_volumes = settings.mounts.iter().any(|mount| mount.volume_name().is_some());
    let in_use = has_volumes.then(|| store.use_volumes()).transpose()?;
    let open_one = |source: &MountSource| match source {
        MountSource::Bind { path } => open_bind(store, path).map(Some),
        MountSource::Volume { name } => store.volume_tree(name).map(Some),
        _ => Ok(None),
    };
    let fds = settings.mounts.iter().map(|mount| open_one(mount.source())).collect::<Result<_>>()?;
    Ok(Sources { fds, _in_use: in_use })
}

/// Whether [`open`] would work now; makes nothing.
pub(super) fn check(store: &Store, settings: &Settings) -> Result<()> {
    check_mounts(&settings.mounts).map_err(|e| Error::invalid(e.to_string()))?;
    settings.mounts.iter().try_for_each(|mount| match mount.source() {
        MountSource::Bind { path } => open_bind(store, path).map(drop),
        _ => Ok(()),
    })
}

fn open_bind(store: &Store, path: &str) -> Result<OwnedFd> {
    let failed = |e: Errno| {
        let message = format!("failed to mount {path:?} of the host");
        match e {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::invalid(message)
                .with_source(std::io::Error::from(e))
                .with_remedy("make it first, or name a path of this host that exists"),
            _ => Error::io(message, e),
        }
    };
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&fd).map_err(failed)?;
    if !matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::Directory | FileType::RegularFile | FileType::Socket
    ) {
        let message =
            format!("failed to mount {path:?} of the host: it is no directory, file or unix socket");
        return Err(Error::invalid(message));
    }
    let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|e| Error::io(format!("failed to find {path:?} of the host"), e))?;
    if overlaps(store, &real, &stat).map_err(failed)? {
        let message =
            format!("failed to mount {path:?} of the host: the store is in it, or it is in the store");
        return Err(Error::invalid(message).with_remedy("mount a volume, or a directory elsewhere"));
    }
    Ok(fd)
}

/// Compared by what they are, whatever they are called.
fn overlaps(store: &Store, real: &Path, stat: &Stat) -> rustix::io::Result<bool> {
    let identity = |stat: &Stat| (stat.st_dev, stat.st_ino);
    let root = std::fs::canonicalize(store.path("")).unwrap_or_else(|_| store.path(""));
    let own = identity(&rustix::fs::stat(&root)?);
    // A directory that cannot be looked at cannot be told from another one; the path of the store is ours.
    let is = |path: &Path, wanted: (u64, u64)| rustix::fs::stat(path).is_ok_and(|it| identity(&it) == wanted);
    Ok(real.ancestors().any(|above| above == root || is(above, own))
        || root.ancestors().any(|above| above == real || is(above, identity(stat))))
}
