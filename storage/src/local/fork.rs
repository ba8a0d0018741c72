//! Archives that several vessels have: hard links to one file, counted by the file system.
//!
//! A fork is made under `vessels/.fork-RANDOM/ID` and renamed to its place when it is whole. Whoever makes it holds the
//! lock of `.fork-RANDOM` (flock(2)): what nobody holds was left by a crash.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::names::{LOOKUP, archive_name};
use super::{MANIFEST, SNAPSHOTS, Shared};
use crate::backend::{ArchiveUsage, VesselFork};
use crate::content::copy;
use crate::digest::to_hex;
use crate::dir::stage::{Staged, replace};
use crate::dir::{Dir, FileError};
use crate::error::{Result, StorageError};
use crate::id::random_bytes;

/// What the names of directories start with in which forks are made; no id starts with a dot.
const FORKING: &str = ".fork-";
/// From so many forks on, the whole file system is synced once instead of each file.
const MANY: usize = 3;

/// The archives that are to be shared: their directory and the names of their files.
struct Origin {
    dir: Option<Dir>,
    names: Vec<String>,
}

impl Shared {
    pub(super) fn copy_snapshot(&self, from: &str, snapshot: &str, to: &str) -> Result<()> {
        let origin = self.origin(from, std::slice::from_ref(&snapshot.to_owned()))?;
        let target = self.vessels.make_subdir(to)?.make_subdir(SNAPSHOTS)?;
        if from == to {
            return Ok(());
        }
        origin.link_over(&target)?;
        target.sync()
    }

    /// See [`Storage::fork_vessel`](crate::Storage::fork_vessel).
    pub(super) fn fork(&self, from: &str, snapshots: &[String], forks: &[VesselFork]) -> Result<()> {
        self.sweep_forks()?;
        let origin = self.origin(from, snapshots)?;
        let staging = Staging::new(&self.vessels)?;
        for fork in forks {
            staging.make(fork, &origin, forks.len() < MANY)?;
        }
        if forks.len() >= MANY {
            rustix::fs::syncfs(&self.vessels)
                .map_err(|e| StorageError::io("sync", self.vessels.path_of(""), e))?;
        }
        for fork in forks {
            if !staging.publish(&fork.vessel_id)? {
                // Archives of a vessel that never came to be are there already: the new ones join them.
                let target = self.vessels.make_subdir(&fork.vessel_id)?;
                let archives = target.make_subdir(SNAPSHOTS)?;
                origin.link_over(&archives)?;
                archives.sync()?;
                replace(&target, MANIFEST, &fork.manifest)?;
            }
        }
        self.vessels.sync()
    }

    fn origin(&self, from: &str, snapshots: &[String]) -> Result<Origin> {
        if snapshots.is_empty() {
            return Ok(Origin { dir: None, names: Vec::new() });
        }
        let missing = |id: &str| StorageError::not_found(format!("snapshot {id} of vessel {from}"));
        let vessel = self.vessels.subdir(from)?.ok_or_else(|| missing(&snapshots[0]))?;
        let dir = vessel.subdir(SNAPSHOTS)?.ok_or_else(|| missing(&snapshots[0]))?;
        let mut names = Vec::with_capacity(snapshots.len());
        for id in snapshots {
            names.push(file_of(&dir, id)?.ok_or_else(|| missing(id))?);
        }
        Ok(Origin { dir: Some(dir), names })
    }

    /// Removes what those who made forks left when they died.
    pub(super) fn sweep_forks(&self) -> Result<()> {
        for name in self.vessels.names()? {
            if !name.starts_with(FORKING) {
                continue;
            }
            if let Ok(Some(dir)) = self.vessels.subdir(&name)
                && rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
            {
                // What cannot be removed must not keep anybody from forking.
                let _ = self.vessels.remove_tree(&name);
            }
        }
        Ok(())
    }

    pub(super) fn list_archives(&self, vessel: &str) -> Result<Vec<ArchiveUsage>> {
        let Some(dir) = self.vessels.subdir(vessel)? else { return Ok(Vec::new()) };
        let Some(dir) = dir.subdir(SNAPSHOTS)? else { return Ok(Vec::new()) };
        let mut archives = Vec::new();
        for name in dir.names()? {
            let Some(id) = snapshot_of(&name) else { continue };
            // One that was deleted since it was listed, or that is something odd, is none.
            let Ok(Some((file, _))) = dir.open_file(&name) else { continue };
            let meta = file.metadata().map_err(|e| StorageError::io("stat", dir.path_of(&name), e))?;
            let modified = meta.modified().map_err(|e| StorageError::io("stat", dir.path_of(&name), e))?;
            // stat(2) counts blocks of 512 bytes whatever the file system's are.
            let usage = ArchiveUsage::new(id, meta.blocks().saturating_mul(512), modified);
            let holders =
                self.twins.holders(&file).map_err(|e| StorageError::io("read", dir.path_of(&name), e))?;
            archives.push(usage.kept_as((meta.dev(), meta.ino()), holders));
        }
        Ok(archives)
    }
}

/// The file of a snapshot's archive, by the order in which archives are looked for.
fn file_of(dir: &Dir, snapshot: &str) -> Result<Option<String>> {
    for compression in LOOKUP {
        let name = archive_name(snapshot, compression);
        if dir.open_file(&name)?.is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The snapshot that a file of this name is the archive of.
fn snapshot_of(name: &str) -> Option<&str> {
    let stem = |compression| {
        name.strip_suffix(&format!(".tar{}", crate::compression::Compression::suffix(compression)))
    };
    let id = LOOKUP.into_iter().rev().find_map(stem)?;
    crate::id::validate_id(id).is_ok().then_some(id)
}

impl Origin {
    /// Gives each archive its name in `target`, where there is none of that name.
    fn link(&self, target: &Dir) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        self.names.iter().try_for_each(|name| link(dir, name, target, name))
    }

    /// Gives each archive its name in `target`, in the place of what has it; not synced.
    fn link_over(&self, target: &Dir) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        for name in &self.names {
            // Of another compression, which would be found first.
            if let Some(id) = snapshot_of(name) {
                for other in LOOKUP.map(|compression| archive_name(id, compression)) {
                    if other != *name {
                        target.remove_file(&other)?;
                    }
                }
            }
            let staged = format!("{FORKING}{}", to_hex(&random_bytes::<8>()));
            link(dir, name, target, &staged)?;
            target.rename(&staged, name)?;
            // rename(2) does nothing when both are the same file already.
            target.remove_file(&staged)?;
        }
        Ok(())
    }
}

/// Makes `new` in `to` the same file as `old` in `from`; a copy where the file system has no more links, or none at all.
fn link(from: &Dir, old: &str, to: &Dir, new: &str) -> Result<()> {
    let failed = |e: io::Error| StorageError::io("link", to.path_of(new), e);
    match rustix::fs::linkat(from, old, to, new, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::XDEV) => {
            let missing = || StorageError::not_found(from.path_of(old).display().to_string());
            let (mut file, _) = from.open_file(old)?.ok_or_else(missing)?;
            let mut staged = Staged::new(to)?;
            copy(&mut file, &mut staged).map_err(failed)?;
            staged.commit(to, new)
        }
        Err(e) => Err(failed(e.into())),
    }
}

/// A directory in which forks are made. Dropped, it goes with all that is still in it.
struct Staging<'a> {
    vessels: &'a Dir,
    name: String,
    dir: Dir,
}

impl<'a> Staging<'a> {
    fn new(vessels: &'a Dir) -> Result<Self> {
        loop {
            let name = format!("{FORKING}{}", to_hex(&random_bytes::<8>()));
            let failed = |e: Errno| StorageError::io("stage", vessels.path_of(&name), e);
            match rustix::fs::mkdirat(vessels, name.as_str(), Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(failed(e)),
            }
            // A sweep may come between the creation and the lock; then the directory is gone.
            let Some(dir) = vessels.subdir(&name)? else { continue };
            rustix::fs::flock(&dir, FlockOperation::LockExclusive).map_err(failed)?;
            if rustix::fs::fstat(&dir).map_err(failed)?.st_nlink > 0 {
                return Ok(Self { vessels, name, dir });
            }
        }
    }

    /// Makes a vessel with its archives and its manifest.
    fn make(&self, fork: &VesselFork, origin: &Origin, synced: bool) -> Result<()> {
        let dir = self.subdir(&self.dir, &fork.vessel_id)?;
        if origin.dir.is_some() {
            let archives = self.subdir(&dir, SNAPSHOTS)?;
            origin.link(&archives)?;
            if synced {
                archives.sync()?;
            }
        }
        let failed = |e: io::Error| StorageError::io("write", dir.path_of(MANIFEST), e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, MANIFEST, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(fd.map_err(|e| failed(e.into()))?);
        file.write_all(&fork.manifest).map_err(failed)?;
        if synced {
            file.sync_all().map_err(failed)?;
            dir.sync()?;
        }
        Ok(())
    }

    /// Like [`Dir::make_subdir`], but not synced.
    fn subdir(&self, parent: &Dir, name: &str) -> Result<Dir> {
        rustix::fs::mkdirat(parent.as_fd(), name, Mode::RWXU)
            .map_err(|e| StorageError::io("create directory", parent.path_of(name), e))?;
        let path = parent.path_of(name).display().to_string();
        parent.subdir(name)?.ok_or_else(|| StorageError::corrupt(path, FileError::NotDirectory))
    }

    /// Gives a vessel its place; false when something is there.
    fn publish(&self, id: &str) -> Result<bool> {
        let renamed = match rustix::fs::renameat_with(&self.dir, id, self.vessels, id, RenameFlags::NOREPLACE)
        {
            // Not every file system knows the flag; a directory that is not empty is not replaced anyway.
            Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(&self.dir, id, self.vessels, id),
            other => other,
        };
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(e) => Err(StorageError::io("rename", self.vessels.path_of(id), e)),
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // What fails here is found by the next sweep.
        let _ = self.vessels.remove_tree(&self.name);
    }
}

#[cfg(test)]
mod tests;
