//! A store on disk.
//!
//! ```text
//! <root>                          0700, of the user
//!   version                       format of the store: "1"
//!   idmap.json                    the id mapping that everything below is written under
//!   lock                          shared: an image is put to use; exclusive: images are removed
//!   images/                       content store, an OCI layout
//!     layers/CHAIN/fs             an image layer, unpacked once, never changed
//!     layers/.lock-CHAIN          whoever unpacks it
//!     packed/SNAPSHOT.gzip        which blob the layer of a snapshot became when it was committed
//!   layers/SNAPSHOT/fs            a sealed snapshot layer; can be had again from its archive
//!   layers.lock                   shared: layers get another vessel; exclusive: layers are removed
//!   layers.unchecked              there while layers may have lost their last vessel
//!   layers/+DIGEST/fs             several sealed layers as one; can be made again
//!   vessels/ID/
//!     upkeep.lock                 held by whoever packs its snapshots
//!     lock                        held by the shim as long as it lives
//!     ops.lock                    held by whoever changes snapshots or the manifest
//!     unfinished                  there while the vessel is made or deleted
//!     switching                   there while layers are exchanged under a running shim
//!     shim.sock  state.json
//!     cgroup.json                 where its control group is, while there may be one
//!     gen-N/fs  gen-N/work        the writable layer
//!     processes/                  detached processes: what they are, how they ended, their logs
//!   volumes/NAME/fs               what is mounted as a volume; outlives vessels
//!   volumes.lock                  shared: a vessel is started; exclusive: a volume is removed
//!   data/                         the default Storage: manifests, snapshot and image archives
//!   staging/                      what is being made; renamed to its place when it is whole
//!   trash/                        what was deleted; removed by a worker
//! ```
//!
//! Shims and workers run as the root of the mapping: what they get is theirs. For an ordinary user that is the user itself; for
//! real root it is the first id of a high range, and the directories below are given to it.
#![forbid(unsafe_code)]

pub(crate) mod dirs;
mod generation;
pub(crate) mod layers;
pub(crate) mod lock;
pub(crate) mod staged;
pub(crate) mod volumes;

use std::fs::DirBuilder;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode};
use vesselrt_runtime::idmap::IdMapping;

use crate::error::{Error, ErrorKind, Result};
use dirs::Durable;
use lock::FileLock;

const VERSION: &str = "1";
const VERSION_FILE: &str = "version";
const IDMAP_FILE: &str = "idmap.json";
const LOCK_FILE: &str = "lock";
/// What may be in a directory that is to become a store: image archives that wait to be found, and the file system's own.
const TOLERATED: [&str; 2] = ["data", "lost+found"];

/// The directories of a store.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    root_fd: OwnedFd,
    ids: IdMapping,
    pub(crate) image_layers: OwnedFd,
    pub(crate) layers: OwnedFd,
    pub(crate) vessels: OwnedFd,
    pub(crate) volumes: OwnedFd,
    pub(crate) staging: OwnedFd,
    pub(crate) trash: OwnedFd,
}

impl Store {
    /// Opens the store at `root`, or makes one. `mapping` says what this user can have on this host.
    pub(crate) fn open(root: &Path, mapping: impl FnOnce() -> Result<IdMapping>) -> Result<Self> {
        let shown = root.display();
        let failed = |e| {
            Error::io(format!("failed to create the store {shown}"), e)
                .with_remedy("use a directory of yours: --root DIR, or the variable VESSELRT_ROOT")
        };
        let root = std::path::absolute(root).map_err(failed)?;
        if root.to_str().is_none() {
            // libcontainer reads the mount table as text, and the path of the store is in it.
            let message = format!("the path of the store is not UTF-8: {}", root.display());
            return Err(Error::invalid(message).with_remedy("use another directory: --root DIR"));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed)?;
        let root_fd = dirs::open_path(&root)?;
        check_owner(&root_fd, &root)?;
        // Two managers may make the same store at once.
        let _one = lock::lock_dir(&root_fd)?;
        check_version(&root_fd, &root)?;
        let ids = check_mapping(&root_fd, &root, mapping()?)?;
        let images = dirs::make(root_fd.as_fd(), "images")?;
        let owned = |parent: BorrowedFd<'_>, name: &str| -> Result<OwnedFd> {
            let fd = dirs::make(parent, name)?;
            own(&ids, fd.as_fd())?;
            Ok(fd)
        };
        Ok(Self {
            image_layers: owned(images.as_fd(), "layers")?,
            layers: owned(root_fd.as_fd(), "layers")?,
            vessels: dirs::make(root_fd.as_fd(), "vessels")?,
            volumes: dirs::make(root_fd.as_fd(), "volumes")?,
            staging: dirs::make(root_fd.as_fd(), "staging")?,
            trash: owned(root_fd.as_fd(), "trash")?,
            root,
            root_fd,
            ids,
        })
    }

    /// The mapping that everything is written under.
    pub(crate) fn ids(&self) -> &IdMapping {
        &self.ids
    }

    /// The path of an entry of the root, for what takes paths.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Gives a directory to the root of the mapping.
    pub(crate) fn own(&self, dir: BorrowedFd<'_>) -> Result<()> {
        own(&self.ids, dir)
    }

    /// Makes a directory that belongs to the root of the mapping, or opens it.
    pub(crate) fn make_owned(&self, parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
        let fd = dirs::make(parent, name)?;
        self.own(fd.as_fd())?;
        Ok(fd)
    }

    /// The directory of a vessel, if there is one.
    pub(crate) fn vessel(&self, id: &str) -> Result<Option<OwnedFd>> {
        dirs::open(self.vessels.as_fd(), id)
    }

    /// While it is held, no image that is in the store is removed.
    pub(crate) fn use_images(&self) -> Result<FileLock> {
        lock::wait(self.root_fd.as_fd(), LOCK_FILE, lock::Mode::Shared)
    }

    /// While it is held, nobody puts an image to use.
    pub(crate) fn remove_images(&self) -> Result<FileLock> {
        lock::wait(self.root_fd.as_fd(), LOCK_FILE, lock::Mode::Exclusive)
    }

    /// Moves an entry to the trash, if it is there.
    pub(crate) fn discard(&self, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
        dirs::rename_if_there(parent, name, self.trash.as_fd(), &staged::unique(name))
    }

    /// [`Self::discard`] of a directory that has nothing but a few files of ours: they are removed here and now, which is
    /// less work than starting a worker for them. Anything else stays in the trash.
    pub(crate) fn discard_flat(&self, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
        let (trash, trashed) = (self.trash.as_fd(), staged::unique(name));
        dirs::rename_if_there(parent, name, trash, &trashed)?;
        let Some(dir) = dirs::open(trash, &trashed)? else { return Ok(()) };
        for file in dirs::names(dir.as_fd())? {
            // What is no file is for the worker.
            let _ = rustix::fs::unlinkat(&dir, &file, AtFlags::empty());
        }
        let _ = rustix::fs::unlinkat(trash, &trashed, AtFlags::REMOVEDIR);
        Ok(())
    }
}

/// `0700` and the root of the mapping.
fn own(ids: &IdMapping, dir: BorrowedFd<'_>) -> Result<()> {
    let failed = |e: rustix::io::Errno| Error::io("failed to give a directory to the store's root user", e);
    let stat = rustix::fs::fstat(dir).map_err(failed)?;
    let (uid, gid) = ids.root();
    if (stat.st_uid, stat.st_gid) != (uid, gid) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(dir, Some(uid), Some(gid)).map_err(failed)?;
    }
    if stat.st_mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(dir, Mode::from_raw_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

fn check_owner(fd: &OwnedFd, root: &Path) -> Result<()> {
    let stat =
        rustix::fs::fstat(fd).map_err(|e| Error::io(format!("failed to stat {}", root.display()), e))?;
    if stat.st_uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let message = format!("the store {} belongs to user {}", root.display(), stat.st_uid);
    Err(Error::new(ErrorKind::PermissionDenied, message).with_remedy("use a store of your own: --root DIR"))
}

/// Only a directory that is a store, or nothing yet, is taken: it is made 0700, which would be a pity for `/tmp`.
fn check_version(fd: &OwnedFd, root: &Path) -> Result<()> {
    let shown = root.display();
    refuse_if_open_to_all(fd, root)?;
    match dirs::read_small(fd.as_fd(), VERSION_FILE, 64)? {
        Some(version) if version.trim_ascii() == VERSION.as_bytes() => {}
        Some(version) => {
            let version = version.trim_ascii().escape_ascii().to_string();
            let message =
                format!("the store {shown} has format {version:?}, this vesselrt knows {VERSION:?}");
            return Err(
                Error::conflict(message).with_remedy("use the vesselrt that made it, or another store")
            );
        }
        None => {
            let entries = dirs::names(fd.as_fd())?;
            let (begun, others): (Vec<_>, Vec<_>) =
                entries.iter().partition(|name| staged::is(name, VERSION_FILE));
            if let Some(other) = others.iter().find(|name| !TOLERATED.contains(&name.as_str())) {
                let message = format!("{shown} is no store: it is not empty, there is {other:?}");
                return Err(Error::conflict(message).with_remedy("choose an empty directory"));
            }
            // Whoever began to make this store was killed: the lock is ours.
            begun.iter().try_for_each(|name| dirs::unlink(fd.as_fd(), name))?;
            dirs::write_atomic(fd.as_fd(), VERSION_FILE, format!("{VERSION}\n").as_bytes(), Durable::New)?;
        }
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(0o700))
        .map_err(|e| Error::io(format!("failed to make {shown} private"), e))
}

/// What is in a directory that everybody can write may be anybody's: a snapshot of theirs would be restored as ours.
fn refuse_if_open_to_all(fd: &OwnedFd, root: &Path) -> Result<()> {
    let stat =
        rustix::fs::fstat(fd).map_err(|e| Error::io(format!("failed to stat {}", root.display()), e))?;
    if stat.st_mode & 0o002 == 0 || dirs::names(fd.as_fd())?.is_empty() {
        return Ok(());
    }
    let message = format!("everybody can write to the store {}", root.display());
    let remedy = format!("make sure that nobody has put anything there, then: chmod 700 {}", root.display());
    Err(Error::new(ErrorKind::PermissionDenied, message).with_remedy(remedy))
}

/// The store's own mapping, which the host must still have.
fn check_mapping(fd: &OwnedFd, root: &Path, host: IdMapping) -> Result<IdMapping> {
    let shown = root.display();
    let Some(bytes) = dirs::read_small(fd.as_fd(), IDMAP_FILE, 1 << 20)? else {
        let json = serde_json::to_vec(&host)
            .map_err(|e| Error::internal("failed to write the id mapping").with_source(e))?;
        dirs::write_atomic(fd.as_fd(), IDMAP_FILE, &json, Durable::New)?;
        return Ok(host);
    };
    let stored: IdMapping = serde_json::from_slice(&bytes).map_err(|e| {
        Error::integrity(format!("the id mapping of the store {shown} is damaged")).with_source(e)
    })?;
    if stored == host {
        return Ok(stored);
    }
    let remedy =
        "restore the former entries of /etc/subuid and /etc/subgid (and newuidmap), or use another store";
    let message = format!("the store {shown} was written under other id mappings than this user has now");
    Err(Error::conflict(message).with_remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vesselrt_runtime::idmap::Extent;

    fn mapping(count: u32) -> IdMapping {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let extents = |outside| vec![Extent { inside: 0, outside, count }];
        IdMapping { uids: extents(uid), gids: extents(gid) }
    }

    #[test]
    fn a_store_opens_again_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        Store::open(&root, || Ok(mapping(1))).unwrap();
        let store = Store::open(&root, || Ok(mapping(1))).unwrap();
        assert_eq!(store.ids(), &mapping(1));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&root).unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o700);
        assert!(store.vessel("none").unwrap().is_none());
    }

    #[test]
    fn other_directories_other_versions_and_other_mappings_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "").unwrap();
        let kind = |root: &Path, ids: IdMapping| Store::open(root, || Ok(ids)).unwrap_err().kind();
        assert_eq!(kind(dir.path(), mapping(1)), ErrorKind::Conflict);
        let root = dir.path().join("store");
        std::fs::create_dir_all(root.join("data/images")).unwrap();
        Store::open(&root, || Ok(mapping(1))).unwrap();
        assert_eq!(kind(&root, mapping(2)), ErrorKind::Conflict);
        std::fs::write(root.join(VERSION_FILE), "2\n").unwrap();
        assert_eq!(kind(&root, mapping(1)), ErrorKind::Conflict);
    }

    #[test]
    fn a_store_that_was_begun_by_one_who_was_killed_is_made() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(staged::unique(".version")), "").unwrap();
        Store::open(dir.path(), || Ok(mapping(1))).unwrap();
        let names = dirs::names(dirs::open_path(dir.path()).unwrap().as_fd()).unwrap();
        assert!(names.iter().all(|name| !name.starts_with(".version")), "{names:?}");
    }

    #[test]
    fn what_is_discarded_is_in_the_trash() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), || Ok(mapping(1))).unwrap();
        dirs::make(store.vessels.as_fd(), "v").unwrap();
        store.discard(store.vessels.as_fd(), "v").unwrap();
        store.discard(store.vessels.as_fd(), "v").unwrap();
        assert_eq!(dirs::names(store.trash.as_fd()).unwrap().len(), 1);
    }
}
