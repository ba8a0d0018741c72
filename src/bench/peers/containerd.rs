//! containerd with ctr: a daemon of its own in a shelter, with private directories, on overlayfs, without the plugin for
//! Kubernetes.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use vesselrt::{Manager, SaveFormat};

use super::super::lab::{self, IMAGE, Shared};
use super::super::race::{Clock, Entrant, unable};
use super::command::{Cmd, Ground};
use crate::cli::{Failure, Outcome};

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// `task exec` in a container that runs.
    Exec,
    /// `run --rm`.
    Run,
    /// `snapshot diff` of a snapshot into which the tree was copied.
    Diff,
    /// `image import` of the tree.
    Import,
}

/// `/run` of the shelter is its own.
const SOCKET: &str = "/run/vesselrt-bench.sock";
const CONTAINER: &str = "bench";
const SNAPSHOT: &str = "bench-tree";
/// How often it is asked whether the daemon is there, a tenth of a second apart.
const ATTEMPTS: u32 = 100;

/// containerd.
pub(crate) struct Containerd {
    kit: Kit,
    ground: Option<Ground>,
    ready: bool,
    rounds: u32,
}

/// What does not change from round to round.
struct Kit {
    lab: Shared,
    work: Work,
}

impl Containerd {
    pub(super) fn new(lab: &Shared, work: Work) -> Self {
        Self { kit: Kit { lab: Shared::clone(lab), work }, ground: None, ready: false, rounds: 0 }
    }
}

fn ctr() -> Cmd {
    Cmd::new("ctr").args(["--address", SOCKET])
}

impl Kit {
    async fn prepare(&self, ground: &mut Ground) -> Outcome {
        let config = ground.path("config.toml");
        let text = format!(
            "version = 2\nroot = {:?}\nstate = \"/run/vesselrt-bench\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {SOCKET:?}\n",
            ground.path("root").display().to_string(),
        );
        std::fs::write(&config, text).map_err(|e| Failure::io("configure containerd", e))?;
        ground.run(&Cmd::bash("containerd -c \"$1\" >\"$2\" 2>&1 &", [config, ground.path("log")])).await?;
        self.wait(ground).await?;
        let archive = ground.path("base.oci.tar");
        self.lab.manager.save_image(IMAGE, SaveFormat::OciArchive, &archive).await?;
        ground.run(&import(archive)).await?;
        match self.work {
            Work::Exec => ground.run(&self.container(&["-d"], CONTAINER, &["/bin/sleep", "900"])).await,
            Work::Import => self.save_tree(ground.path("tree.oci.tar")).await,
            Work::Run | Work::Diff => Ok(()),
        }
    }

    async fn wait(&self, ground: &mut Ground) -> Outcome {
        for _ in 0..ATTEMPTS {
            if ground.run(&ctr().arg("version")).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(unable("containerd does not answer"))
    }

    /// The tree as an archive of an image, by a store of ours.
    async fn save_tree(&self, archive: PathBuf) -> Outcome {
        let root = self.lab.fresh("saved");
        let manager = Manager::new(self.lab.config_at(&root)).await?;
        let imported = manager.import_image(self.lab.gzip().await?, IMAGE, |_| {}).await;
        let saved = match imported {
            Ok(_) => manager.save_image(IMAGE, SaveFormat::OciArchive, archive).await,
            Err(error) => Err(error),
        };
        let _ = manager.remove_image(IMAGE).await;
        let _ = manager.close().await;
        lab::remove(root).await?;
        Ok(saved?)
    }

    /// `run` with what a container needs here.
    fn container(&self, flags: &[&str], id: &str, args: &[&str]) -> Cmd {
        let command = ctr().args(["run", "--null-io"]).args(flags);
        let command = match self.lab.base.variable() {
            Some((key, value)) => {
                let mut assigned = std::ffi::OsString::from(format!("{key}="));
                assigned.push(value);
                command.arg("--env").arg(assigned)
            }
            None => command,
        };
        command.args([IMAGE, id]).args(args)
    }

    async fn round(&self, ground: &mut Ground, clock: &mut Clock, number: u32) -> Outcome<Option<u64>> {
        match self.work {
            Work::Exec => {
                let id = format!("e{number}");
                let exec = ctr().args(["task", "exec", "--exec-id", &id, CONTAINER, "/bin/true"]);
                clock.time(ground.run(&exec)).await?;
            }
            Work::Run => {
                let run = self.container(&["--rm"], &format!("r{number}"), &["/bin/true"]);
                clock.time(ground.run(&run)).await?;
            }
            Work::Diff => return self.diff(ground, clock).await,
            Work::Import => {
                ground.run(&ctr().args(["image", "rm", "--sync", IMAGE])).await?;
                self.lab.settle().await?;
                clock.time(ground.run(&import(ground.path("tree.oci.tar")))).await?;
            }
        }
        Ok(None)
    }

    async fn diff(&self, ground: &mut Ground, clock: &mut Clock) -> Outcome<Option<u64>> {
        let (listed, mount, made) =
            (ground.path("snapshots"), ground.path("mnt"), ground.path("diff.tar.gz"));
        ground.run(&ctr().args(["snapshot", "ls"]).out(&listed)).await?;
        let text = std::fs::read_to_string(&listed).map_err(|e| Failure::io("list snapshots", e))?;
        let base = committed(&text).ok_or_else(|| unable("ctr lists no snapshot of the image"))?;
        ground.run(&ctr().args(["snapshot", "prepare", SNAPSHOT, base])).await?;
        let script = "mkdir -p \"$1\" && eval \"$(ctr --address \"$2\" snapshot mounts \"$1\" \"$3\")\" && cp -a \"$4\" \"$1/work/\" && umount \"$1\"";
        let (tree, _) = self.lab.tree().await?;
        let words = [mount.as_os_str(), SOCKET.as_ref(), SNAPSHOT.as_ref(), tree.as_os_str()];
        ground.run(&Cmd::bash(script, words)).await?;
        self.lab.settle().await?;
        clock.time(ground.run(&ctr().args(["snapshot", "diff", SNAPSHOT]).out(&made))).await?;
        let size = std::fs::metadata(&made).ok().map(|meta| meta.len());
        ground.run(&ctr().args(["snapshot", "rm", SNAPSHOT])).await?;
        Ok(size)
    }
}

fn import(archive: PathBuf) -> Cmd {
    ctr().args(["image", "import"]).arg(archive)
}

/// The first snapshot that is the layer of an image.
fn committed(list: &str) -> Option<&str> {
    let line = list.lines().find(|line| line.trim_end().ends_with("Committed"))?;
    line.split_whitespace().next()
}

#[async_trait(?Send)]
impl Entrant for Containerd {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let ground = match &mut self.ground {
            Some(ground) => ground,
            none => none.insert(Ground::sheltered(self.kit.lab.fresh("containerd"))?),
        };
        if !self.ready {
            self.kit.prepare(ground).await?;
            self.ready = true;
        }
        self.rounds += 1;
        self.kit.round(ground, clock, self.rounds).await
    }

    async fn end(&mut self) {
        let Some(mut ground) = self.ground.take() else { return };
        if self.ready && self.kit.work == Work::Exec {
            let _ = ground.run(&ctr().args(["task", "rm", "-f", CONTAINER])).await;
        }
        ground.end().await;
        let _ = lab::remove(ground.dir().to_owned()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_of_the_image_is_found() {
        let list = "KEY      PARENT  KIND\nbench    sha256:5 Active    \nsha256:5         Committed \n";
        assert_eq!(committed(list), Some("sha256:5"));
        assert_eq!(committed("KEY PARENT KIND\n"), None);
    }
}
