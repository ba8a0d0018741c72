//! [`VmService`]: makes, lists, stops and removes machines.
#![forbid(unsafe_code)]

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::language::{default_image, normalize, slug};
use super::launch;
use super::logs;
use super::options::{VmCreateOptions, VmServiceConfig};
use super::record::{VmRecord, VmStatus};
use super::store::{KeptVolume, VmStore};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::Manager;
use crate::offload::{blocking, detached};
use crate::vessel::Vessel;

/// How many commands are begun at once: so many threads are made for it.
const STARTING: usize = 2;

/// Makes, lists, stops and removes machines. Clones are handles on the same one; any number of processes may have one for the
/// same directory.
#[derive(Debug, Clone)]
pub struct VmService {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: VmServiceConfig,
    pub(super) manager: Manager,
    store: VmStore,
    /// Few commands are begun at once, however many run.
    pub(super) starting: Semaphore,
}

impl VmService {
    /// Machines whose vessels `manager` has.
    ///
    /// # Errors
    /// Those of making the state directory.
    pub async fn new(config: VmServiceConfig, manager: Manager) -> Result<Self> {
        let mut config = config;
        let shown = config.state_dir.display().to_string();
        let failed = |e| Error::io(format!("failed to make the state directory {shown}"), e);
        config.state_dir = std::path::absolute(&config.state_dir).map_err(failed)?;
        let dir = config.state_dir.clone();
        blocking(move || {
            let failed = |e| Error::io(format!("failed to make the state directory {}", dir.display()), e);
            std::fs::create_dir_all(dir.join("vms")).map_err(failed)
        })
        .await?;
        let store = VmStore::new(&config.state_dir);
        Ok(Self { inner: Arc::new(Inner { config, manager, store, starting: Semaphore::new(STARTING) }) })
    }

    /// The manager of the vessels.
    #[must_use]
    pub fn manager(&self) -> &Manager {
        &self.inner.manager
    }

    /// Makes a machine.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) "language is required", "unsupported language", "cpu must be greater
    /// than zero", "mem must be greater than zero"; [`NotFound`](ErrorKind::NotFound) for a volume that was not kept; those
    /// of [`Manager::create_vessel`]. Nothing is left behind.
    pub async fn create(&self, options: VmCreateOptions) -> Result<VmRecord> {
        let own = self.clone();
        detached(async move { own.make(options).await }).await
    }

    async fn make(&self, options: VmCreateOptions) -> Result<VmRecord> {
        let mut record = self.new_record(&options)?;
        let adopted = match options.adopt {
            Some(id) => Some(self.find_kept(&id).await?),
            None => None,
        };
        if let Some(volume) = &adopted {
            // Where it is it stays: nothing is moved that a crash could leave half way.
            record.storage.persist_path.clone_from(&volume.path);
        }
        if let Err(error) = self.build(&mut record, adopted.clone()).await {
            self.undo(&record, adopted).await;
            return Err(error);
        }
        record.status = VmStatus::Ready;
        let made = record.clone();
        let ready = self.change(&record.id, move |record| *record = made).await?;
        Ok(ready.unwrap_or(record))
    }

    fn new_record(&self, options: &VmCreateOptions) -> Result<VmRecord> {
        let language = normalize(&options.language);
        if language.is_empty() {
            return Err(Error::invalid("language is required"));
        }
        if options.cpu_count == 0 {
            return Err(Error::invalid("cpu must be greater than zero"));
        }
        if options.memory_mib == 0 {
            return Err(Error::invalid("mem must be greater than zero"));
        }
        let rootfs_image = match options.image.is_empty() {
            true => default_image(&language)?.to_owned(),
            false => options.image.clone(),
        };
        let created_at = OffsetDateTime::now_utc();
        let id = format!("{}-{}", slug(&language), created_at.unix_timestamp_nanos());
        let persist = options.persist || options.adopt.is_some();
        let config = &self.inner.config;
        Ok(VmRecord {
            storage: launch::layout(&config.state_dir, &id, persist, config.guest_volumes),
            id,
            language,
            rootfs_image,
            cpu_count: options.cpu_count,
            memory_mib: options.memory_mib,
            network_mode: options.network,
            persist,
            status: VmStatus::Provisioning,
            created_at,
            last_run_at: None,
            best_effort: options.best_effort,
            has_bash: false,
        })
    }

    async fn find_kept(&self, id: &str) -> Result<KeptVolume> {
        let volumes = self.kept_volumes().await?;
        volumes.into_iter().find(|volume| volume.id == id && !volume.removing).ok_or_else(|| not_kept(id))
    }

    /// The record first: what a crash leaves can be listed and removed. Of two that adopt one volume one gets it.
    async fn build(&self, record: &mut VmRecord, adopted: Option<KeptVolume>) -> Result<()> {
        let new = record.clone();
        self.store(move |store| {
            store.add(&new, adopted.as_ref())?;
            launch::make_directories(&new.storage)
        })
        .await?;
        let vessel = launch::launch(&self.inner.manager, record).await?;
        self.rest(&vessel).await
    }

    /// Closes a vessel that [`Self::up`] has opened; it stays up for a while, as the next command may want it soon.
    ///
    /// # Errors
    /// Those of [`Vessel::close`].
    pub async fn rest(&self, vessel: &Vessel) -> Result<()> {
        if !self.inner.config.idle.is_zero() {
            // One that is being stopped takes no orders.
            let _ = vessel.linger(self.inner.config.idle).await;
        }
        vessel.close().await
    }

    /// Takes back what a creation that failed has made; a volume that was there is kept again.
    async fn undo(&self, record: &VmRecord, adopted: Option<KeptVolume>) {
        let _ = self.inner.manager.delete_vessel(&record.id).await;
        let gone = record.clone();
        let _ = self
            .store(move |store| {
                if store.get(&gone.id)?.is_none() {
                    return Ok(());
                }
                if adopted.is_none() && gone.persist {
                    let _ = std::fs::remove_dir(&gone.storage.persist_path);
                }
                let _ = std::fs::remove_dir_all(&gone.storage.root);
                store.remove(&gone.id, adopted.as_ref())
            })
            .await;
    }

    /// A machine by its id, with what it is doing now.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "vm not found: …".
    pub async fn get(&self, id: &str) -> Result<VmRecord> {
        let record = self.recorded(id).await?;
        self.looked_at(record).await
    }

    /// A machine as the database has it.
    pub(super) async fn recorded(&self, id: &str) -> Result<VmRecord> {
        let wanted = id.to_owned();
        self.store(move |store| Ok(store.get(&wanted)?.map(when_run))).await?.ok_or_else(|| unknown(id))
    }

    /// All machines, oldest first, as the database has them; only those that are down by it are looked at. One that was removed
    /// behind its back is found out when it is used.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn candidates(&self) -> Result<Vec<VmRecord>> {
        let mut records = self.store(all).await?;
        for record in records.iter_mut().filter(|record| !record.status.is_up()) {
            *record = self.looked_at(record.clone()).await?;
        }
        Ok(records)
    }

    /// All machines, oldest first, with what they are doing now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list(&self) -> Result<Vec<VmRecord>> {
        let mut records = Vec::new();
        for record in self.store(all).await? {
            records.push(self.looked_at(record).await?);
        }
        Ok(records)
    }

    /// The volumes of machines that are gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn kept_volumes(&self) -> Result<Vec<KeptVolume>> {
        self.store(VmStore::kept).await
    }

    /// The record with the status that its vessel has: it may have been removed, or brought back, behind our back.
    async fn looked_at(&self, mut record: VmRecord) -> Result<VmRecord> {
        let found = match self.inner.manager.vessel_status(&record.id).await {
            Ok(status) => Some(status),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let now = match (found, record.status) {
            (_, VmStatus::Provisioning) => return Ok(record),
            (None, _) => VmStatus::Stopped,
            (Some(_), _) => VmStatus::Ready,
        };
        if now != record.status {
            // Unless somebody else has, meanwhile.
            let seen = record.status;
            self.change(&record.id, move |record| {
                if record.status == seen {
                    record.status = now;
                }
            })
            .await?;
            record.status = now;
        }
        if found.is_some_and(|found| found.commands > 0) {
            record.status = VmStatus::Running;
        }
        Ok(record)
    }

    /// Stops a machine: nothing of its root file system is kept, `/persist` and the record are.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "vm not found: …"; those of [`Manager::delete_vessel`].
    pub async fn stop(&self, id: &str) -> Result<VmRecord> {
        let record = self.get(id).await?;
        let own = self.clone();
        detached(async move {
            own.remove_vessel(&record.id).await?;
            let now = OffsetDateTime::now_utc();
            let stopped = own.change(&record.id, move |record| {
                record.status = VmStatus::Stopped;
                record.last_run_at = Some(now);
            });
            stopped.await?.ok_or_else(|| unknown(&record.id))
        })
        .await
    }

    /// Removes a machine with all that it has. With `keep_persist` its volume stays, and is found by
    /// [`Self::kept_volumes`] and [`VmCreateOptions::adopt`].
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) "vm not found: …"; those of [`Manager::delete_vessel`] and of removing files, after
    /// which it is still there.
    pub async fn clean(&self, id: &str, keep_persist: bool) -> Result<VmRecord> {
        let record = self.get(id).await?;
        let own = self.clone();
        detached(async move {
            own.remove_vessel(&record.id).await?;
            let (manager, storage) = (&own.inner.manager, &record.storage);
            manager.remove_host_tree(&storage.root).await?;
            let kept = (record.persist && keep_persist).then(|| KeptVolume {
                id: record.id.clone(),
                language: record.language.clone(),
                path: storage.persist_path.clone(),
                kept_at: OffsetDateTime::now_utc(),
                removing: false,
            });
            if record.persist && !keep_persist {
                manager.remove_host_tree(&storage.persist_path).await?;
            }
            let id = record.id.clone();
            own.store(move |store| store.remove(&id, kept.as_ref())).await?;
            Ok(record)
        })
        .await
    }

    /// Removes a volume that was kept.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for one that was not; those of removing files, after which it can be done again.
    pub async fn clean_kept(&self, id: &str) -> Result<KeptVolume> {
        let (own, wanted) = (self.clone(), id.to_owned());
        let condemned = self.store(move |store| store.condemn(&wanted)).await?;
        let volume = condemned.ok_or_else(|| not_kept(id))?;
        detached(async move {
            own.inner.manager.remove_host_tree(&volume.path).await?;
            let id = volume.id.clone();
            own.store(move |store| store.forget(&id)).await?;
            Ok(volume)
        })
        .await
    }

    async fn remove_vessel(&self, id: &str) -> Result<()> {
        match self.inner.manager.delete_vessel(id).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    /// Changes a record; `None` where it is gone.
    pub(super) async fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut VmRecord) + Send + 'static,
    ) -> Result<Option<VmRecord>> {
        let id = id.to_owned();
        self.store(move |store| store.update(&id, change)).await
    }

    async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&VmStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner.store)).await
    }
}

fn all(store: &VmStore) -> Result<Vec<VmRecord>> {
    Ok(store.list()?.into_iter().map(when_run).collect())
}

/// Runs are not in the database.
fn when_run(mut record: VmRecord) -> VmRecord {
    record.last_run_at = record.last_run_at.max(logs::last_run(&record.storage));
    record
}

pub(super) fn not_kept(id: &str) -> Error {
    Error::not_found(format!("no volume was kept of vm {id}")).with_remedy("see `vesselrt vm list --kept`")
}

/// The error of one that is not there.
pub(super) fn unknown(id: &str) -> Error {
    Error::not_found(format!("vm not found: {id}"))
}
