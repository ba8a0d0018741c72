//! [`Lab`]: what all benchmarks share, in one temporary directory: a store with the base image, the tree, its archives.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flate2::write::GzEncoder;
use rustix::fs::{CWD, Mode, OFlags};
use tar::{Builder, HeaderMode};
use vesselrt::{CreateOptions, ExecOptions, Manager, ManagerConfig, Vessel};
use vesselrt_runtime::layer::remove_tree;

use super::base::Base;
use super::peers::Peers;
use super::peers::command::{Cmd, Ground};
use super::trees::{self, Wanted, Written};
use crate::cli::{Context, Failure, Outcome};

/// The name of the base image in every store.
pub(super) const IMAGE: &str = "bench.invalid/base:latest";
/// Where the tree is in a vessel.
pub(super) const TREE: &str = "/work/tree";
const WORK_DIR: &str = "/work";

/// What all benchmarks share.
#[derive(Debug)]
pub(crate) struct Lab {
    dir: PathBuf,
    config: ManagerConfig,
    pub(super) manager: Manager,
    pub(super) base: Base,
    pub(super) peers: Peers,
    pub(super) tree: OnceTree,
    /// Longest that one round may take.
    pub(super) limit: Duration,
    pub(super) rounds: u32,
    /// What was written is synced before anything is timed.
    settled: bool,
    numbers: AtomicU32,
}

/// The tree, and archives of it; each made when it is first needed.
#[derive(Debug)]
pub(super) struct OnceTree {
    wanted: Wanted,
    dir: tokio::sync::OnceCell<(PathBuf, Written)>,
    tar: tokio::sync::OnceCell<PathBuf>,
    gzip: tokio::sync::OnceCell<PathBuf>,
}

impl OnceTree {
    pub(super) fn new(wanted: Wanted) -> Self {
        let (dir, tar, gzip) = Default::default();
        Self { wanted, dir, tar, gzip }
    }

    /// What was written, if it was needed.
    pub(super) fn written(&self) -> Option<Written> {
        self.dir.get().map(|(_, written)| *written)
    }
}

impl Lab {
    /// Begins in the empty directory `dir`: a store with the base image.
    pub(super) async fn begin(
        dir: &Path,
        context: &Context,
        wanted: Wanted,
        peers: Peers,
        rounds: u32,
        limit: Duration,
        settled: bool,
    ) -> Outcome<Self> {
        let own = dir.to_owned();
        let base = blocking(move || Base::make(&own)).await?;
        let config = context.config_at(&dir.join("store"));
        let manager = with_image(&config, &base).await?;
        let (dir, tree, numbers) = (dir.to_owned(), OnceTree::new(wanted), AtomicU32::new(0));
        Ok(Self { dir, config, manager, base, peers, tree, limit, rounds, settled, numbers })
    }

    /// The store of [`Self::manager`].
    pub(super) fn store(&self) -> &Path {
        &self.config.root
    }

    /// A path in the directory of all this that nobody else gets.
    pub(super) fn fresh(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-{}", self.numbers.fetch_add(1, Ordering::Relaxed)))
    }

    /// The directory of all this.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration of another store in `root`.
    pub(super) fn config_at(&self, root: &Path) -> ManagerConfig {
        self.config.clone().root(root)
    }

    /// The tree as a directory, and what is in it.
    pub(super) async fn tree(&self) -> Outcome<(&Path, Written)> {
        let made = self.tree.dir.get_or_try_init(|| async {
            let (path, wanted) = (self.fresh("tree"), self.tree.wanted);
            blocking(move || {
                let made = std::fs::create_dir(&path).and_then(|()| trees::write(&path, &wanted));
                made.map(|written| (path, written)).map_err(|e| Failure::io("write the tree", e))
            })
            .await
        });
        made.await.map(|(path, written)| (path.as_path(), *written))
    }

    /// The tree as a plain tar.
    pub(super) async fn tar(&self) -> Outcome<&Path> {
        let (tree, _) = self.tree().await?;
        let made = self.tree.tar.get_or_try_init(|| async {
            let (tree, path) = (tree.to_owned(), self.fresh("tree.tar"));
            blocking(move || {
                archive(&tree, &path).map(|()| path).map_err(|e| Failure::io("archive the tree", e))
            })
            .await
        });
        made.await.map(PathBuf::as_path)
    }

    /// The tree as a tar compressed by gzip at its fastest, as image layers are.
    pub(super) async fn gzip(&self) -> Outcome<&Path> {
        let tar = self.tar().await?;
        let made = self.tree.gzip.get_or_try_init(|| async {
            let (tar, path) = (tar.to_owned(), self.fresh("tree.tar.gz"));
            blocking(move || {
                gzip(&tar, &path).map(|()| path).map_err(|e| Failure::io("compress the tree", e))
            })
            .await
        });
        made.await.map(PathBuf::as_path)
    }

    /// A new vessel on the base image.
    pub(super) async fn vessel(&self) -> Outcome<Vessel> {
        Ok(self.manager.create_vessel_with(CreateOptions::new(IMAGE).work_dir(WORK_DIR)).await?)
    }

    /// A new vessel with the tree in it, on disk.
    pub(super) async fn vessel_with_tree(&self) -> Outcome<Vessel> {
        let tar = self.tar().await?;
        let vessel = self.vessel().await?;
        vessel.make_dir(TREE, 0o755).await?;
        let file = tokio::fs::File::open(tar).await.map_err(|e| Failure::io("open the tree's archive", e))?;
        vessel.copy_in(TREE, file).await?;
        // A new shim: the memory that copying took is not counted for what comes next, and the copying is surely over.
        vessel.close().await?;
        self.settle().await?;
        Ok(self.manager.open_vessel(vessel.id()).await?)
    }

    /// Ends a vessel.
    pub(super) async fn discard(&self, vessel: &Vessel) -> Outcome {
        self.manager.delete_vessel(vessel.id()).await?;
        vessel.close().await?;
        // What is removed later would be removed while something is timed.
        self.manager.close().await?;
        Ok(())
    }

    /// `true` with what it needs.
    pub(super) fn nothing(&self) -> ExecOptions {
        let options = ExecOptions::new(["/bin/true"]).persist_result(true);
        match self.base.variable() {
            Some((key, value)) => options.env(key, value),
            None => options,
        }
    }

    /// A command of ours on the store.
    pub(super) fn command(&self) -> Outcome<Cmd> {
        let program = std::env::current_exe().map_err(|e| Failure::io("find this program", e))?;
        Ok(Cmd::new(program).arg("--root").arg(self.store()))
    }

    /// Where commands of ours run.
    pub(super) fn ground(&self, name: &str) -> Outcome<Ground> {
        Ground::host(self.fresh(name))
    }

    /// Waits until everything that was written is on disk, so that nobody is timed writing what somebody else wrote; unless
    /// that is not wanted.
    pub(super) async fn settle(&self) -> Outcome {
        if !self.settled {
            return Ok(());
        }
        let dir = self.dir.clone();
        blocking(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let synced = rustix::fs::openat(CWD, &dir, flags, Mode::empty()).and_then(rustix::fs::syncfs);
            synced.map_err(|e| Failure::io("sync the file system", e))
        })
        .await
    }
}

/// Opens a store that is not there yet, and imports the base image.
pub(super) async fn with_image(config: &ManagerConfig, base: &Base) -> Outcome<Manager> {
    let manager = Manager::new(config.clone()).await?;
    manager.import_image(&base.tar, IMAGE, |_| {}).await?;
    Ok(manager)
}

/// Removes a directory with everything in it.
pub(super) async fn remove(path: PathBuf) -> Outcome {
    blocking(move || {
        let removed = || -> io::Result<()> {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            remove_tree(
                std::os::fd::AsFd::as_fd(&rustix::fs::openat(CWD, parent, flags, Mode::empty())?),
                name,
            )
        };
        match removed() {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Failure::io(format!("remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    })
    .await
}

/// Blocking work, off the threads that wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Failure::internal(format!("a thread of the benchmark failed: {e}")))?
}

/// Owned by root, whoever runs this.
fn archive(tree: &Path, to: &Path) -> io::Result<()> {
    let mut tar = Builder::new(io::BufWriter::with_capacity(1 << 20, File::create_new(to)?));
    tar.mode(HeaderMode::Deterministic);
    tar.follow_symlinks(false);
    tar.sparse(false);
    tar.append_dir_all(".", tree)?;
    tar.into_inner()?.into_inner()?.sync_all()
}

fn gzip(tar: &Path, to: &Path) -> io::Result<()> {
    let mut out = GzEncoder::new(File::create_new(to)?, flate2::Compression::fast());
    io::copy(&mut File::open(tar)?, &mut out)?;
    out.finish()?.sync_all()
}

/// Kept alive by every benchmark.
pub(super) type Shared = Arc<Lab>;
