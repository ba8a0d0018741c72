//! [`MemoryStorage`]: a [`Storage`] for tests, which fails on demand.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::AsyncReadExt;

use crate::backend::{ArchiveUsage, ByteStream, RandomAccess, Storage, VesselFork};
use crate::error::{Result, StorageError};
use crate::local::{check_id, check_image_ref, check_manifest_size};

/// What goes wrong with a [`MemoryStorage`]; always as if the disk were full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The n-th call of a method of [`Storage`] fails, counted from 1; later ones work.
    OnCall(u64),
    /// Every save fails once more than this many bytes were stored in all.
    AfterBytes(u64),
}

/// Everything in memory. Clones share the content.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
    fault: Option<Fault>,
}

#[derive(Debug, Default)]
struct State {
    calls: u64,
    stored: u64,
    manifests: BTreeMap<String, Vec<u8>>,
    snapshots: BTreeMap<(String, String), Vec<u8>>,
    images: BTreeMap<String, Vec<u8>>,
}

impl MemoryStorage {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same content, failing as told.
    #[must_use]
    pub fn with_fault(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// Adds the archive of a base image.
    ///
    /// # Errors
    /// `Invalid` reference.
    pub fn put_image(&self, image_ref: &str, archive: &[u8]) -> Result<()> {
        check_image_ref(image_ref)?;
        self.state().images.insert(image_ref.to_owned(), archive.to_vec());
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No method panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and fails if it is its turn.
    fn call(&self) -> Result<()> {
        let mut state = self.state();
        state.calls += 1;
        if self.fault == Some(Fault::OnCall(state.calls)) { Err(full()) } else { Ok(()) }
    }

    /// Counts bytes, and fails if they are too many.
    fn store(&self, bytes: usize) -> Result<()> {
        let mut state = self.state();
        state.stored += bytes as u64;
        match self.fault {
            Some(Fault::AfterBytes(limit)) if state.stored > limit => Err(full()),
            _ => Ok(()),
        }
    }
}

fn full() -> StorageError {
    StorageError::io("write", "memory", Errno::NOSPC)
}

fn stream(bytes: Vec<u8>) -> ByteStream {
    Box::pin(io::Cursor::new(bytes))
}

#[derive(Debug)]
struct InMemory(Bytes);

#[async_trait]
impl RandomAccess for InMemory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(&self, offset: u64, most: usize) -> Result<Bytes> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        Ok(self.0.slice(from..self.0.len().min(from.saturating_add(most))))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for MemoryStorage {
    async fn save_vessel_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()> {
        check_id("vessel", vessel_id)?;
        check_manifest_size(manifest)?;
        self.call()?;
        self.store(manifest.len())?;
        self.state().manifests.insert(vessel_id.to_owned(), manifest.to_vec());
        Ok(())
    }

    async fn save_volatile_manifest(&self, vessel_id: &str, manifest: &[u8]) -> Result<()> {
        self.save_vessel_manifest(vessel_id, manifest).await
    }

    async fn load_vessel_manifest(&self, vessel_id: &str) -> Result<Vec<u8>> {
        check_id("vessel", vessel_id)?;
        self.call()?;
        let found = self.state().manifests.get(vessel_id).cloned();
        found.ok_or_else(|| StorageError::not_found(format!("manifest of vessel {vessel_id}")))
    }

    async fn load_image(&self, image_ref: &str) -> Result<ByteStream> {
        check_image_ref(image_ref)?;
        self.call()?;
        let found = self.state().images.get(image_ref).cloned();
        found.map(stream).ok_or_else(|| StorageError::not_found(format!("image {image_ref}")))
    }

    async fn save_snapshot(&self, vessel_id: &str, snapshot_id: &str, mut body: ByteStream) -> Result<()> {
        check_id("vessel", vessel_id)?;
        check_id("snapshot", snapshot_id)?;
        self.call()?;
        let mut bytes = Vec::new();
        let mut seen = 0;
        while body
            .read_buf(&mut bytes)
            .await
            .map_err(|e| StorageError::io("receive snapshot", snapshot_id, e))?
            > 0
        {
            self.store(bytes.len() - seen)?;
            seen = bytes.len();
        }
        self.state().snapshots.insert((vessel_id.to_owned(), snapshot_id.to_owned()), bytes);
        Ok(())
    }

    async fn save_snapshot_at(
        &self,
        vessel_id: &str,
        snapshot_id: &str,
        body: ByteStream,
        _level: i32,
    ) -> Result<()> {
        self.save_snapshot(vessel_id, snapshot_id, body).await
    }

    async fn load_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<ByteStream> {
        check_id("vessel", vessel_id)?;
        check_id("snapshot", snapshot_id)?;
        self.call()?;
        let found = self.state().snapshots.get(&(vessel_id.to_owned(), snapshot_id.to_owned())).cloned();
        let missing = || StorageError::not_found(format!("snapshot {snapshot_id} of vessel {vessel_id}"));
        found.map(stream).ok_or_else(missing)
    }

    async fn open_snapshot(
        &self,
        vessel_id: &str,
        snapshot_id: &str,
    ) -> Result<Option<Arc<dyn RandomAccess>>> {
        check_id("vessel", vessel_id)?;
        check_id("snapshot", snapshot_id)?;
        self.call()?;
        let found = self.state().snapshots.get(&(vessel_id.to_owned(), snapshot_id.to_owned())).cloned();
        let missing = || StorageError::not_found(format!("snapshot {snapshot_id} of vessel {vessel_id}"));
        found.map(|bytes| Some(Arc::new(InMemory(bytes.into())) as _)).ok_or_else(missing)
    }

    async fn delete_snapshot(&self, vessel_id: &str, snapshot_id: &str) -> Result<()> {
        check_id("vessel", vessel_id)?;
        check_id("snapshot", snapshot_id)?;
        self.call()?;
        self.state().snapshots.remove(&(vessel_id.to_owned(), snapshot_id.to_owned()));
        Ok(())
    }

    async fn delete_vessel(&self, vessel_id: &str) -> Result<()> {
        check_id("vessel", vessel_id)?;
        self.call()?;
        let mut state = self.state();
        state.manifests.remove(vessel_id);
        state.snapshots.retain(|(vessel, _), _| vessel != vessel_id);
        Ok(())
    }

    async fn delete_volatile_vessel(&self, vessel_id: &str) -> Result<()> {
        self.delete_vessel(vessel_id).await
    }

    async fn list_vessels(&self) -> Result<Vec<String>> {
        self.call()?;
        Ok(self.state().manifests.keys().cloned().collect())
    }

    async fn copy_snapshot(&self, from_vessel: &str, snapshot_id: &str, to_vessel: &str) -> Result<()> {
        check_id("vessel", from_vessel)?;
        check_id("snapshot", snapshot_id)?;
        check_id("vessel", to_vessel)?;
        self.call()?;
        let mut state = self.state();
        let found = state.snapshots.get(&(from_vessel.to_owned(), snapshot_id.to_owned())).cloned();
        let missing = || StorageError::not_found(format!("snapshot {snapshot_id} of vessel {from_vessel}"));
        state.snapshots.insert((to_vessel.to_owned(), snapshot_id.to_owned()), found.ok_or_else(missing)?);
        Ok(())
    }

    async fn fork_vessel(&self, from_vessel: &str, snapshots: &[String], forks: &[VesselFork]) -> Result<()> {
        for fork in forks {
            for snapshot in snapshots {
                self.copy_snapshot(from_vessel, snapshot, &fork.vessel_id).await?;
            }
            self.save_vessel_manifest(&fork.vessel_id, &fork.manifest).await?;
        }
        Ok(())
    }

    async fn list_archives(&self, vessel_id: &str) -> Result<Option<Vec<ArchiveUsage>>> {
        check_id("vessel", vessel_id)?;
        self.call()?;
        let state = self.state();
        let own = state.snapshots.iter().filter(|((vessel, _), _)| vessel == vessel_id);
        let usage = |((_, id), bytes): (&(String, String), &Vec<u8>)| {
            ArchiveUsage::new(id.as_str(), bytes.len() as u64, std::time::SystemTime::now())
        };
        Ok(Some(own.map(usage).collect()))
    }
}
