//! Pulling a history: every archive is verified before the vessel exists.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vesselrt_storage::compression::{Compression, Decoder};
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::image::media_type;
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};
use vesselrt_storage::registry::{self, Client, FetchEvent, RegistryError};
use vesselrt_storage::verify::Sha256Reader;
use vesselrt_storage::{Reference, StorageErrorKind};

use super::document::{self, History};
use super::{BUFFER, expect, pinned};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::images::parse_reference;
use crate::manager::pull::{Progress, of_fetch, tell};
use crate::manager::{ManagerInner, open};
use crate::offload::blocking;
use crate::store::dirs;
use crate::vessel::{pump, snapshot::Whole};

/// What a snapshot was called where it was pushed, if it is called something else here.
const ORIGIN: &str = "vesselrt.origin";

/// A history on its way here.
struct Taker {
    manager: Arc<ManagerInner>,
    client: Client,
    source: Reference,
    progress: Progress,
}

pub(in crate::manager) async fn pull(
    manager: Arc<ManagerInner>,
    reference: String,
    id: Option<String>,
    progress: Progress,
) -> Result<VesselManifest> {
    let source = parse_reference(&reference)?;
    let client = manager.client()?;
    let own = Arc::clone(&manager);
    let _lease = blocking(move || Ok(own.content.lease()?)).await?;
    let taker = Taker { manager, client, source, progress };
    let (history, original) = taker.documents().await?;
    let id = id.unwrap_or_else(|| original.id.clone());
    vesselrt_storage::validate_id(&id)
        .map_err(|e| Error::invalid(format!("invalid id of a vessel: {id:?}")).with_source(e))?;
    taker.check_free(&id).await?;
    let mut manifest = original.clone();
    taker.rename(&mut manifest, &id).await?;
    taker.base(&history, &manifest).await?;
    let taken = taker.snapshots(&history, &original, &manifest).await;
    let saved = match taken {
        Ok(()) => match taker.check_free(&id).await {
            Ok(()) => taker.manager.save_first_manifest(&manifest, false).await,
            // Another process was faster: what is saved is its own by now.
            Err(e) => return Err(e),
        },
        Err(e) => Err(e),
    };
    if let Err(error) = saved {
        // There is no vessel of that id, so all of it is ours.
        let _ = taker.manager.storage.delete_vessel(&id).await;
        return Err(error);
    }
    Ok(manifest)
}

impl Taker {
    fn failed(&self) -> impl Fn(RegistryError) -> Error + use<> {
        let message = format!("failed to pull the history {}", self.source);
        move |error| Error::registry(message.clone(), error)
    }

    /// The index and the vessel's manifest.
    async fn documents(&self) -> Result<(History, VesselManifest)> {
        let (bytes, descriptor) = self.client.manifest(&self.source).await.map_err(self.failed())?;
        if descriptor.media_type != media_type::OCI_INDEX {
            let message = format!("{} is no history of a vessel", self.source);
            return Err(Error::invalid(message).with_remedy("vesselrt pull, if it is an image"));
        }
        let history = document::parse_index(&bytes)?;
        let artifact = self.artifact(&history.vessel).await?;
        let config = document::parse_vessel(&artifact)?;
        self.fetch(&config).await?;
        let own = Arc::clone(&self.manager);
        let bytes = blocking(move || Ok(own.content.read_json_blob(&config.digest, config.size)?)).await?;
        let manifest = VesselManifest::parse(&bytes)
            .map_err(|e| Error::storage("failed to read the manifest of the pulled vessel", e))?;
        if manifest.snapshots.iter().all(|snapshot| history.snapshots.contains_key(&snapshot.id)) {
            return Ok((history, manifest));
        }
        Err(Error::integrity("the history lacks snapshots of its vessel"))
    }

    async fn artifact(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let bytes = self.client.manifest_by_digest(&self.source, descriptor).await;
        Ok(bytes.map_err(self.failed())?.to_vec())
    }

    /// A blob into the content store, resumed if it was begun before.
    async fn fetch(&self, blob: &Descriptor) -> Result<()> {
        let progress = Arc::clone(&self.progress);
        let hear = move |event: FetchEvent| {
            if let Some(at) = of_fetch(event) {
                tell(&progress, at);
            }
        };
        registry::fetch_blob(&self.client, &self.manager.content, &self.source, blob, hear)
            .await
            .map_err(self.failed())
    }

    async fn check_free(&self, id: &str) -> Result<()> {
        match self.manager.storage.load_vessel_manifest(id).await {
            Err(e) if e.kind() == StorageErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::storage(format!("failed to load the manifest of vessel {id}"), e)),
            Ok(_) => Err(Error::new(ErrorKind::AlreadyExists, format!("vessel exists already: {id}"))
                .with_remedy("give it another id: --id ID")),
        }
    }

    /// Gives the vessel its id here, and new ids to snapshots whose own are taken: their layers share one directory.
    async fn rename(&self, manifest: &mut VesselManifest, id: &str) -> Result<()> {
        let own = Arc::clone(&self.manager);
        let mut taken: HashSet<String> =
            blocking(move || dirs::names(own.store.layers.as_fd())).await?.into_iter().collect();
        for vessel in open::list(&self.manager).await? {
            taken.extend(vessel.snapshots.into_iter().map(|snapshot| snapshot.id));
        }
        let mut names: HashMap<String, String> = HashMap::new();
        for snapshot in &mut manifest.snapshots {
            let original = snapshot.id.clone();
            if taken.contains(&original) {
                snapshot.id = self.manager.config.id_generator.new_id();
                let origin = format!("{}/{original}", snapshot.vessel_id);
                snapshot.labels.entry(ORIGIN.to_owned()).or_insert(origin);
            }
            id.clone_into(&mut snapshot.vessel_id);
            names.insert(original, snapshot.id.clone());
        }
        let renamed = |id: &mut String| {
            if let Some(name) = names.get(id) {
                name.clone_into(id);
            }
        };
        manifest.snapshots.iter_mut().for_each(|snapshot| renamed(&mut snapshot.parent_id));
        renamed(&mut manifest.current_snapshot_id);
        id.clone_into(&mut manifest.id);
        Ok(())
    }

    /// Makes sure that the base image is here: from the history, or else from where its name says.
    async fn base(&self, history: &History, manifest: &VesselManifest) -> Result<()> {
        let (own, digest) = (Arc::clone(&self.manager), manifest.base_image_digest.clone());
        if !digest.is_empty() && blocking(move || Ok(own.find_image(&digest).is_ok())).await? {
            return Ok(());
        }
        let Some(base) = &history.base else { return self.manager.base_of(manifest).await.map(drop) };
        if base.digest.to_string() != manifest.base_image_digest {
            return Err(Error::integrity("the base image of the history is not the vessel's"));
        }
        let source = pinned(&self.source, &base.digest)?;
        let (fetched, _) = self.manager.fetch(&self.client, &source, None, &self.progress).await?;
        let name = Reference::parse(&manifest.base_image_ref).ok().filter(|name| name.digest().is_none());
        let own = Arc::clone(&self.manager);
        blocking(move || {
            let _in_use = own.store.use_images()?;
            // A name that means something else here goes on meaning that; the vessel has its base by digest.
            if let Some(name) = name
                && own.content.resolve(&name)?.is_none()
            {
                own.content.tag(&name, &fetched.root)?;
            }
            Ok(())
        })
        .await
    }

    async fn snapshots(
        &self,
        history: &History,
        original: &VesselManifest,
        renamed: &VesselManifest,
    ) -> Result<()> {
        for (before, snapshot) in original.snapshots.iter().zip(&renamed.snapshots) {
            let entry = history.snapshots.get(&before.id);
            let entry = entry.ok_or_else(|| Error::integrity("the history lacks snapshots of its vessel"))?;
            let archive = document::parse_snapshot(&self.artifact(entry).await?, before)?;
            self.fetch(&archive).await?;
            self.save(&archive, snapshot).await?;
            let own = Arc::clone(&self.manager);
            // The storage has it now.
            blocking(move || Ok(own.content.remove_blob(&archive.digest)?)).await?;
        }
        Ok(())
    }

    /// From the content store to the storage, decompressed and verified.
    async fn save(&self, archive: &Descriptor, snapshot: &SnapshotManifest) -> Result<()> {
        let (ours, theirs) = pump::output_pipe()?;
        let (body, tell, cut) = Whole::new(ours);
        let (own, archive, expected) = (Arc::clone(&self.manager), archive.clone(), snapshot.clone());
        let unpack = blocking(move || {
            let done = own.decompress(&archive, &expected, std::fs::File::from(theirs));
            // Nobody listens when the storage has given up.
            let _ = tell.send(done.as_ref().ok().map(|()| expected.size));
            done
        });
        let saving = self.manager.storage.save_snapshot(&snapshot.vessel_id, &snapshot.id, Box::pin(body));
        let (unpacked, saved) = tokio::join!(unpack, saving);
        match (unpacked, saved) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(error), saved) if saved.is_ok() || cut.load(Ordering::Relaxed) => Err(error),
            (_, Err(error)) => {
                Err(Error::storage(format!("failed to save the archive of snapshot {}", snapshot.id), error))
            }
            (Err(error), Ok(())) => Err(error),
        }
    }
}

impl ManagerInner {
    fn decompress(
        &self,
        archive: &Descriptor,
        snapshot: &SnapshotManifest,
        mut out: impl Write,
    ) -> Result<()> {
        let failed =
            |e| Error::io(format!("failed to decompress the archive of snapshot {}", snapshot.id), e);
        if snapshot.size > self.config.limits.snapshot_bytes {
            let message = format!("snapshot {} has {} bytes, more than allowed", snapshot.id, snapshot.size);
            return Err(Error::new(ErrorKind::LimitExceeded, message));
        }
        let blob = self.content.read_blob(&archive.digest, archive.size)?;
        let decoder =
            Decoder::new(BufReader::with_capacity(BUFFER, blob), Compression::Zstd).map_err(failed)?;
        // One byte more than there may be is enough to know.
        let mut plain = Sha256Reader::new(decoder.take(snapshot.size.saturating_add(1)));
        let mut buffer = vec![0; BUFFER];
        loop {
            match plain.read(&mut buffer).map_err(failed)? {
                0 => break,
                read => out.write_all(&buffer[..read]).map_err(failed)?,
            }
        }
        let (digest, size, _) = plain.finish();
        expect(snapshot, &digest, size)
    }
}
