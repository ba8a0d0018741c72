//! Making a vessel.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use time::OffsetDateTime;
use vesselrt_runtime::settings::network::PROXY_VARIABLES;
use vesselrt_runtime::settings::{Limits, Mount, Settings};
use vesselrt_runtime::shim::client::Connection;
use vesselrt_runtime::shim::protocol::{FaultKind, Request};
use vesselrt_storage::ImageRecord;
use vesselrt_storage::manifest::VesselManifest;

use super::layers::sha256_hex;
use super::open::{LOCK, STATE, UNFINISHED, shut_down, write_state};
use super::pull::Progress;
use super::{ManagerInner, mounts, start};
use crate::config::PullPolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use crate::recover;
use crate::state::{ImageDefaults, ImageState, VesselState};
use crate::store::dirs::{self, Durable};
use crate::store::layers::mark_shared;
use crate::store::lock::{self, FileLock};
use crate::store::staged::Staged;
use crate::vessel::lease::{Holder, Lease};
use crate::vessel::{Vessel, paths};

/// How often a generator may give an id that is taken.
const ATTEMPTS: usize = 16;

/// What a vessel is made from. The setters return the changed value, to be chained.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CreateOptions {
    /// Reference or digest of the image.
    pub image: String,
    /// The id; `None`: a new one.
    pub id: Option<String>,
    /// Where relative paths and commands begin; empty: the image's own.
    pub work_dir: String,
    /// Labels of the manifest.
    pub labels: BTreeMap<String, String>,
    /// It is thrown away after use: nothing of it is synced to disk, and it does not survive a power cut.
    pub volatile: bool,
    /// When the image is had from its registry.
    pub pull: PullPolicy,
    /// What its commands may use of the host.
    pub settings: Settings,
}

impl CreateOptions {
    /// A vessel on this image, with a new id, in the image's working directory.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            id: None,
            work_dir: String::new(),
            labels: BTreeMap::new(),
            volatile: false,
            pull: PullPolicy::default(),
            settings: Settings::default(),
        }
    }

    /// Sets when the image is had from its registry.
    #[must_use]
    pub fn pull(mut self, policy: PullPolicy) -> Self {
        self.pull = policy;
        self
    }

    /// Sets the id: lower-case letters, digits, `_`, `.` and `-`, 64 at most.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets where relative paths and commands begin.
    #[must_use]
    pub fn work_dir(mut self, dir: impl Into<String>) -> Self {
        self.work_dir = dir.into();
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets how much of the machine its commands may use.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Adds something that is mounted besides the layers.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.settings.mounts.push(mount);
        self
    }

    /// Sets what its commands may use of the host.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets whether it is thrown away after use.
    #[must_use]
    pub fn volatile(mut self, volatile: bool) -> Self {
        self.volatile = volatile;
        self
    }
}

pub(super) async fn create(
    manager: &Arc<ManagerInner>,
    options: CreateOptions,
    progress: &Progress,
) -> Result<Vessel> {
    if let Some(id) = &options.id {
        vesselrt_storage::validate_id(id)
            .map_err(|e| Error::invalid(format!("invalid id of a vessel: {id:?}")).with_source(e))?;
    }
    options.settings.limits.check()?;
    options.settings.network.check().map_err(|e| Error::invalid(e.to_string()))?;
    mounts::check(&manager.store, &options.settings)?;
    let (_in_use, record) = manager.obtain_image(&options.image, options.pull, progress).await?;
    let (own, image) = (Arc::clone(manager), record.clone());
    blocking(move || own.unpack_image(&image, &mut |_| {})).await?;
    let work_dir = paths::work_dir(&options.work_dir, image_work_dir(&record))?;
    let mut state = VesselState::new(image_state(&record)?, Vec::new(), options.volatile);
    state.settings = options.settings.clone();
    if state.settings.network.is_proxied() {
        state.image.defaults.env.retain(|entry| !names_a_proxy(entry));
    }
    let (id, dir, lock) = take_id(manager, options.id.as_deref(), &state).await?;
    let dir = Arc::new(dir);
    let now = OffsetDateTime::now_utc();
    let manifest = VesselManifest {
        version: vesselrt_storage::manifest::MANIFEST_VERSION,
        id: id.clone(),
        base_image_ref: options.image,
        base_image_digest: record.manifest_digest.to_string(),
        current_snapshot_id: String::new(),
        work_dir,
        create_time: now,
        update_time: now,
        labels: options.labels,
        snapshots: Vec::new(),
    };
    match begin(manager, &dir, lock, state.clone(), &manifest).await {
        Ok(holder) => {
            let (image, limits) = (state.image.defaults, state.settings.limits);
            Ok(Vessel::new(Arc::clone(manager), manifest.into(), image, &limits, Lease::new(dir, holder)))
        }
        Err(error) => {
            undo(manager, id, dir).await;
            Err(error)
        }
    }
}

/// An image may have been made behind a proxy of its own, to which there is no way here.
fn names_a_proxy(entry: &str) -> bool {
    entry.split_once('=').is_some_and(|(name, _)| PROXY_VARIABLES.contains(&name))
}

/// Starts the shim, makes the working directory, and saves the manifest: from then on the vessel exists.
async fn begin(
    manager: &Arc<ManagerInner>,
    dir: &Arc<OwnedFd>,
    lock: FileLock,
    mut state: VesselState,
    manifest: &VesselManifest,
) -> Result<Holder> {
    let (own, dir, fd) = (Arc::clone(manager), Arc::clone(dir), Arc::clone(dir));
    let (id, work_dir, volatile) = (manifest.id.clone(), manifest.work_dir.clone(), state.volatile);
    let holder = blocking(move || {
        let holder = start::start(&own, &id, dir.as_fd(), lock, &mut state)?;
        if work_dir != "/" {
            make_work_dir(dir.as_fd(), &work_dir)?;
        }
        Ok(holder)
    })
    .await?;
    manager.save_first_manifest(manifest, volatile).await?;
    if !volatile {
        blocking(move || dirs::unlink(fd.as_fd(), UNFINISHED)).await?;
    }
    Ok(holder)
}

fn make_work_dir(dir: std::os::fd::BorrowedFd<'_>, work_dir: &str) -> Result<()> {
    use vesselrt_runtime::shim::client::CallError;
    let mut connection = Connection::open(dir)?
        .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the vessel's shim left right after its start"))?;
    let request = Request::MakeDir { path: work_dir.as_bytes().to_vec(), mode: 0o755, parents: true };
    connection.call_done(&request, &[]).map_err(|error| match error {
        CallError::Fault(fault) if is_no_directory(&fault) => {
            Error::invalid(format!("path is not a directory: {work_dir}")).with_source(fault)
        }
        other => other.into(),
    })
}

fn is_no_directory(fault: &vesselrt_runtime::shim::protocol::Fault) -> bool {
    let errno = fault.errno.map(rustix::io::Errno::from_raw_os_error);
    matches!(errno, Some(rustix::io::Errno::NOTDIR | rustix::io::Errno::EXIST))
        || fault.kind == FaultKind::AlreadyExists
}

/// What cannot be undone now is found by the next sweep: it has no manifest.
async fn undo(manager: &Arc<ManagerInner>, id: String, dir: Arc<OwnedFd>) {
    // The manifest may have been saved although we were told otherwise; nobody else can have one under this id.
    let _ = manager.storage.delete_vessel(&id).await;
    let own = Arc::clone(manager);
    let _ = blocking(move || {
        shut_down(dir.as_fd(), true)?;
        own.store.discard(own.store.vessels.as_fd(), &id)
    })
    .await;
    manager.sweep_later();
}

/// Makes the directory of a vessel, locked, under the id that was asked for, or under a new one.
async fn take_id(
    manager: &Arc<ManagerInner>,
    asked: Option<&str>,
    state: &VesselState,
) -> Result<(String, OwnedFd, FileLock)> {
    for _ in 0..ATTEMPTS {
        let id = asked.map_or_else(|| manager.config.id_generator.new_id(), str::to_owned);
        let known = match manager.load_manifest(&id).await {
            Ok(_) => true,
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) if e.kind() == ErrorKind::IntegrityViolation => true,
            Err(e) => return Err(e),
        };
        if !known && let Some((dir, lock)) = place(manager, &id, state.clone()).await? {
            return Ok((id, dir, lock));
        }
        if asked.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("vessel exists already: {id}")));
        }
    }
    Err(Error::internal("the id generator gives only ids that are taken"))
}

/// `None` when a vessel has that directory.
async fn place(
    manager: &Arc<ManagerInner>,
    id: &str,
    state: VesselState,
) -> Result<Option<(OwnedFd, FileLock)>> {
    let (manager, id) = (Arc::clone(manager), id.to_owned());
    blocking(move || {
        let store = &manager.store;
        // It has no manifest: perhaps it is what a crash left of a creation or a deletion.
        if store.vessel(&id)?.is_some() && !manager.discard_unfinished(&id)? {
            return Ok(None);
        }
        let staged = stage(&manager, &state)?;
        dirs::touch(staged.dir(), UNFINISHED)?;
        let lock = lock::attempt(staged.dir(), LOCK)?
            .ok_or_else(|| Error::internal("a staged vessel is locked by somebody else"))?;
        let Some(dir) = staged.publish(store.vessels.as_fd(), &id)? else { return Ok(None) };
        if !state.volatile {
            dirs::sync(store.vessels.as_fd())?;
        }
        Ok(Some((dir, lock)))
    })
    .await
}

/// The directory of a vessel, complete but for its name.
fn stage(manager: &Arc<ManagerInner>, state: &VesselState) -> Result<Staged> {
    let staged = Staged::new(&manager.store)?;
    manager.store.make_generation(staged.dir(), state)?;
    // It is written again when the vessel was mounted; synced then.
    dirs::write_atomic(staged.dir(), STATE, &state.to_json(), Durable::Nothing)?;
    Ok(staged)
}

/// Makes the directory of a vessel of which only manifest and archives are left.
pub(super) async fn rebuild(manager: &Arc<ManagerInner>, id: &str) -> Result<()> {
    let own = Arc::clone(manager);
    let _in_use = blocking(move || own.store.use_images()).await?;
    let manifest = manager.load_manifest(id).await?;
    let record = manager.base_of(&manifest).await?;
    let sealed = recover::layers(&manifest, &manifest.current_snapshot_id)?;
    let state = VesselState::new(image_state(&record)?, sealed, false);
    manager.provide_sealed(&manifest, &state.sealed).await?;
    let (manager, id) = (Arc::clone(manager), id.to_owned());
    blocking(move || {
        manager.unpack_image(&record, &mut |_| {})?;
        let staged = stage(&manager, &state)?;
        write_state(staged.dir(), &state)?;
        mark_shared(staged.dir())?;
        manager.store.mark_all_shared()?;
        // Another process may have been faster: its directory is the same.
        staged.publish(manager.store.vessels.as_fd(), &id)?;
        dirs::sync(manager.store.vessels.as_fd())
    })
    .await
}

fn image_work_dir(record: &ImageRecord) -> Option<&str> {
    record.config.config().as_ref().and_then(|config| config.working_dir().as_deref())
}

/// What a vessel keeps of its image.
pub(super) fn image_state(record: &ImageRecord) -> Result<ImageState> {
    let config = record.config.config().as_ref();
    let defaults = ImageDefaults {
        env: config.and_then(|config| config.env().clone()).unwrap_or_default(),
        user: config.and_then(|config| config.user().clone()).unwrap_or_default(),
    };
    let names = record.layers.iter().rev().map(|layer| Ok(sha256_hex(&layer.chain_id)?.to_owned()));
    let layers = names.collect::<Result<Vec<_>>>()?;
    Ok(ImageState { digest: record.manifest_digest.to_string(), layers, defaults })
}
