//! What images take, whether they are whole, and removing what nothing needs.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use vesselrt_storage::content::ImageEntry;
use vesselrt_storage::manifest::VesselManifest;
use vesselrt_storage::{Digest, ImageRecord, Reference, StorageErrorKind};

use super::images::{is_base, not_known, parse_reference};
use super::{ManagerInner, open};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;

/// How long to wait for pulls and commits. Not long: meanwhile they wait for us.
pub(super) const PRUNE_PATIENCE: Duration = Duration::from_secs(2);

/// An image, and what it takes in the store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImageUsage {
    /// The image.
    pub image: ImageRecord,
    /// Bytes that go when it is removed: of blobs that no other image has.
    pub own: u64,
    /// Bytes of blobs that other images have too.
    pub shared: u64,
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PruneReport {
    /// References that were removed.
    pub images: Vec<String>,
    /// Blobs that were removed.
    pub blobs: u64,
    /// Their size in bytes. Unpacked layers come on top.
    pub bytes: u64,
    /// Unpacked layers that were removed.
    pub layers: u64,
}

/// A blob that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedBlob {
    /// What it must be.
    pub digest: Digest,
    /// What is wrong with it.
    pub reason: String,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Blobs that were read, once for all images that share them.
    pub blobs: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Those that are damaged or missing.
    pub damaged: Vec<DamagedBlob>,
    /// Those of them that were had again from the registry.
    pub repaired: Vec<Digest>,
}

impl ManagerInner {
    /// Makes `target` another name of the image called `source`.
    pub(super) async fn tag(self: Arc<Self>, source: String, target: String) -> Result<ImageRecord> {
        blocking(move || {
            let target = parse_reference(&target)?;
            let _in_use = self.store.use_images()?;
            let _lease = self.content.lease()?;
            let image = self.find_image(&source)?;
            let parts = self.parts(&image.manifest_digest)?;
            let tagged = self.content.tag(&target, &parts.descriptor);
            tagged.map_err(|e| Error::storage(format!("failed to tag image {source} as {target}"), e))
        })
        .await
    }

    /// All images that have a reference, with what each takes.
    pub(super) fn usage(&self) -> Result<Vec<ImageUsage>> {
        let images = self.list_images()?;
        // Names of one image share everything and still are one image.
        let mut users: HashMap<Digest, (u64, Vec<Digest>)> = HashMap::new();
        for image in &images {
            for (digest, size) in blobs(image) {
                let (_, users) = users.entry(digest).or_insert((size, Vec::new()));
                if !users.contains(&image.manifest_digest) {
                    users.push(image.manifest_digest.clone());
                }
            }
        }
        let usage = |image: ImageRecord| {
            let of_image = |users: &&(u64, Vec<Digest>)| users.1.contains(&image.manifest_digest);
            let (mut own, mut shared) = (0u64, 0u64);
            for (size, users) in users.values().filter(of_image) {
                let sum = if users.len() == 1 { &mut own } else { &mut shared };
                *sum = sum.saturating_add(*size);
            }
            ImageUsage { image, own, shared }
        };
        Ok(images.into_iter().map(usage).collect())
    }

    /// Removes blobs and unpacked layers that no image has; with `all`, first the images that no vessel is based on.
    pub(super) async fn prune(self: &Arc<Self>, all: bool) -> Result<PruneReport> {
        let own = Arc::clone(self);
        let _alone = blocking(move || own.store.remove_images()).await?;
        let vessels = open::list(self).await?;
        let own = Arc::clone(self);
        let report = blocking(move || own.prune_unused(all, &vessels)).await?;
        self.sweep().await?;
        Ok(report)
    }

    /// [`Self::prune`] of what has no name, which is moved to the trash only.
    pub(super) async fn prune_content(self: &Arc<Self>) -> Result<PruneReport> {
        let own = Arc::clone(self);
        let _alone = blocking(move || own.store.remove_images()).await?;
        let vessels = open::list(self).await?;
        let own = Arc::clone(self);
        blocking(move || own.prune_unused(false, &vessels)).await
    }

    fn prune_unused(&self, all: bool, vessels: &[VesselManifest]) -> Result<PruneReport> {
        let mut report = PruneReport::default();
        if all {
            report.images = self.untag_unused(vessels)?;
        }
        let keep = self.bases(vessels)?;
        let pruned = self.content.prune_blobs_within(&keep, PRUNE_PATIENCE);
        let pruned = pruned.map_err(|e| Error::storage("failed to remove what no image has", e))?;
        (report.blobs, report.bytes) = (pruned.blobs, pruned.bytes);
        report.layers = self.discard_unused_layers(&keep, &HashSet::new())?;
        self.forget_packed(vessels)?;
        Ok(report)
    }

    fn untag_unused(&self, vessels: &[VesselManifest]) -> Result<Vec<String>> {
        let states = self.local_states()?;
        let mut removed = Vec::new();
        for entry in self.entries()? {
            // What another tool put there under a name of its own is not ours to remove.
            let Some(reference) = entry.reference.as_deref().and_then(|name| Reference::parse(name).ok())
            else {
                continue;
            };
            // A name may lead to an index; a vessel is based on the manifest.
            let digest =
                entry.record.as_ref().map_or(&entry.manifest_digest, |record| &record.manifest_digest);
            let digest = digest.to_string();
            let names = std::slice::from_ref(&reference);
            let used = vessels.iter().any(|vessel| is_base(vessel, &digest, names))
                || states.iter().any(|state| state.image.digest == digest);
            if !used && self.content.untag(&reference)? {
                removed.push(reference.to_string());
            }
        }
        Ok(removed)
    }

    fn entries(&self) -> Result<Vec<ImageEntry>> {
        self.content.list().map_err(|e| Error::storage("failed to list the images", e))
    }

    pub(super) async fn verify_and_repair(
        self: Arc<Self>,
        reference: Option<String>,
        repair: bool,
    ) -> Result<VerifyReport> {
        let (own, name) = (Arc::clone(&self), reference.clone());
        let mut report = blocking(move || own.verify(name.as_deref())).await?;
        if !repair || report.damaged.is_empty() {
            return Ok(report);
        }
        self.repair(&report.damaged).await?;
        let after = blocking(move || self.verify(reference.as_deref())).await?;
        let mended = |blob: &&DamagedBlob| !after.damaged.iter().any(|left| left.digest == blob.digest);
        report.repaired = report.damaged.iter().filter(mended).map(|blob| blob.digest.clone()).collect();
        Ok(report)
    }

    /// Has damaged blobs again from the registries that their images' names say. What cannot be reached stays as it is.
    async fn repair(self: &Arc<Self>, damaged: &[DamagedBlob]) -> Result<()> {
        let own = Arc::clone(self);
        let _lease = blocking(move || Ok(own.content.lease()?)).await?;
        let client = self.client()?;
        let own = Arc::clone(self);
        for entry in blocking(move || own.entries()).await? {
            let parsed = entry.reference.as_deref().and_then(|name| Reference::parse(name).ok());
            let Some(name) = parsed.filter(|_| concerns(&entry, damaged)) else { continue };
            let pinned = parse_reference(&format!("{}@{}", name.name(), entry.manifest_digest))?;
            // What is damaged is better than nothing, so that it goes only when there is something better.
            if !matches!(client.head(&pinned).await, Ok(Some(_))) {
                continue;
            }
            let (own, gone) = (Arc::clone(self), damaged.to_vec());
            blocking(move || {
                gone.iter().try_for_each(|blob| own.content.remove_blob(&blob.digest).map(drop))?;
                Ok(())
            })
            .await?;
            // Whether that helped is what the next look says.
            let _ = self.fetch(&client, &pinned, None, &super::pull::silent()).await;
        }
        Ok(())
    }

    /// Reads every blob of one image, or of all.
    fn verify(&self, reference: Option<&str>) -> Result<VerifyReport> {
        let _in_use = self.store.use_images()?;
        let mut report = VerifyReport::default();
        let mut seen = HashSet::new();
        for root in self.roots(reference)? {
            match self.documents(&root) {
                Ok(blobs) => {
                    for (digest, size) in blobs.into_iter().filter(|(digest, _)| seen.insert(digest.clone()))
                    {
                        self.verify_blob(&digest, size, &mut report)?;
                    }
                }
                Err(error) if is_damage(&error) => {
                    if seen.insert(root.clone()) {
                        report.damaged.push(DamagedBlob { digest: root, reason: error.chain() });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    /// Everything that is here of what `root` leads to: of an index, the images that this store has.
    fn documents(&self, root: &Digest) -> Result<Vec<(Digest, u64)>> {
        let (_, size) = self.content.open_blob(root)?;
        let mut blobs = vec![(root.clone(), size)];
        let parts = match self.parts(root) {
            // An index: which of its images is here is known by way of the record only.
            Err(e) if e.kind() == ErrorKind::InvalidArgument => {
                let image = self.content.resolve_digest(root)?.ok_or_else(|| not_known(&root.to_string()))?;
                self.parts(&image.manifest_digest)?
            }
            parts => parts?,
        };
        blobs.extend(
            [&parts.descriptor].into_iter().chain(parts.blobs()).map(|blob| (blob.digest.clone(), blob.size)),
        );
        Ok(blobs)
    }

    /// What the names of one image, or all names, lead to. Not by way of records, which damaged images do not have.
    fn roots(&self, reference: Option<&str>) -> Result<Vec<Digest>> {
        let Some(text) = reference else {
            let mut all: Vec<Digest> =
                self.entries()?.into_iter().map(|entry| entry.manifest_digest).collect();
            all.sort();
            all.dedup();
            return Ok(all);
        };
        if let Ok(digest) = Digest::parse(text) {
            let there = self.content.open_blob(&digest).is_ok();
            return if there { Ok(vec![digest]) } else { Err(not_known(text)) };
        }
        let name = parse_reference(text)?.to_string();
        let found = self.entries()?.into_iter().find(|entry| entry.reference.as_deref() == Some(&name));
        found.map(|entry| vec![entry.manifest_digest]).ok_or_else(|| not_known(text))
    }

    fn verify_blob(&self, digest: &Digest, size: u64, report: &mut VerifyReport) -> Result<()> {
        let read = self.content.read_blob(digest, size).map_err(Error::from).and_then(|mut reader| {
            io::copy(&mut reader, &mut io::sink())
                .map_err(|e| Error::io(format!("failed to read {digest}"), e))
        });
        report.blobs += 1;
        match read {
            Ok(bytes) => report.bytes += bytes,
            Err(error) if is_damage(&error) => {
                report.damaged.push(DamagedBlob { digest: digest.clone(), reason: error.chain() });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Whether one of the damaged blobs may be this image's.
fn concerns(entry: &ImageEntry, damaged: &[DamagedBlob]) -> bool {
    let Ok(image) = &entry.record else { return true };
    let layers = image.layers.iter().map(|layer| &layer.digest);
    let documents = [&entry.manifest_digest, &image.manifest_digest, &image.config_digest];
    layers.chain(documents).any(|digest| damaged.iter().any(|blob| blob.digest == *digest))
}

/// Not there, or not as it must be; other errors say nothing about the blob.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IntegrityViolation)
}

/// Everything an image is made of.
fn blobs(image: &ImageRecord) -> Vec<(Digest, u64)> {
    let layers = image.layers.iter().map(|layer| (layer.digest.clone(), layer.size));
    let documents = image.layers.iter().fold(image.size, |rest, layer| rest.saturating_sub(layer.size));
    // Manifest and configuration: only their sum is known, and an image has both of its own or shares both.
    layers.chain([(image.manifest_digest.clone(), documents)]).collect()
}

/// Whether somebody else uses the content store in a way that forbids removing anything now.
pub(super) fn is_busy(error: &vesselrt_storage::StorageError) -> bool {
    error.kind() == StorageErrorKind::Unavailable
}
