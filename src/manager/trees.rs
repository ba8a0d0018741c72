//! Whether the unpacked layers of images are still what their blobs say.
//!
//! A layer is unpacked anew beside the one that is in use, and the two are compared: no record of the tree has to be
//! kept, and none can be forged along with it.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use vesselrt_runtime::worker::{Job, JobDone, Worker};
use vesselrt_storage::{Digest, ImageRecord, LayerRecord};

use super::layers::{TREE, sha256_hex};
use super::open::{self, LOCK};
use super::{ManagerInner, prune};
use crate::error::{Error, Result};
use crate::offload::blocking;
use crate::store::lock::{self, FileLock};
use crate::store::{dirs, staged::Staged};

/// An unpacked layer that is not what its blob says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedTree {
    /// The blob that it was unpacked from.
    pub digest: Digest,
    /// Its chain id (image-spec, config.md), by which it is unpacked once.
    pub chain_id: Digest,
    /// How many entries differ; 0 if it could not be compared.
    pub different: u64,
    /// What is wrong: the first entries that differ, or why it could not be compared.
    pub reasons: Vec<String>,
    /// Whether it is unpacked anew.
    pub repaired: bool,
}

/// What a verification of unpacked layers found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeReport {
    /// Layers that were compared.
    pub layers: u64,
    /// Those that are damaged.
    pub damaged: Vec<DamagedTree>,
}

/// A layer with what is below it, topmost first.
struct Place {
    layer: LayerRecord,
    chain: String,
    below: Vec<String>,
}

impl ManagerInner {
    /// Compares the unpacked layers of one image, or of all, with their blobs; with `repair`, unpacks anew what is
    /// damaged and in no running vessel.
    pub(super) async fn verify_trees(
        self: Arc<Self>,
        reference: Option<String>,
        repair: bool,
    ) -> Result<TreeReport> {
        let own = Arc::clone(&self);
        let (mut report, damaged) = blocking(move || own.compare_all(reference.as_deref())).await?;
        if !repair || damaged.is_empty() {
            return Ok(report);
        }
        blocking(move || {
            let _alone = self.store.remove_images()?;
            // From below: what is above was unpacked on it.
            for (place, tree) in damaged.iter().zip(&mut report.damaged) {
                match self.unpack_anew(place) {
                    Ok(()) => tree.repaired = true,
                    Err(error) => tree.reasons.push(error.chain()),
                }
            }
            Ok(report)
        })
        .await
    }

    fn compare_all(&self, reference: Option<&str>) -> Result<(TreeReport, Vec<Place>)> {
        let _in_use = self.store.use_images()?;
        let images = match reference {
            Some(text) => vec![self.find_image(text)?],
            None => self.list_images()?,
        };
        let (mut report, mut damaged) = (TreeReport::default(), Vec::new());
        let mut worker = None;
        for place in places(&images)? {
            if !dirs::exists(self.store.image_layers.as_fd(), &place.chain)? {
                continue;
            }
            let worker = match &mut worker {
                Some(worker) => worker,
                none => none.insert(self.launcher()?.worker()?),
            };
            report.layers += 1;
            let (different, reasons) = match self.compare(worker, &place) {
                Ok((0, _)) => continue,
                Ok(found) => found,
                Err(error) if prune::is_damage(&error) => (0, vec![error.chain()]),
                Err(error) => return Err(error),
            };
            let (digest, chain_id) = (place.layer.digest.clone(), place.layer.chain_id.clone());
            report.damaged.push(DamagedTree { digest, chain_id, different, reasons, repaired: false });
            damaged.push(place);
        }
        Ok((report, damaged))
    }

    /// How many entries of a layer differ from those of its blob, and the first of them.
    fn compare(&self, worker: &mut Worker, place: &Place) -> Result<(u64, Vec<String>)> {
        let fresh = self.unpack_beside(worker, place)?;
        let tree = dirs::open(fresh.dir(), TREE)?
            .ok_or_else(|| Error::internal("a layer that was just unpacked has no tree"))?;
        let job = Job::CompareLayer { name: place.chain.clone() };
        match worker.run(&job, &[self.store.image_layers.as_fd(), tree.as_fd()], &mut |_| {})? {
            JobDone::LayerCompared { different, examples } => Ok((different, examples)),
            _ => Err(Error::internal("unexpected reply of the worker: not compared")),
        }
    }

    fn unpack_beside(&self, worker: &mut Worker, place: &Place) -> Result<Staged> {
        let Place { layer, below, .. } = place;
        let (blob, job) = self.unpack_job(layer, below)?;
        let staged = Staged::new(&self.store)?;
        let tree = self.store.make_owned(staged.dir(), TREE)?;
        let layers = self.store.image_layers.as_fd();
        worker.run(&job, &[blob.as_fd(), layers, tree.as_fd()], &mut |_| {})?;
        Ok(staged)
    }

    /// Puts a new tree in the place of a damaged one.
    fn unpack_anew(&self, place: &Place) -> Result<()> {
        let _stopped = self.stopped_users(&place.chain)?;
        let fresh = self.unpack_beside(&mut self.launcher()?.worker()?, place)?;
        let layers = self.store.image_layers.as_fd();
        dirs::sync(fresh.dir())?;
        self.store.discard(layers, &place.chain)?;
        // After a crash here it is missing, and unpacked by whoever needs it.
        fresh.publish(layers, &place.chain)?;
        dirs::sync(layers)
    }

    /// The locks of all vessels on a layer: none of them runs, and none starts meanwhile.
    fn stopped_users(&self, chain: &str) -> Result<Vec<FileLock>> {
        let mut locks = Vec::new();
        for id in dirs::names(self.store.vessels.as_fd())? {
            let Some(dir) = self.store.vessel(&id)? else { continue };
            let uses = |layers: &[String]| layers.iter().any(|layer| layer == chain);
            if !open::read_state(&id, dir.as_fd()).is_ok_and(|state| uses(&state.image.layers)) {
                continue;
            }
            let lock = lock::attempt(dir.as_fd(), LOCK)?;
            locks.push(lock.ok_or_else(|| {
                Error::conflict(format!("failed to unpack a layer anew: vessel {id} runs on it"))
                    .with_remedy(format!("vesselrt stop {id}"))
            })?);
        }
        Ok(locks)
    }
}

/// Every layer of the images once, those below first.
fn places(images: &[ImageRecord]) -> Result<Vec<Place>> {
    let (mut places, mut seen) = (Vec::new(), HashSet::new());
    for image in images {
        let mut below: Vec<String> = Vec::new();
        for layer in &image.layers {
            let chain = sha256_hex(&layer.chain_id)?.to_owned();
            if seen.insert(chain.clone()) {
                places.push(Place { layer: layer.clone(), chain: chain.clone(), below: below.clone() });
            }
            below.insert(0, chain);
        }
    }
    Ok(places)
}
