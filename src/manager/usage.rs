//! What vessels and their snapshots take on disk.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use vesselrt_runtime::worker::{Job, JobDone, Worker};
use vesselrt_storage::ArchiveUsage;
use vesselrt_storage::manifest::VesselManifest;

use super::{ManagerInner, open};
use crate::error::{Error, Result};
use crate::offload::blocking;
use crate::store::dirs;

/// What a store takes on disk, in bytes, by blocks: holes take nothing, and what is kept once counts once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskUsage {
    /// The vessels that were asked for, oldest first.
    pub vessels: Vec<VesselUsage>,
    /// All of them together: what they share counts once.
    pub total: UsageTotal,
}

/// What vessels take together, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageTotal {
    /// Writable layers.
    pub writable: u64,
    /// Sealed layers of snapshots.
    pub layers: u64,
    /// Archives, if the storage can tell.
    pub archives: u64,
    /// Unpacked layers of their images.
    pub images: u64,
    /// Volumes; 0 unless all vessels were asked for.
    pub volumes: u64,
    /// Sealed layers that no vessel has, which the garbage collection removes; 0 unless all vessels were asked for.
    pub unreferenced: u64,
}

/// What a vessel takes, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VesselUsage {
    /// Its id.
    pub id: String,
    /// What was written since the last snapshot, and what the store knows of it.
    pub writable: u64,
    /// Layers on this host that it alone has: the writable one, and those of snapshots.
    pub own: u64,
    /// Layers of snapshots that other vessels have too.
    pub shared: u64,
    /// Archives of its snapshots, those that are kept together with others' included.
    pub archive: u64,
    /// Unpacked layers of its image, which all vessels of that image share.
    pub image: u64,
    /// Its snapshots, in order of creation; also those that have lost their names.
    pub snapshots: Vec<SnapshotUsage>,
}

/// What a snapshot takes, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotUsage {
    /// Its id.
    pub id: String,
    /// Its layer; 0 when only its archive is there.
    pub layer: u64,
    /// Its archive; `None` when the storage cannot tell or has none.
    pub archive: Option<u64>,
    /// Other vessels have it too.
    pub shared: bool,
    /// It can be restored; otherwise it has lost its name, and is kept for those that are based on it.
    pub named: bool,
}

/// Archives of one vessel, by snapshot.
type Archives = HashMap<String, ArchiveUsage>;

pub(super) async fn disk_usage(manager: &Arc<ManagerInner>, only: Option<&str>) -> Result<DiskUsage> {
    if let Some(id) = only {
        manager.load_manifest(id).await?;
    }
    let all = open::list(manager).await?;
    let wanted: Vec<VesselManifest> =
        all.iter().filter(|vessel| only.is_none_or(|id| vessel.id == id)).cloned().collect();
    let mut holders: HashMap<String, usize> = HashMap::new();
    for snapshot in all.iter().flat_map(|vessel| &vessel.snapshots) {
        *holders.entry(snapshot.id.clone()).or_default() += 1;
    }
    let mut archives = Vec::with_capacity(wanted.len());
    for vessel in &wanted {
        archives.push(manager.archives(&vessel.id).await?.unwrap_or_default());
    }
    let own = Arc::clone(manager);
    let every = only.is_none();
    blocking(move || {
        let measured = own.measure(&wanted, every)?;
        Ok(measured.usage(&wanted, &archives, &holders))
    })
    .await
}

/// Trees by their names.
#[derive(Default)]
struct Measured {
    vessels: HashMap<String, u64>,
    layers: HashMap<String, u64>,
    images: HashMap<String, u64>,
    /// Image layers by vessel.
    bases: HashMap<String, Vec<String>>,
    volumes: u64,
}

/// Directories that layers are in, as the worker gets them.
const LAYERS: usize = 0;
const IMAGES: usize = 1;
/// Vessels that are measured at a time: their directories are handed over by descriptor.
const BATCH: usize = 12;

impl ManagerInner {
    /// The archives of a vessel; `None` when the storage cannot tell.
    pub(super) async fn archives(&self, vessel: &str) -> Result<Option<Archives>> {
        let listed = self.storage.list_archives(vessel).await;
        let listed = listed
            .map_err(|e| Error::storage(format!("failed to list the archives of vessel {vessel}"), e))?;
        let by_id =
            |list: Vec<ArchiveUsage>| list.into_iter().map(|one| (one.snapshot_id.clone(), one)).collect();
        Ok(listed.map(by_id))
    }

    /// A worker measures: most of it belongs to ids that only the user namespace has power over.
    fn measure(&self, vessels: &[VesselManifest], every_layer: bool) -> Result<Measured> {
        let mut measured = Measured { bases: self.bases_of(vessels)?, ..Measured::default() };
        let names = |ids: &mut dyn Iterator<Item = &String>| {
            let mut names: Vec<String> = ids.cloned().collect::<HashSet<_>>().into_iter().collect();
            names.sort_unstable();
            names
        };
        let mut layers = names(&mut vessels.iter().flat_map(|v| &v.snapshots).map(|s| &s.id));
        if every_layer {
            let known: HashSet<String> = layers.iter().cloned().collect();
            layers
                .extend(dirs::names(self.store.layers.as_fd())?.into_iter().filter(|id| !known.contains(id)));
        }
        let images = names(&mut measured.bases.values().flatten());
        let of = |parent, names: Vec<String>| names.into_iter().map(move |name| (parent, name));
        let trees: Vec<(usize, String)> = of(IMAGES, images).chain(of(LAYERS, layers)).collect();
        let mut worker = self.launcher()?.worker()?;
        let parents = [self.store.layers.as_fd(), self.store.image_layers.as_fd()];
        let sizes = sizes_of(&mut worker, trees.clone(), &parents)?;
        for ((parent, name), bytes) in trees.into_iter().zip(sizes) {
            let kind = if parent == LAYERS { &mut measured.layers } else { &mut measured.images };
            kind.insert(name, bytes);
        }
        for batch in vessels.chunks(BATCH) {
            self.measure_vessels(&mut worker, batch, &mut measured.vessels)?;
        }
        if every_layer {
            measured.volumes = self.volumes_usage(&mut worker)?;
        }
        Ok(measured)
    }

    /// Their directory is the user's, and the worker may not even look for theirs in it.
    fn measure_vessels(
        &self,
        worker: &mut Worker,
        vessels: &[VesselManifest],
        sizes: &mut HashMap<String, u64>,
    ) -> Result<()> {
        let mut open = Vec::with_capacity(vessels.len());
        for vessel in vessels {
            if let Some(dir) = self.store.vessel(&vessel.id)? {
                open.push((vessel.id.clone(), dir));
            }
        }
        let dirs: Vec<BorrowedFd<'_>> = open.iter().map(|(_, dir)| dir.as_fd()).collect();
        let trees = (0..open.len()).map(|place| (place, ".".to_owned())).collect();
        let found = sizes_of(worker, trees, &dirs)?;
        sizes.extend(open.into_iter().map(|(id, _)| id).zip(found));
        Ok(())
    }

    /// The image layers of the vessels that are here.
    fn bases_of(&self, vessels: &[VesselManifest]) -> Result<HashMap<String, Vec<String>>> {
        let mut bases = HashMap::new();
        for vessel in vessels {
            if let Some(dir) = self.store.vessel(&vessel.id)?
                && let Ok(state) = open::read_state(&vessel.id, dir.as_fd())
            {
                bases.insert(vessel.id.clone(), state.image.layers);
            }
        }
        Ok(bases)
    }
}

pub(super) fn sizes_of(
    worker: &mut Worker,
    trees: Vec<(usize, String)>,
    parents: &[BorrowedFd<'_>],
) -> Result<Vec<u64>> {
    match worker.run(&Job::MeasureTrees { trees }, parents, &mut |_| {})? {
        JobDone::Measured(sizes) => Ok(sizes),
        _ => Err(Error::internal("unexpected reply of the worker: not measured")),
    }
}

impl Measured {
    fn usage(
        &self,
        vessels: &[VesselManifest],
        archives: &[Archives],
        holders: &HashMap<String, usize>,
    ) -> DiskUsage {
        let of = |vessel: (&VesselManifest, &Archives)| self.of_vessel(vessel.0, vessel.1, holders);
        let sum =
            |sizes: &HashMap<String, u64>| sizes.values().fold(0u64, |sum, size| sum.saturating_add(*size));
        let is_held = |layer: &&String| holders.contains_key(*layer);
        let held: u64 = self.layers.keys().filter(is_held).map(|layer| self.layers[layer]).sum();
        DiskUsage {
            vessels: vessels.iter().zip(archives).map(of).collect(),
            total: UsageTotal {
                writable: sum(&self.vessels),
                layers: held,
                archives: kept_once(archives),
                images: sum(&self.images),
                volumes: self.volumes,
                unreferenced: sum(&self.layers).saturating_sub(held),
            },
        }
    }

    fn of_vessel(
        &self,
        vessel: &VesselManifest,
        archives: &Archives,
        holders: &HashMap<String, usize>,
    ) -> VesselUsage {
        let size = |sizes: &HashMap<String, u64>, name: &String| sizes.get(name).copied().unwrap_or(0);
        let snapshots: Vec<SnapshotUsage> = vessel
            .snapshots
            .iter()
            .map(|snapshot| SnapshotUsage {
                id: snapshot.id.clone(),
                layer: size(&self.layers, &snapshot.id),
                archive: archives.get(&snapshot.id).map(|archive| archive.bytes),
                shared: holders.get(&snapshot.id).is_some_and(|&holders| holders > 1),
                named: snapshot.is_named(),
            })
            .collect();
        let layers = |shared: bool| -> u64 {
            snapshots.iter().filter(|snapshot| snapshot.shared == shared).map(|snapshot| snapshot.layer).sum()
        };
        let writable = size(&self.vessels, &vessel.id);
        let base = self.bases.get(&vessel.id).into_iter().flatten();
        VesselUsage {
            id: vessel.id.clone(),
            writable,
            own: writable.saturating_add(layers(false)),
            shared: layers(true),
            archive: kept_once(std::slice::from_ref(archives)),
            image: base.map(|layer| size(&self.images, layer)).sum(),
            snapshots,
        }
    }
}

/// The sum of archives, each content once.
fn kept_once(archives: &[Archives]) -> u64 {
    let mut seen = HashSet::new();
    let first = |archive: &&ArchiveUsage| archive.content.is_none_or(|content| seen.insert(content));
    archives.iter().flat_map(HashMap::values).filter(first).map(|archive| archive.bytes).sum()
}
