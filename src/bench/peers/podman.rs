//! podman with a storage of its own, as root or rootless, on overlayfs, without network and without cgroups: as little work as
//! it can be made to do.
#![forbid(unsafe_code)]

use std::path::Path;

use async_trait::async_trait;

use super::super::lab::{self, Shared};
use super::super::race::{Clock, Entrant};
use super::command::{Cmd, Ground, installed};
use crate::cli::Outcome;
use crate::demo::scratch::Scratch;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// `exec` in a container that runs.
    Exec,
    /// `run --rm`.
    Run,
    /// `commit` of a container into which the tree was copied.
    Commit,
    /// `import` of the tree.
    Import,
    /// `diff` of a container into which the tree was copied.
    Diff,
}

const IMAGE: &str = "localhost/bench:1";
const MADE: &str = "localhost/made:1";
const CONTAINER: &str = "bench";

/// The longest path that podman takes for what it keeps while containers run.
const LONGEST: usize = 50;

/// podman.
pub(crate) struct Podman {
    kit: Kit,
    ground: Option<Ground>,
    ready: bool,
}

/// What does not change from round to round.
struct Kit {
    lab: Shared,
    work: Work,
    /// An ordinary user on a host with both versions of cgroups, where crun refuses to work and podman is told to use runc.
    hybrid: bool,
    /// Where it keeps what it needs while containers run, if the directory of all this has too long a path.
    short: Option<Scratch>,
}

impl Podman {
    pub(super) fn new(lab: &Shared, work: Work) -> Self {
        let rootless = !rustix::process::geteuid().is_root();
        let hybrid = rootless && Path::new("/sys/fs/cgroup/unified").is_dir() && installed("runc");
        let kit = Kit { lab: Shared::clone(lab), work, hybrid, short: None };
        Self { kit, ground: None, ready: false }
    }
}

impl Kit {
    fn podman(&self, ground: &Ground) -> Cmd {
        let command = Cmd::new("podman").args(runtime(self.hybrid)).arg("--root").arg(ground.path("store"));
        let run = self.short.as_ref().map_or_else(|| ground.dir(), Scratch::path);
        let command = command.arg("--runroot").arg(run.join("r")).arg("--tmpdir").arg(run.join("t"));
        command.args([
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
        ])
    }

    /// `run` or `create` with what a container needs here.
    fn container(&self, ground: &Ground, verb: &[&str]) -> Cmd {
        let command = self.podman(ground).args(verb);
        let command = command.args(["--network", "none", "--ulimit", "host"]);
        // runc cannot do without; rootless, on such a host, it has none anyway.
        let command = if self.hybrid { command } else { command.args(["--cgroups", "disabled"]) };
        match self.lab.base.variable() {
            Some((key, value)) => {
                let mut assigned = std::ffi::OsString::from(format!("{key}="));
                assigned.push(value);
                command.arg("--env").arg(assigned)
            }
            None => command,
        }
    }

    async fn prepare(&self, ground: &mut Ground) -> Outcome {
        let import = self.podman(ground).args(["import", "-q"]).arg(&self.lab.base.tar).arg(IMAGE);
        ground.run(&import).await?;
        if self.work == Work::Exec {
            let start = self.container(ground, &["run", "-d", "--name", CONTAINER]);
            ground.run(&start.args([IMAGE, "/bin/sleep", "900"])).await?;
        }
        if self.work == Work::Diff {
            self.container_with_tree(ground).await?;
        }
        Ok(())
    }

    async fn container_with_tree(&self, ground: &mut Ground) -> Outcome {
        let (tree, _) = self.lab.tree().await?;
        let create = self.container(ground, &["create", "--name", CONTAINER]).args([IMAGE, "/bin/true"]);
        ground.run(&create).await?;
        let copy = self.podman(ground).arg("cp").arg(tree).arg(format!("{CONTAINER}:/work"));
        ground.run(&copy).await
    }

    async fn round(&self, ground: &mut Ground, clock: &mut Clock) -> Outcome {
        match self.work {
            Work::Exec => {
                let command = self.podman(ground).args(["exec", CONTAINER, "/bin/true"]);
                clock.time(ground.run(&command)).await
            }
            Work::Run => {
                let command = self.container(ground, &["run", "--rm"]).args([IMAGE, "/bin/true"]);
                clock.time(ground.run(&command)).await
            }
            Work::Diff => {
                let diff = self.podman(ground).args(["diff", CONTAINER]);
                clock.time(ground.run(&diff)).await
            }
            Work::Commit => self.commit(ground, clock).await,
            Work::Import => {
                let import = self.podman(ground).args(["import", "-q"]).arg(self.lab.gzip().await?).arg(MADE);
                self.lab.settle().await?;
                clock.time(ground.run(&import)).await?;
                ground.run(&self.podman(ground).args(["rmi", "-f", MADE])).await
            }
        }
    }

    async fn commit(&self, ground: &mut Ground, clock: &mut Clock) -> Outcome {
        self.container_with_tree(ground).await?;
        self.lab.settle().await?;
        let commit = self.podman(ground).args(["commit", "-q", CONTAINER, MADE]);
        clock.time(ground.run(&commit)).await?;
        ground.run(&self.podman(ground).args(["rmi", "-f", MADE])).await?;
        ground.run(&self.podman(ground).args(["rm", "-f", CONTAINER])).await
    }
}

fn runtime(hybrid: bool) -> &'static [&'static str] {
    if hybrid { &["--runtime", "runc"] } else { &[] }
}

#[async_trait(?Send)]
impl Entrant for Podman {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let ground = match &mut self.ground {
            Some(ground) => ground,
            none => none.insert(Ground::sheltered(self.kit.lab.fresh("podman"))?),
        };
        if !self.ready {
            if ground.path("r").as_os_str().len() > LONGEST {
                self.kit.short = Some(Scratch::short()?);
            }
            self.kit.prepare(ground).await?;
            self.ready = true;
        }
        self.kit.round(ground, clock).await.map(|()| None)
    }

    async fn end(&mut self) {
        let Some(mut ground) = self.ground.take() else { return };
        let _ = ground.run(&self.kit.podman(&ground).args(["rm", "-f", "-a", "-t", "0"])).await;
        // Files of other ids can only be removed by those who have them; and this ends the process that rootless podman leaves.
        let _ = ground.run(&self.kit.podman(&ground).args(["system", "reset", "-f"])).await;
        ground.end().await;
        self.kit.short = None;
        let _ = lab::remove(ground.dir().to_owned()).await;
    }
}
