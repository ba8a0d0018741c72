//! umoci: an OCI layout and runtime bundles, as root or rootless.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::super::lab::{self, Shared};
use super::super::race::{Clock, Entrant};
use super::command::{Cmd, Ground};
use crate::cli::Outcome;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// A layer of what changed in a bundle.
    Repack,
    /// A bundle of an image whose only layer is the tree.
    Unpack,
}

/// umoci.
pub(crate) struct Umoci {
    lab: Shared,
    work: Work,
    ground: Option<Ground>,
    rounds: u32,
}

impl Umoci {
    pub(super) fn new(lab: &Shared, work: Work) -> Self {
        Self { lab: Shared::clone(lab), work, ground: None, rounds: 0 }
    }

    /// A layout with an empty image, or with one of the tree.
    async fn prepare(&self) -> Outcome<Ground> {
        let mut ground = Ground::host(self.lab.fresh("umoci"))?;
        let layout = ground.path("oci");
        ground.run(&Cmd::new("umoci").args(["init", "--layout"]).arg(&layout)).await?;
        ground.run(&Cmd::new("umoci").args(["new", "--image"]).arg(image(&layout, "base"))).await?;
        if self.work == Work::Unpack {
            let add = Cmd::new("umoci").args(["raw", "add-layer", "--image"]).arg(image(&layout, "base"));
            ground.run(&add.arg(self.lab.tar().await?)).await?;
        }
        Ok(ground)
    }

    async fn repack(&self, ground: &mut Ground, clock: &mut Clock, bundle: &Path) -> Outcome<Option<u64>> {
        ground.run(&unpack(ground, bundle)).await?;
        let (tree, _) = self.lab.tree().await?;
        ground.run(&Cmd::new("cp").arg("-a").arg(tree.join(".")).arg(bundle.join("rootfs/tree"))).await?;
        self.lab.settle().await?;
        let made = image(&ground.path("oci"), &format!("made-{}", self.rounds));
        clock.time(ground.run(&Cmd::new("umoci").args(["repack", "--image"]).arg(&made).arg(bundle))).await?;
        let size = largest_blob(&ground.path("oci"));
        ground.run(&Cmd::new("umoci").args(["rm", "--image"]).arg(&made)).await?;
        ground.run(&Cmd::new("umoci").args(["gc", "--layout"]).arg(ground.path("oci"))).await?;
        Ok(size)
    }
}

fn image(layout: &Path, tag: &str) -> OsString {
    let mut image = layout.as_os_str().to_owned();
    image.push(":");
    image.push(tag);
    image
}

fn unpack(ground: &Ground, bundle: &Path) -> Cmd {
    let command = Cmd::new("umoci").arg("unpack");
    let command = if rustix::process::geteuid().is_root() { command } else { command.arg("--rootless") };
    command.arg("--image").arg(image(&ground.path("oci"), "base")).arg(bundle)
}

fn largest_blob(layout: &Path) -> Option<u64> {
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).ok()?;
    blobs.flatten().filter_map(|blob| blob.metadata().ok()).map(|meta| meta.len()).max()
}

#[async_trait(?Send)]
impl Entrant for Umoci {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let mut ground = match self.ground.take() {
            Some(ground) => ground,
            None => self.prepare().await?,
        };
        self.rounds += 1;
        let bundle: PathBuf = ground.path(&format!("bundle-{}", self.rounds));
        let outcome = match self.work {
            Work::Repack => self.repack(&mut ground, clock, &bundle).await,
            Work::Unpack => {
                self.lab.settle().await?;
                let command = unpack(&ground, &bundle);
                clock.time(ground.run(&command)).await.map(|()| None)
            }
        };
        lab::remove(bundle).await?;
        self.ground = Some(ground);
        outcome
    }

    async fn end(&mut self) {
        if let Some(ground) = self.ground.take() {
            let _ = lab::remove(ground.dir().to_owned()).await;
        }
    }
}
