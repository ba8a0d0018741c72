//! [`Taps`]: the layers of an archive are unpacked while they are stored.
#![forbid(unsafe_code)]

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use vesselrt_runtime::shim::client::CallError;
use vesselrt_runtime::worker::{self, Job, JobDone, Lower, Worker};
use vesselrt_storage::Digest;
use vesselrt_storage::archive::{LayerTap, TapLayer, TapStream, Tapped};
use vesselrt_storage::compression::Compression;
use vesselrt_storage::image::record::chain_id;

use super::ManagerInner;
use super::layers::{make_tree, sha256_hex};
use crate::error::{Error, Result};
use crate::store::staged::{Staged, unique};
use crate::store::{Store, dirs};

/// Bytes in a pipe between two processes that both have other things to do: what may be asked for without privilege
/// (pipe(7), `/proc/sys/fs/pipe-max-size`).
const PIPE: usize = 1 << 20;

/// Unpacks the layers of one image, from below, into a staging directory. Whatever fails here, or comes in another order,
/// is left to [`ManagerInner::unpack_layers`].
pub(super) struct Taps<'a> {
    manager: &'a ManagerInner,
    worker: Option<Worker>,
    /// Where the layers are until the image is whole: under their chain ids.
    home: Option<Staged>,
    arrived: Vec<String>,
    /// All layers so far, topmost first.
    below: Vec<Lower>,
    chain: Option<Digest>,
    warnings: Vec<String>,
}

impl<'a> Taps<'a> {
    /// For one image. Hold the lock that keeps images from being removed.
    pub(super) fn new(manager: &'a ManagerInner) -> Self {
        let (below, arrived) = (Vec::new(), Vec::new());
        Self { manager, worker: None, home: None, arrived, below, chain: None, warnings: Vec::new() }
    }

    /// The image is whole: its layers get their places. Says what was left out or changed in them.
    pub(super) fn publish(self) -> Result<Vec<String>> {
        let layers = self.manager.store.image_layers.as_fd();
        for chain in &self.arrived {
            let Some(home) = &self.home else { break };
            // One that another process has published meanwhile is as good.
            dirs::publish(home.dir(), chain, layers, chain)?;
        }
        dirs::sync(layers)?;
        Ok(self.warnings)
    }

    /// A layer with this content on those that are there.
    fn chain_on(&self, diff_id: &Digest) -> Digest {
        chain_id(self.chain.as_ref(), diff_id)
    }

    fn add(&mut self, chain: Digest, layer: impl FnOnce(String) -> Lower) {
        self.below.insert(0, layer(chain.hex().to_owned()));
        self.chain = Some(chain);
    }

    /// Whether the layer is there already; then it is one of those below the next.
    fn has(&mut self, diff_id: &Digest) -> Result<bool> {
        let chain = self.chain_on(diff_id);
        let there = dirs::exists(self.manager.store.image_layers.as_fd(), sha256_hex(&chain)?)?;
        if there {
            self.add(chain, Lower::Unpacked);
        }
        Ok(there)
    }

    fn start(&mut self, layer: &TapLayer<'_>) -> Result<Running> {
        let worker = match self.worker.take() {
            // Of this thread: it dies with the one that started it.
            None => self.manager.launcher()?.worker()?,
            Some(worker) => worker,
        };
        let job = Job::UnpackIncoming {
            compression: of_worker(layer.compression)
                .ok_or_else(|| Error::internal("an unknown compression"))?,
            most: layer.limit,
            strict: layer.diff_id.is_none(),
            lowers: self.below.clone(),
        };
        let store = &self.manager.store;
        let home = match &self.home {
            Some(home) => home,
            None => self.home.insert(Staged::new(store)?),
        };
        Running::new(store, home.dir(), worker, job)
    }

    fn take(&mut self, running: Running, expected: Option<&Digest>) -> Result<Tapped> {
        let (worker, layer, name, done) = running.join()?;
        self.worker = Some(worker);
        let JobDone::Arrived { diff_id, zeros, entries, warnings } = done else {
            return Err(Error::internal("unexpected reply of the worker: not unpacked"));
        };
        let diff_id = Digest::parse(&format!("sha256:{diff_id}"))
            .map_err(|e| Error::internal("the worker's digest is malformed").with_source(e))?;
        if expected.is_some_and(|expected| *expected != diff_id) {
            return Err(Error::integrity("the layer is not the one that it should be"));
        }
        let chain = self.chain_on(&diff_id);
        let home = self.home.as_ref().ok_or_else(|| Error::internal("a layer without a place"))?.dir();
        dirs::sync(layer.as_fd())?;
        rustix::fs::renameat(home, name, home, sha256_hex(&chain)?)
            .map_err(|e| Error::io("failed to name an unpacked layer", e))?;
        self.arrived.push(chain.hex().to_owned());
        self.add(chain, Lower::Arrived);
        self.warnings.extend(warnings);
        Ok(Tapped { diff_id, zeros, entries })
    }
}

impl LayerTap for Taps<'_> {
    fn begin<'a>(&'a mut self, layer: &TapLayer<'_>) -> Option<Box<dyn TapStream + 'a>> {
        if layer.index != self.below.len() {
            return None;
        }
        if let Some(diff_id) = layer.diff_id
            && self.has(diff_id).unwrap_or(true)
        {
            return None;
        }
        let running = self.start(layer).ok()?;
        Some(Box::new(Way { expected: layer.diff_id.cloned(), running, taps: self }))
    }
}

/// The way of one layer to the worker.
struct Way<'t, 'm> {
    taps: &'t mut Taps<'m>,
    expected: Option<Digest>,
    running: Running,
}

impl Write for Way<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.running.pipe.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TapStream for Way<'_, '_> {
    fn finish(self: Box<Self>) -> Option<Tapped> {
        let Self { taps, expected, running } = *self;
        taps.take(running, expected.as_ref()).ok()
    }
}

/// A worker that unpacks what is written to its pipe.
struct Running {
    pipe: PipeWriter,
    layer: OwnedFd,
    name: String,
    thread: JoinHandle<(Worker, Result<JobDone, CallError>)>,
}

impl Running {
    fn new(store: &Store, home: BorrowedFd<'_>, mut worker: Worker, job: Job) -> Result<Self> {
        let failed = |e| Error::io("failed to start unpacking a layer", e);
        let name = unique("layer");
        let layer = store.make_owned(home, &name)?;
        let tree = make_tree(store, layer.as_fd())?;
        let layers = store.image_layers.try_clone().map_err(failed)?;
        let before = home.try_clone_to_owned().map_err(failed)?;
        let (theirs, pipe) = pipe().map_err(failed)?;
        let run = move || {
            let fds = [theirs.as_fd(), layers.as_fd(), before.as_fd(), tree.as_fd()];
            let done = worker.run(&job, &fds, &mut |_| {});
            (worker, done)
        };
        let thread = std::thread::Builder::new().name("vesselrt-unpack".into()).spawn(run).map_err(failed)?;
        Ok(Self { pipe, layer, name, thread })
    }

    /// The stream is complete: waits for what it came to.
    fn join(self) -> Result<(Worker, OwnedFd, String, JobDone)> {
        drop(self.pipe);
        let (worker, done) =
            self.thread.join().map_err(|_| Error::internal("the unpacking thread panicked"))?;
        Ok((worker, self.layer, self.name, done?))
    }
}

fn pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (read, write) = io::pipe()?;
    // A small one serves as well, with more changes between the two.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE);
    Ok((read, write))
}

/// The worker's word for it.
fn of_worker(compression: Compression) -> Option<worker::Compression> {
    match compression {
        Compression::None => Some(worker::Compression::None),
        Compression::Gzip => Some(worker::Compression::Gzip),
        Compression::Zstd => Some(worker::Compression::Zstd),
        _ => None,
    }
}
