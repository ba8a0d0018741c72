//! [`Taps`]: the layers of an archive are unpacked while they are stored.
#![forbid(unsafe_code)]

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use vesselrt_runtime::shim::client::CallError;
use vesselrt_runtime::worker::{self, Job, JobDone, Worker};
use vesselrt_storage::Digest;
use vesselrt_storage::archive::{LayerTap, TapLayer, TapStream, Tapped};
use vesselrt_storage::compression::Compression;
use vesselrt_storage::image::record::chain_id;

use super::ManagerInner;
use super::layers::{publish, sha256_hex, stage_tree};
use crate::error::{Error, Result};
use crate::store::staged::Staged;
use crate::store::{Store, dirs};

/// Bytes in a pipe between two processes that both have other things to do: what may be asked for without privilege
/// (pipe(7), `/proc/sys/fs/pipe-max-size`).
const PIPE: usize = 1 << 20;

/// Unpacks the layers of one image, from below, into the unpacked layers of the store. Whatever fails here, or comes in
/// another order, is left to [`ManagerInner::unpack_layers`].
pub(super) struct Taps<'a> {
    manager: &'a ManagerInner,
    worker: Option<Worker>,
    /// Layers that are there: their chain ids, topmost first.
    below: Vec<String>,
    chain: Option<Digest>,
    warnings: Vec<String>,
}

impl<'a> Taps<'a> {
    /// For one image. Hold the lock that keeps images from being removed.
    pub(super) fn new(manager: &'a ManagerInner) -> Self {
        Self { manager, worker: None, below: Vec::new(), chain: None, warnings: Vec::new() }
    }

    /// What was left out or changed.
    pub(super) fn warnings(self) -> Vec<String> {
        self.warnings
    }

    /// A layer with this content on those that are there.
    fn chain_on(&self, diff_id: &Digest) -> Digest {
        chain_id(self.chain.as_ref(), diff_id)
    }

    fn add(&mut self, chain: Digest) {
        self.below.insert(0, chain.hex().to_owned());
        self.chain = Some(chain);
    }

    /// Whether the layer is there already; then it is one of those below the next.
    fn has(&mut self, diff_id: &Digest) -> Result<bool> {
        let chain = self.chain_on(diff_id);
        let there = dirs::exists(self.manager.store.image_layers.as_fd(), sha256_hex(&chain)?)?;
        if there {
            self.add(chain);
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
        Running::new(&self.manager.store, worker, job)
    }

    fn take(&mut self, running: Running, expected: Option<&Digest>) -> Result<Tapped> {
        let (worker, staged, done) = running.join()?;
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
        publish(staged, self.manager.store.image_layers.as_fd(), chain.hex())?;
        self.add(chain);
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
    staged: Staged,
    thread: JoinHandle<(Worker, Result<JobDone, CallError>)>,
}

impl Running {
    fn new(store: &Arc<Store>, mut worker: Worker, job: Job) -> Result<Self> {
        let failed = |e| Error::io("failed to start unpacking a layer", e);
        let (staged, tree) = stage_tree(store)?;
        let layers = store.image_layers.try_clone().map_err(failed)?;
        let (theirs, pipe) = pipe().map_err(failed)?;
        let run = move || {
            let done = worker.run(&job, &[theirs.as_fd(), layers.as_fd(), tree.as_fd()], &mut |_| {});
            (worker, done)
        };
        let thread = std::thread::Builder::new().name("vesselrt-unpack".into()).spawn(run).map_err(failed)?;
        Ok(Self { pipe, staged, thread })
    }

    /// The stream is complete: waits for what it came to.
    fn join(self) -> Result<(Worker, Staged, JobDone)> {
        drop(self.pipe);
        let (worker, done) =
            self.thread.join().map_err(|_| Error::internal("the unpacking thread panicked"))?;
        Ok((worker, self.staged, done?))
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
