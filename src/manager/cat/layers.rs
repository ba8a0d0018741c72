//! [`Layers`]: the layers of a snapshot, each an archive or an unpacked tree, looked into when it is needed.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::runtime::Handle;
use vesselrt_runtime::layer::find::{copy, find};
use vesselrt_runtime::layer::{FileNode, FindError, Limits, Node};
use vesselrt_runtime::shim::protocol::Driver;
use vesselrt_runtime::worker::{Job, JobDone, TreeFormat, Worker};
use vesselrt_storage::error::{StorageError, StorageErrorKind, io_kind};
use vesselrt_storage::manifest::{SnapshotManifest, VesselManifest};
use vesselrt_storage::{Digest, RandomAccess};

use super::SnapshotRead;
use super::reader::Tar;
use super::resolve::Look;
use crate::error::{Error, Result};
use crate::manager::ManagerInner;
use crate::manager::layers::sha256_hex;
use crate::manager::open::read_state;
use crate::store::dirs;
use crate::store::lock::FileLock;

/// Where a layer is.
enum Place {
    /// A snapshot, not looked for yet.
    Snapshot(Box<SnapshotManifest>),
    /// Its archive, read in any order.
    Parts(Arc<dyn RandomAccess>),
    /// Its archive, read from the beginning and verified as a whole, each time.
    Whole(Box<SnapshotManifest>),
    /// The directory of an unpacked layer, and what wrote its tree.
    Tree(OwnedFd, TreeFormat),
    /// The image, which cannot be read; why, until it is told.
    Missing(Option<Box<Error>>),
}

struct Layer {
    place: Place,
    /// What was looked up.
    known: HashMap<Vec<u8>, Option<Node>>,
}

/// The layers of a snapshot, the topmost first, and those of the image under them.
pub(super) struct Layers {
    manager: Arc<ManagerInner>,
    handle: Handle,
    vessel: String,
    read: SnapshotRead,
    layers: Vec<Layer>,
    worker: Option<Worker>,
    /// So that the image stays while it is read.
    _images: FileLock,
}

impl Layers {
    pub(super) fn new(
        manager: Arc<ManagerInner>,
        handle: Handle,
        manifest: &VesselManifest,
        snapshot: &str,
        read: SnapshotRead,
    ) -> Result<Self> {
        let failed = |e| Error::storage(format!("failed to find the snapshots below {snapshot}"), e);
        let chain = manifest.chain(snapshot).map_err(failed)?;
        let mut places: Vec<Place> =
            chain.into_iter().rev().map(|below| Place::Snapshot(Box::new(below.clone()))).collect();
        let images = manager.store.use_images()?;
        match image_layers(&manager, manifest) {
            Ok(below) => places.extend(below),
            // Needed for nothing that is in a snapshot.
            Err(error) => places.push(Place::Missing(Some(Box::new(error)))),
        }
        let layers = places.into_iter().map(|place| Layer { place, known: HashMap::new() }).collect();
        let vessel = manifest.id.clone();
        Ok(Self { manager, handle, vessel, read, layers, worker: None, _images: images })
    }

    /// Decides how a snapshot is read: from its archive, or else from its sealed layer.
    fn place(&self, snapshot: Box<SnapshotManifest>) -> Result<Place> {
        let id = &snapshot.id;
        if self.read.verify {
            return Ok(Place::Whole(snapshot));
        }
        match self.handle.block_on(self.manager.storage.open_snapshot(&snapshot.vessel_id, id)) {
            Ok(Some(archive)) => Ok(Place::Parts(archive)),
            Ok(None) => Ok(Place::Whole(snapshot)),
            Err(error) if error.kind() == StorageErrorKind::NotFound => match self.sealed(id)? {
                Some(tree) => Ok(tree),
                None => Err(unreadable(id, error)),
            },
            Err(error) => Err(unreadable(id, error)),
        }
    }

    fn sealed(&self, snapshot: &str) -> Result<Option<Place>> {
        let (Some(layer), Some(dir)) = (
            dirs::open(self.manager.store.layers.as_fd(), snapshot)?,
            self.manager.store.vessel(&self.vessel)?,
        ) else {
            return Ok(None);
        };
        let format = match read_state(&self.vessel, dir.as_fd())?.driver {
            Some(Driver::Fuse) => TreeFormat::FuseOverlay,
            Some(Driver::Kernel) | None => TreeFormat::Overlay,
        };
        Ok(Some(Place::Tree(layer, format)))
    }

    /// The archive of the layer `index`, from its beginning; `None` where there is a tree.
    fn tar(&self, index: usize) -> Result<Option<Tar>> {
        let handle = self.handle.clone();
        match &self.layers[index].place {
            Place::Parts(archive) => Ok(Some(Tar::parts(Arc::clone(archive), handle))),
            Place::Whole(snapshot) | Place::Snapshot(snapshot) => {
                let id = &snapshot.id;
                let digest = Digest::parse(&snapshot.checksum).map_err(|e| {
                    Error::integrity(format!("checksum of snapshot {id} is malformed")).with_source(e)
                })?;
                let load = self.manager.storage.load_snapshot(&snapshot.vessel_id, id);
                let stream = handle.block_on(load).map_err(|e| unreadable(id, e))?;
                Ok(Some(Tar::whole(stream, handle, digest, snapshot.size)))
            }
            Place::Tree(..) | Place::Missing(_) => Ok(None),
        }
    }

    /// Writes the content of `file`, which the layer `index` has under `path`.
    pub(super) fn copy(
        mut self,
        index: usize,
        path: &[u8],
        file: &FileNode,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        match self.tar(index).map_err(io::Error::other)? {
            Some(mut tar) => {
                copy(&mut tar, file, out)?;
                tar.finish()
            }
            None => self.copy_from_tree(index, path, out),
        }
    }

    fn copy_from_tree(&mut self, index: usize, path: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let (mut from, to) = io::pipe()?;
        let Place::Tree(layer, _) = &self.layers[index].place else {
            return Err(io::Error::other("the layer is no tree"));
        };
        let worker = worker_of(&self.manager, &mut self.worker).map_err(io::Error::other)?;
        let job = Job::CopyFile { path: path.to_vec() };
        std::thread::scope(|scope| {
            // Ours too of the pipe's ends is closed with the thread, so that the end is seen.
            let copying = scope.spawn(move || worker.run(&job, &[layer.as_fd(), to.as_fd()], &mut |_| {}));
            let copied = io::copy(&mut from, out);
            // A worker that still writes then meets a closed pipe.
            drop(from);
            let done = copying.join().map_err(|_| io::Error::other("the thread of a worker panicked"))?;
            match (copied?, done.map_err(io::Error::other)?) {
                (copied, JobDone::Copied(len)) if copied == len => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        })
    }

    fn look_up(&mut self, index: usize, paths: &[Vec<u8>]) -> Result<Vec<Option<Node>>> {
        if let Place::Snapshot(snapshot) = &self.layers[index].place {
            let place = self.place(snapshot.clone())?;
            self.layers[index].place = place;
        }
        if let Some(mut tar) = self.tar(index)? {
            let found = find(&mut tar, paths, &Limits::default());
            // Whether it is the right archive is the better answer to what is wrong with it.
            tar.finish().map_err(|e| Error::io("failed to read the archive of a snapshot", e))?;
            return found.map_err(not_searched);
        }
        let (layer, format) = match &mut self.layers[index].place {
            Place::Tree(layer, format) => (layer, format),
            Place::Missing(error) => return Err(missing_image(error.take())),
            _ => return Err(Error::internal("a layer that is neither archive nor tree")),
        };
        let job = Job::Look { format: *format, paths: paths.to_vec() };
        let worker = worker_of(&self.manager, &mut self.worker)?;
        match worker.run(&job, &[layer.as_fd()], &mut |_| {})? {
            JobDone::Looked(nodes) if nodes.len() == paths.len() => Ok(nodes),
            _ => Err(Error::internal("unexpected reply of the worker: not looked up")),
        }
    }
}

impl Look for Layers {
    fn count(&self) -> usize {
        self.layers.len()
    }

    fn look(&mut self, index: usize, path: &[u8], rest: &[Vec<u8>]) -> Result<Option<Node>> {
        if let Some(node) = self.layers[index].known.get(path) {
            return Ok(node.clone());
        }
        let paths: Vec<Vec<u8>> = std::iter::once(path.to_vec()).chain(rest.iter().cloned()).collect();
        let nodes = self.look_up(index, &paths)?;
        self.layers[index].known.extend(paths.into_iter().zip(nodes));
        Ok(self.layers[index].known.get(path).cloned().flatten())
    }
}

fn worker_of<'a>(manager: &ManagerInner, worker: &'a mut Option<Worker>) -> Result<&'a mut Worker> {
    match worker {
        Some(worker) => Ok(worker),
        none => Ok(none.insert(manager.launcher()?.worker()?)),
    }
}

/// The unpacked layers of the image that the vessel is based on, the topmost first.
fn image_layers(manager: &ManagerInner, manifest: &VesselManifest) -> Result<Vec<Place>> {
    let image = match manifest.base_image_digest.as_str() {
        "" => manager.find_image(&manifest.base_image_ref)?,
        digest => manager.find_image(digest)?,
    };
    manager.unpack_image(&image, &mut |_| {})?;
    let open = |layer: &vesselrt_storage::LayerRecord| {
        let chain = sha256_hex(&layer.chain_id)?;
        let dir = dirs::open(manager.store.image_layers.as_fd(), chain)?;
        let missing = || Error::integrity(format!("the unpacked layer {chain} is not there"));
        dir.map(|dir| Place::Tree(dir, TreeFormat::Overlay)).ok_or_else(missing)
    };
    image.layers.iter().rev().map(open).collect()
}

fn missing_image(error: Option<Box<Error>>) -> Error {
    error.map_or_else(|| Error::not_found("the image of the vessel is not there"), |error| *error)
}

fn unreadable(snapshot: &str, error: StorageError) -> Error {
    Error::storage(format!("failed to open the archive of snapshot {snapshot}"), error)
}

fn not_searched(error: FindError) -> Error {
    const MESSAGE: &str = "failed to search the archive of a snapshot";
    match error.io_error().map(io_kind) {
        Some(StorageErrorKind::IntegrityViolation) | None => Error::integrity(MESSAGE).with_source(error),
        Some(_) => Error::new(crate::error::ErrorKind::Internal, MESSAGE).with_source(error),
    }
}
