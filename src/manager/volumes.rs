//! Volumes: directories of the store that are mounted in vessels and outlive them.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use time::OffsetDateTime;
use vesselrt_runtime::worker::Worker;

use super::usage::sizes_of;
use super::{Manager, ManagerInner, open};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use crate::store::dirs;

/// Volumes that are measured at a time: their directories are handed over by descriptor.
const BATCH: usize = 12;
/// How often a generator may give a name that is taken.
const ATTEMPTS: usize = 16;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub create_time: OffsetDateTime,
    /// Ids of the vessels that mount it, sorted.
    pub vessels: Vec<String>,
}

impl Manager {
    /// Makes an empty volume. Without a name it gets a new one, made as ids of vessels are. A volume that a vessel mounts is
    /// made by itself when it is missing.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is no name;
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists).
    pub async fn create_volume(&self, name: Option<&str>) -> Result<Volume> {
        let (inner, name) = (Arc::clone(&self.inner), name.map(str::to_owned));
        blocking(move || inner.create_volume(name.as_deref())).await
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_volumes(&self) -> Result<Vec<Volume>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.list_volumes()).await
    }

    /// One volume.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "volume not found: …".
    pub async fn volume(&self, name: &str) -> Result<Volume> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        blocking(move || inner.find_volume(&name)).await
    }

    /// What a volume takes on disk, in bytes.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "volume not found: …"; whatever the host cannot do is
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    pub async fn volume_usage(&self, name: &str) -> Result<u64> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        blocking(move || {
            let dir = inner.store.volume(&name)?.ok_or_else(|| unknown(&name))?;
            let mut worker = inner.launcher()?.worker()?;
            Ok(measure(&mut worker, &[dir])?.iter().sum())
        })
        .await
    }

    /// Removes a volume with everything in it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) "volume not found: …"; [`Conflict`](crate::ErrorKind::Conflict) while the
    /// settings of a vessel name it.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        blocking(move || inner.remove_volume(&name)).await?;
        self.inner.sweep_later();
        Ok(())
    }
}

impl ManagerInner {
    fn create_volume(&self, name: Option<&str>) -> Result<Volume> {
        for _ in 0..ATTEMPTS {
            let own = name.map_or_else(|| self.config.id_generator.new_id(), str::to_owned);
            if self.store.make_volume(&own)? {
                return self.find_volume(&own);
            }
            if name.is_some() {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("volume exists already: {own}")));
            }
        }
        Err(Error::internal("the id generator gives only ids that are taken"))
    }

    fn list_volumes(&self) -> Result<Vec<Volume>> {
        let users = self.volume_users()?;
        let mut volumes = Vec::new();
        for name in self.store.volume_names()? {
            // Removed since it was listed.
            let Some(dir) = self.store.volume(&name)? else { continue };
            volumes.push(describe(name, dir.as_fd(), &users)?);
        }
        Ok(volumes)
    }

    fn find_volume(&self, name: &str) -> Result<Volume> {
        let dir = self.store.volume(name)?.ok_or_else(|| unknown(name))?;
        describe(name.to_owned(), dir.as_fd(), &self.volume_users()?)
    }

    fn remove_volume(&self, name: &str) -> Result<()> {
        let _alone = self.store.remove_volumes()?;
        let volume = self.find_volume(name)?;
        if volume.vessels.is_empty() {
            self.store.discard(self.store.volumes.as_fd(), name)?;
            return dirs::sync(self.store.volumes.as_fd());
        }
        let message = format!("volume {name} is mounted by: {}", volume.vessels.join(", "));
        Err(Error::conflict(message).with_remedy("remove those vessels first"))
    }

    /// Pairs of a volume and a vessel whose settings name it.
    fn volume_users(&self) -> Result<Vec<(String, String)>> {
        let mut users = Vec::new();
        for id in dirs::names(self.store.vessels.as_fd())? {
            let Some(dir) = self.store.vessel(&id)? else { continue };
            // Opening the vessel says what is wrong with its state.
            let Ok(state) = open::read_state(&id, dir.as_fd()) else { continue };
            let names = state.settings.mounts.iter().filter_map(|mount| mount.volume_name());
            users.extend(names.map(|name| (name.to_owned(), id.clone())));
        }
        users.sort_unstable();
        users.dedup();
        Ok(users)
    }

    /// What all volumes take on disk, in bytes.
    pub(super) fn volumes_usage(&self, worker: &mut Worker) -> Result<u64> {
        let mut dirs = Vec::new();
        for name in self.store.volume_names()? {
            dirs.extend(self.store.volume(&name)?);
        }
        Ok(measure(worker, &dirs)?.into_iter().fold(0, u64::saturating_add))
    }
}

/// A worker measures: what is in them belongs to ids that only the user namespace has power over.
fn measure(worker: &mut Worker, volumes: &[OwnedFd]) -> Result<Vec<u64>> {
    let mut sizes = Vec::with_capacity(volumes.len());
    for batch in volumes.chunks(BATCH) {
        let fds: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
        sizes.extend(sizes_of(worker, (0..fds.len()).map(|place| (place, ".".to_owned())).collect(), &fds)?);
    }
    Ok(sizes)
}

fn describe(name: String, dir: BorrowedFd<'_>, users: &[(String, String)]) -> Result<Volume> {
    // Nothing is ever made or removed in it after it was made.
    let stat =
        rustix::fs::fstat(dir).map_err(|e| Error::io(format!("failed to stat the volume {name}"), e))?;
    let create_time =
        OffsetDateTime::from_unix_timestamp(stat.st_mtime).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let vessels = users.iter().filter(|(volume, _)| *volume == name).map(|(_, id)| id.clone()).collect();
    Ok(Volume { name, create_time, vessels })
}

fn unknown(name: &str) -> Error {
    Error::not_found(format!("volume not found: {name}"))
}
